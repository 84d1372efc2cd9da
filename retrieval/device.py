"""Where networks run, and in which precision."""

import contextlib
import ctypes
import functools
import sys

import torch

from retrieval.errors import ConfigError


def choose_device(name: str = "auto") -> torch.device:
    """The device called ``name``; "auto" is CUDA, else MPS, else the processor.

    Raises ConfigError where this machine does not have it.
    """
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if there[d]))
    if not there.get(name, False):
        usable = ", ".join(d for d in there if there[d])
        raise ConfigError(f"--device is {name!r}; this machine has {usable}")
    return torch.device(name)


def use_bf16(device: torch.device, precision: str = "auto") -> bool:
    """Whether networks train in bf16: on demand, or where the hardware computes faster in it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without these instructions bf16 on processors is slower than float32, by far.
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def in_float32(tensor: torch.Tensor) -> torch.autocast:
    """A context in which what is computed with ``tensor`` stays float32, whatever is set outside."""
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)


def exact_convolutions() -> contextlib.AbstractContextManager[None]:
    """A context in which CUDA convolves float32 as float32.

    By default it keeps 10 bits of each factor (TF32), and then a picture that is asked for lies 0.001
    from itself in the gallery.
    """
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, allow_tf32=False
    )
    return flags


def describe(device: torch.device, precision: str = "auto") -> str:
    """One line on what a training run uses, such as "cpu (2 threads), bf16, channels-last"."""
    if device.type == "cuda":
        name = f"cuda ({torch.cuda.get_device_name(device)})"
    elif device.type == "cpu":
        name = f"cpu ({torch.get_num_threads()} threads)"
    else:
        name = device.type
    return f"{name}, {'bf16' if use_bf16(device, precision) else 'fp32'}, channels-last"


@functools.cache
def keep_freed_memory() -> None:
    """Make the C library keep large blocks that are freed, for the next batch to use.

    Otherwise glibc hands them back to the system, and each batch faults the pages of its activations in
    again: a tenth to a quarter of the time on processors. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in MALLOC_OPTIONS.items():
            mallopt(option, value)


MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1, -2: 2**28}
"""By their numbers in malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD."""
