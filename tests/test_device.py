import pytest
import torch

from retrieval.device import choose_device, describe, use_bf16
from retrieval.errors import ConfigError


def pretend(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_fastest_there_is(monkeypatch, cuda: bool, mps: bool, expected: str) -> None:
    pretend(monkeypatch, cuda, mps)
    assert choose_device("auto").type == expected


def test_what_is_not_there_is_refused_naming_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, False, True)
    with pytest.raises(ConfigError, match="--device is 'cuda'; this machine has cpu, mps"):
        choose_device("cuda")


def test_bf16_is_taken_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert use_bf16(cpu, "auto") is has
        assert ("bf16" in describe(cpu)) is has
    assert use_bf16(cpu, "bf16")
    assert not use_bf16(cpu, "fp32")
    assert not use_bf16(torch.device("mps"), "auto")
