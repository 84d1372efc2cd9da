"""Maps of several scales of each backbone: their shapes, and what does not suit."""

import dataclasses
from itertools import pairwise

import pytest
import torch

from retrieval.backbones import FITS, build_backbone
from retrieval.detection.pyramid import Pyramid, run_stages, stage_names
from retrieval.errors import ConfigError
from retrieval.specs import DetectorSpec

SUITING = ["tiny", "fast-resnet", "resnet18", "resnet50", "densenet121", "vgg11", "vgg", "alexnet",
           "nin", "googlenet", "inception-v3"]  # fmt: skip


def spec_of(name: str, **options: object) -> DetectorSpec:
    narrow = {"width_factor": 0.0625} if name in FITS["width_factor"] else {}
    if name == "vgg":
        options = {"blocks": "1x32,2x64,1x64,1x64", **options}
    return DetectorSpec(
        **{"backbone": name, "width": 8, "image_size": 128, "classes": ("a",), **narrow, **options}
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", SUITING)
def test_maps_have_the_channels_and_sides_that_are_told(name: str, fused: bool) -> None:
    spec = spec_of(name)
    torch.manual_seed(0)
    backbone = build_backbone(spec)
    pyramid = Pyramid(backbone, spec, finest=8, coarser=3, fused=fused, width=16)
    maps = pyramid(backbone, torch.randn(2, 3, 128, 128))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, s, s) for c, s in zip(pyramid.channels, pyramid.sides, strict=True)
    ]
    assert pyramid.sides[0] <= 16
    assert list(pyramid.sides) == sorted(set(pyramid.sides), reverse=True)
    # The last map of the backbone is its own output, whatever it is made of.
    last = run_stages(backbone.eval(), torch.ones(1, 3, 128, 128), pyramid.names)[-1]
    torch.testing.assert_close(last, backbone(torch.ones(1, 3, 128, 128)))


@pytest.mark.parametrize("stem", ["small", "stock"])
@pytest.mark.parametrize("name", SUITING)
def test_stages_are_the_backbones_resolutions(name: str, stem: str) -> None:
    spec = spec_of(name, stem=stem)
    backbone = build_backbone(spec).to("meta").eval()
    picture = torch.empty(1, 3, 128, 128, device="meta")
    maps = run_stages(backbone, picture, stage_names(backbone, spec.backbone))
    sides = [m.shape[2] for m in maps]
    assert sides == sorted(set(sides), reverse=True)
    assert maps[-1].shape[1] == backbone.out_channels
    # Each map halves the one before; without borders a few positions more are lost.
    assert all(a / 2 - 2 <= b <= a / 2 + 1 for a, b in pairwise(sides))


def test_resnets_maps_are_of_4_to_32_pixels_a_position() -> None:
    spec = DetectorSpec(backbone="resnet18", image_size=256, classes=("a",))
    backbone = build_backbone(spec)
    pyramid = Pyramid(backbone, spec, finest=4)
    assert pyramid.channels == (64, 128, 256, 512)
    assert pyramid.sides == (64, 32, 16, 8)
    above = Pyramid(backbone, spec, finest=16, coarser=9, width=100)
    assert above.channels == (256, 512, 100, 100, 100)
    assert above.sides == (16, 8, 4, 2, 1)


def test_a_backbone_that_is_finer_than_wanted_gives_its_last_map() -> None:
    spec = spec_of("fast-resnet")
    backbone = build_backbone(spec)
    assert Pyramid(backbone, spec, finest=64).sides == (15,)


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_reach_all_above_and_what_is_taken_of_the_backbone(fused: bool) -> None:
    spec = spec_of("resnet18", width_factor=0.125)
    torch.manual_seed(0)
    backbone = build_backbone(spec)
    pyramid = Pyramid(backbone, spec, finest=8, coarser=2, fused=fused, width=8)
    sum(m.square().sum() for m in pyramid(backbone, torch.randn(2, 3, 128, 128))).backward()
    for part in (backbone, pyramid):
        assert [n for n, p in part.named_parameters() if p.grad is None] == []


def test_one_picture_trains_though_the_last_map_has_one_position() -> None:
    spec = spec_of("resnet18", image_size=64)
    backbone = build_backbone(spec)
    pyramid = Pyramid(backbone, spec, finest=8, coarser=5, width=8)
    maps = pyramid(backbone, torch.randn(1, 3, 64, 64))
    assert maps[-1].shape[2:] == (1, 1)
    assert torch.isfinite(maps[-1]).all()


def test_no_hooks_are_left_behind_even_after_an_error() -> None:
    spec = spec_of("resnet18")
    backbone = build_backbone(spec)
    with pytest.raises(RuntimeError):
        run_stages(backbone, torch.zeros(1, 5, 64, 64), ("layer1", ""))
    assert not any(m._forward_hooks for m in backbone.modules())


@pytest.mark.parametrize("name", ["softmax", "mlp", "lenet"])
def test_backbones_without_scales_are_refused_by_name(name: str) -> None:
    spec = spec_of(name)
    with pytest.raises(ConfigError, match=f"--backbone {name} does not suit.*resnet18.*vgg11"):
        Pyramid(build_backbone(spec), spec, finest=8)


def test_pictures_that_are_too_small_are_refused() -> None:
    spec = spec_of("inception-v3", image_size=64)
    with pytest.raises(ConfigError, match=r"--image-size is 64; the smallest.*107"):
        Pyramid(build_backbone(spec), spec, finest=8)


def test_each_detector_has_a_backbone_of_its_own_unless_one_is_named() -> None:
    assert DetectorSpec().with_backbone().backbone == "tiny"
    yolo = dataclasses.replace(DetectorSpec(), model="yolo")
    assert yolo.with_backbone().backbone == "resnet18"
    assert dataclasses.replace(yolo, backbone="vgg11").with_backbone().backbone == "vgg11"
