"""Each network by name: the contract, gradients, torchvision's numbers, and what is refused."""

from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision import models

from retrieval.backbones import FITS, NAMES, PUBLISHED, Backbone, build_backbone
from retrieval.backbones.efficientnet_lite import SamePadding
from retrieval.errors import CheckpointError, ConfigError
from retrieval.specs import NetworkSpec

NARROW = dict.fromkeys(FITS["width_factor"], 0.125) | {"lenet": 1.0}
ALL = [name for name in NAMES if name != "vgg"]
FAMILIES = ["fast-resnet", "resnet18", "resnet50", "densenet121", "vgg11", "vgg", "alexnet", "nin",
            "googlenet", "inception-v3", "efficientnet-lite0", "lenet", "tiny", "softmax"]  # fmt: skip


def spec_of(name: str, **options: object) -> NetworkSpec:
    """The network made as narrow as it can be."""
    narrow = {"width_factor": NARROW[name]} if name in NARROW else {}
    if name == "vgg":
        options = {"blocks": "1x16,2x32,1x32", **options}
    return NetworkSpec(**{"backbone": name, "width": 8, **narrow, **options})


@pytest.mark.parametrize("name", [*ALL, "vgg"])
def test_grey_pictures_of_28_pixels_give_each_parameter_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    trunk = build_backbone(spec_of(name, channels=1, dropout=0.0))
    assert isinstance(trunk, Backbone)
    images = torch.randn(2, 1, 28, 28, requires_grad=True)
    features = trunk(images)
    assert features.shape[:2] == (2, trunk.out_channels)
    assert min(features.shape[2:]) >= 2
    features.square().sum().backward()
    without = [n for n, p in trunk.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()


@pytest.mark.parametrize("stem", ["small", "stock"])
@pytest.mark.parametrize("name", FAMILIES)
def test_smallest_is_the_least_side_with_a_map_of_two_by_two(name: str, stem: str) -> None:
    trunk = build_backbone(spec_of(name, stem=stem)).eval()

    @torch.no_grad()
    def side(size: int) -> int:
        try:
            return trunk(torch.zeros(1, 3, size, size)).shape[2]
        except RuntimeError:  # a filter larger than what is left
            return 0

    assert side(trunk.smallest) >= 2
    assert side(trunk.smallest - 1) < 2
    if stem == "small":
        assert trunk.smallest <= 28
        assert side(32) >= 2
    size = 128 if name == "inception-v3" else 256
    assert abs(size / trunk.stride - side(size)) <= 3


CASES = [
    ("fast-resnet", "small"),
    ("resnet18", "small"),
    ("resnet18", "stock"),
    ("resnet50", "small"),
    ("efficientnet-lite0", "small"),
    ("efficientnet-lite0", "stock"),
]


@pytest.mark.parametrize(("name", "stem"), CASES)
def test_backbones_keep_their_contract(name: str, stem: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(NetworkSpec(backbone=name, width=8, stem=stem))
    assert isinstance(backbone, Backbone)
    side = 64 if stem == "stock" else 32
    features = backbone(torch.randn(2, 3, side, side))
    assert features.shape[:2] == (2, backbone.out_channels)
    assert min(features.shape[2:]) >= 2
    assert abs(side / backbone.stride - features.shape[2]) <= 1
    features.square().sum().backward()
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize(("name", "stem"), [*CASES, ("resnet50", "stock")])
def test_maps_have_the_size_that_the_contract_names(name: str, stem: str) -> None:
    with torch.device("cpu" if name == "fast-resnet" else "meta"):  # meta: shapes without sums
        backbone = build_backbone(NetworkSpec(backbone=name, width=8, stem=stem))
        smallest, stride = backbone.smallest, backbone.stride
        for height, width in ((smallest, smallest), (2 * stride + 1, 5 * stride), (97, 64)):
            shape = backbone(torch.empty(2, 3, height, width)).shape
            sides = (height, width)
            if name == "fast-resnet":
                expected = [(side - 1) // stride for side in sides]
            else:
                expected = [-(-side // stride) for side in sides]
            assert shape == (2, backbone.out_channels, *expected)
        below = backbone(torch.empty(2, 3, smallest - 1, smallest - 1)).shape
        assert below[2:] == (1, 1)


@pytest.mark.parametrize(("side", "stride", "length"), [(3, 2, 6), (3, 2, 7), (5, 2, 8), (5, 1, 3)])
def test_borders_lie_as_tensorflow_lays_them(side: int, stride: int, length: int) -> None:
    """A map of ⌈length / stride⌉, and of a border that cannot be halved the greater part behind."""
    torch.manual_seed(0)
    layer = SamePadding(1, 1, (1, side), (1, stride), bias=False)
    line, weights = torch.randn(length), layer.weight.detach().flatten()
    places = -(-length // stride)
    before = max((places - 1) * stride + side - length, 0) // 2
    expected = [
        sum(
            float(line[p * stride - before + n] * weights[n])
            for n in range(side) if 0 <= p * stride - before + n < length
        )
        for p in range(places)
    ]  # fmt: skip
    found = layer(line.view(1, 1, 1, length)).flatten().tolist()
    assert found == pytest.approx(expected, abs=1e-6)


HEADS = ("fc.", "classifier.", "aux", "AuxLogits.")


@pytest.mark.parametrize("name", PUBLISHED)
def test_stock_parameters_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours = build_backbone(NetworkSpec(backbone=name, stem="stock"))
        extra = {"init_weights": False} if "inception" in name or "google" in name else {}
        theirs = models.get_model(name.replace("-", "_"), weights=None, **extra)
    expected = sorted(
        tuple(p.shape) for n, p in theirs.named_parameters() if not n.startswith(HEADS)
    )
    assert sorted(tuple(p.shape) for p in ours.parameters()) == expected


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "densenet121", "resnet18"])
def test_torchvisions_weights_give_torchvisions_features(name: str, tmp_path) -> None:
    torch.manual_seed(0)
    extra = {"init_weights": False} if name == "googlenet" else {}
    theirs = models.get_model(name, weights=None, **extra).eval()
    seen: list[torch.Tensor] = []
    pool = None if name == "densenet121" else theirs.avgpool
    if pool is not None:
        pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    file = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), file)
    ours = build_backbone(NetworkSpec(backbone=name, stem="stock"), str(file)).eval()
    images = torch.randn(1, 3, 64, 64) if name != "alexnet" else torch.randn(1, 3, 95, 95)
    with torch.no_grad():
        theirs(images)
        if pool is None:
            seen.append(nn.functional.relu(theirs.features(images)))
        torch.testing.assert_close(ours(images), seen[0])


def count(name: str, **options: object) -> int:
    with torch.device("meta"):
        trunk = build_backbone(NetworkSpec(backbone=name, **options))
    return sum(p.numel() for p in trunk.parameters())


def test_parameters_are_the_papers_where_the_form_is_the_same() -> None:
    # LeNet-5 as its common form today: 61,706 with hidden layers of 120 and 84 and ten classes.
    head = (5 * 5 * 16 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert count("lenet", channels=1) + head == 61_706
    # Network in network for CIFAR-10: 966,986, the last 1×1 convolution included.
    assert count("nin") + (192 * 10 + 10) == 966_986


def test_batch_norm_takes_the_place_of_biases() -> None:
    for name in FITS["batch_norm"]:
        spec = spec_of(name, batch_norm=True)
        layers = [m for m in build_backbone(spec).modules() if not list(m.children())]
        convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
        assert all(c.bias is None for c in convolutions)
        assert sum(isinstance(m, nn.BatchNorm2d) for m in layers) == len(convolutions)
    plain = build_backbone(spec_of("lenet")).modules()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain)


@pytest.mark.parametrize(("name", "kind"), [("relu", nn.ReLU), ("sigmoid", nn.Sigmoid)])
def test_the_activation_is_a_choice(name: str, kind: type) -> None:
    for network in ("lenet", "alexnet", "vgg", "nin"):
        layers = list(build_backbone(spec_of(network, activation=name)).modules())
        convolutions = sum(isinstance(m, nn.Conv2d) for m in layers)
        assert sum(isinstance(m, kind) for m in layers) == convolutions


def test_any_vgg_is_made_from_a_list() -> None:
    ours = build_backbone(NetworkSpec(backbone="vgg", blocks="1x64,1x128,2x256,2x512,2x512"))
    named = build_backbone(NetworkSpec(backbone="vgg11"))
    assert [p.shape for p in ours.parameters()] == [p.shape for p in named.parameters()]
    for wrong in ("", "2", "2x", "0x64", "2x-3", "axb", "1x2x3"):
        with pytest.raises(ConfigError, match="CONVOLUTIONSxCHANNELS"):
            build_backbone(NetworkSpec(backbone="vgg", blocks=wrong))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet19"}, "fast-resnet, resnet18.*lenet.*mlp"),
        ({"backbone": "resnet18", "batch_norm": True}, "--batch-norm does not go.*lenet, alexnet"),
        ({"backbone": "fast-resnet", "width_factor": 0.5}, "--width-factor does not go"),
        ({"backbone": "vgg11", "blocks": "1x8"}, "--blocks does not go with --backbone vgg11"),
        ({"backbone": "googlenet", "activation": "tanh"}, "--activation does not go"),
        ({"backbone": "lenet", "channels": 2}, "--channels is 2; it can be 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_backbone(NetworkSpec(**options))


@pytest.mark.parametrize(
    "options", [{"channels": 1}, {"width_factor": 0.5}, {"batch_norm": True}, {"stem": "small"}]
)
def test_weights_go_with_the_published_form_alone(options: dict) -> None:
    spec = NetworkSpec(**{"backbone": "vgg11", "stem": "stock", **options})
    with pytest.raises(ConfigError, match="--weights imagenet"):
        build_backbone(spec, "imagenet")


def test_weights_that_cannot_be_downloaded_say_where_they_are(monkeypatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    for name in ("resnet18", "inception-v3", "densenet161"):
        with pytest.raises(
            CheckpointError, match=r"no network.*https://.*put the file into .*checkpoints"
        ):
            build_backbone(NetworkSpec(backbone=name, stem="stock"), "imagenet")
