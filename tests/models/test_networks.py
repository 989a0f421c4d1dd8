"""How the networks compute: order of layers, shortcuts, stems, stage outputs, initialisers, rebuilding."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from plusx.errors import ConfigError, DataError
from plusx.models import Network, create_model, list_models, set_head, whiten_stem
from plusx.models.blocks import BasicBlock, BlockStyle, Bottleneck, ZeroPad, make_shortcut
from plusx.models.names import FAMILIES

SMALL = [
    ("resnet8", {"width": 8}),
    ("resnet8", {"width": 8, "shortcut": "B"}),
    ("resnet8", {"width": 8, "shortcut": "C"}),
    ("resnet8", {"width": 8, "stem": "imagenet"}),
    ("resnet9", {"width": 8}),
    ("resnet11", {"width": 8}),
    ("plain8", {"width": 8}),
    ("preresnet8", {"width": 8}),
    ("preresnet8", {"width": 8, "shortcut": "C"}),
    ("resnet18", {"width": 8, "stem": "cifar"}),
    ("resnet50", {"width": 4}),
    ("resnet50", {"width": 4, "shortcut": "A"}),
    ("resnet50-v1.5", {"width": 4}),
    ("resnet50-d", {"width": 4}),
    ("plain50", {"width": 4}),
    ("plain50-d", {"width": 4}),
    ("preresnet50", {"width": 4}),
    ("resmlp-2x16", {"size": 24}),
    ("plainmlp-2x16", {"size": 24}),
    ("resnet50", {"width": 4, "stem": "cifar", "norm_order": "after"}),
    ("resnet8", {"width": 8, "shortcut": "C", "norm": "none"}),
    ("resnet11", {"width": 8, "norm_order": "after"}),
    ("preresnet8", {"width": 8, "norm": "none"}),
    ("resmlp-2x16", {"size": 24, "norm_order": "after"}),
    ("plainmlp-2x16", {"size": 24, "norm": "none"}),
]
small = pytest.mark.parametrize(("name", "options"), SMALL)


def images(n: int = 3, size: int = 24, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


@small
def test_arch_rebuilds_the_network(name: str, options: dict[str, object]) -> None:
    model = create_model(name, 7, init="xavier", **options)
    again = create_model(**json.loads(json.dumps(model.arch)))
    again.load_state_dict(model.state_dict())
    assert again.arch == model.arch
    assert str(again) == str(model)
    assert torch.equal(again.eval()(images()), model.eval()(images()))


@small
def test_stage_outputs_lead_to_the_logits(name: str, options: dict[str, object]) -> None:
    model = create_model(name, 7, **options).eval()
    features = model.forward_features(images())
    assert list(features) == ["stem", *model.stages]
    assert torch.equal(model.head(features[model.stages[-1]]), model(images()))
    assert model(images()).shape == (3, 7)


def test_stage_shapes() -> None:
    shapes = {
        k: tuple(v.shape[1:]) for k, v in create_model("resnet50", width=8).forward_features(images(2, 64)).items()
    }
    assert shapes == {
        "stem": (8, 16, 16),
        "layer1": (32, 16, 16),
        "layer2": (64, 8, 8),
        "layer3": (128, 4, 4),
        "layer4": (256, 2, 2),
    }
    shapes = {k: tuple(v.shape[1:]) for k, v in create_model("resnet8").forward_features(images(2, 32)).items()}
    assert shapes == {"stem": (16, 32, 32), "layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8)}
    shapes = {k: tuple(v.shape[1:]) for k, v in create_model("resnet11").forward_features(images(2, 30)).items()}
    assert shapes == {"stem": (32, 30, 30), "layer1": (64, 15, 15), "layer2": (128, 8, 8), "layer3": (256, 4, 4)}


@small
def test_overwriting_activations_keeps_the_gradients(name: str, options: dict[str, object]) -> None:
    model = create_model(name, 7, **options)
    safe = copy.deepcopy(model)
    for module in safe.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    for network in (model, safe):
        network(images()).square().sum().backward()
    for (key, a), (_, b) in zip(model.named_parameters(), safe.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), key


@pytest.mark.parametrize(
    "name", ["resnet8", "plain8", "resnet50", "resnet50-v1.5", "resnet50-d", "plain50", "resmlp-2x16"]
)
def test_batch_norm_follows_each_convolution_and_comes_before_the_activation(name: str) -> None:
    model = create_model(name, 7, **({"size": 24} if "mlp" in name else {"width": 8})).eval()
    ran: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d | nn.ReLU):
            module.register_forward_hook(lambda module, _, __: ran.append(module))
    model(images())
    assert ran.pop() is model.fc
    layers = [i for i, module in enumerate(ran) if isinstance(module, nn.Conv2d | nn.Linear)]
    assert all(isinstance(ran[i + 1], nn.BatchNorm2d | nn.BatchNorm1d) for i in layers)
    assert all(not isinstance(ran[i - 1], nn.Conv2d | nn.Linear) for i, m in enumerate(ran) if isinstance(m, nn.ReLU))
    assert sum(isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) for module in ran) == len(layers)


def test_option_a_is_a_strided_identity_with_zero_channels() -> None:
    for size in (8, 7, 1):
        x = images(2, size, 4).requires_grad_()
        y = ZeroPad(3, 2)(x)
        want = torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 3, (size + 1) // 2, (size + 1) // 2)], 1)
        assert torch.equal(y, want)
        weights = torch.randn_like(want)
        (got,) = torch.autograd.grad((y * weights).sum(), x)
        (expected,) = torch.autograd.grad((want * weights).sum(), x)
        assert torch.equal(got, expected)
    assert not list(ZeroPad(3, 2).parameters())


def test_shortcut_options() -> None:
    for option, same, changed in (
        ("A", type(None), ZeroPad),
        ("B", type(None), nn.Sequential),
        (None, type(None), type(None)),
    ):
        assert isinstance(make_shortcut(8, 8, 1, BlockStyle(option)), same)
        assert isinstance(make_shortcut(8, 16, 2, BlockStyle(option)), changed)
    assert isinstance(make_shortcut(8, 8, 1, BlockStyle("C")), nn.Sequential)
    assert list(make_shortcut(8, 16, 2, BlockStyle("B")).state_dict())[:2] == ["0.weight", "1.weight"]


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_is_its_branch_plus_its_input(block: type[BasicBlock] | type[Bottleneck]) -> None:
    x = images(2, 6, 4 * block.expansion).relu()
    residual = block(4 * block.expansion, 4, 1, BlockStyle("B", "1x1")).eval()
    plain = block(4 * block.expansion, 4, 1, BlockStyle(None, "1x1")).eval()
    plain.load_state_dict(residual.state_dict())
    assert torch.equal(residual(x), (residual.branch(x) + x).relu())
    assert torch.equal(plain(x), residual.branch(x).relu())


def test_pre_activation_keeps_the_shortcut_clean() -> None:
    model = create_model("preresnet20", 7, width=8).eval()
    x = -images(2, 8, 8).abs()
    block = model.get_submodule("layer1.1")
    nn.init.zeros_(block.get_parameter("conv2.weight"))
    assert torch.equal(block(x), x)  # no ReLU after the addition
    assert model.get_submodule("layer1.0").bn1 is None  # the stem's batch norm and ReLU are its own
    projected = create_model("preresnet20", 7, shortcut="B").get_submodule("layer2.0.downsample")
    assert [type(module) for module in projected] == [nn.Conv2d]


def test_stride_placement() -> None:
    for name, conv1, conv2 in (
        ("resnet50", 2, 1),
        ("resnet50-v1.5", 1, 2),
        ("preresnet50", 2, 1),
        ("resnet50-d", 1, 2),
    ):
        block = create_model(name, 7, width=4).get_submodule("layer2.0")
        assert (block.conv1.stride[0], block.conv2.stride[0]) == (conv1, conv2)
    moved = create_model("resnet50", 7, width=4, stride_in="3x3")
    assert str(moved) == str(create_model("resnet50-v1.5", 7, width=4))


@pytest.mark.parametrize("size", [1, 2, 5, 33])
def test_any_image_size(size: int) -> None:
    for name in ("resnet8", "resnet18", "resnet50-d", "preresnet18"):
        model = create_model(name, 7, in_channels=1, width=4)
        assert model(images(2, size, 1)).shape == (2, 7)
        assert model.eval()(images(1, size, 1)).shape == (1, 7)


def test_images_that_do_not_fit_are_refused_in_words() -> None:
    model = create_model("resnet8", 7, width=4)
    with pytest.raises(DataError, match=r"\(2, 1, 8, 8\), expected \(N, 3, H, W\)"):
        model(images(2, 8, 1))
    with pytest.raises(DataError, match="expected"):
        model.forward_features(images(2, 0))
    with pytest.raises(DataError, match="one image of 4x4 px"):
        model.train()(images(1, 4))
    assert model.train()(images(1, 5)).shape == (1, 7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert model(images(1, 4)).shape == (1, 7)  # frozen batch norm needs no second value
    with pytest.raises(DataError, match="got images of 24x24 px, expected 32x32"):
        create_model("resmlp-2x16", 7)(images())


@pytest.mark.parametrize(("name", "size"), [("resnet8", 4), ("resnet18-d", 32), ("resnet9", 8), ("resmlp-2x16", 24)])
def test_one_image_that_ends_as_one_value_is_refused_in_training(name: str, size: int) -> None:
    mlp = name.startswith("resmlp")
    model = create_model(name, 7, **({"size": size} if mlp else {"width": 4})).train()
    with pytest.raises(DataError, match=f"one image of {size}x{size} px"):
        model(images(1, size))
    if not mlp:
        assert model(images(1, size + 1)).shape == (1, 7)


def test_initialisers() -> None:
    torch.manual_seed(0)
    weight = {
        init: create_model("resnet18", 7, init=init).get_parameter("layer3.0.conv1.weight")
        for init in ("he", "he-fan-in", "xavier")
    }
    fan_in, fan_out = 128 * 9, 256 * 9
    for init, variance in (("he", 2 / fan_out), ("he-fan-in", 2 / fan_in), ("xavier", 2 / (fan_in + fan_out))):
        assert weight[init].var().item() == pytest.approx(variance, rel=0.02)
    model = create_model("resmlp-2x256", 7)
    assert model.get_parameter("layer1.0.fc1.weight").var().item() == pytest.approx(2 / 256, rel=0.03)
    assert not model.fc.bias.any()
    assert model.fc.weight.abs().max() <= 256**-0.5
    torch.manual_seed(3)
    a = create_model("resnet8", 7)
    torch.manual_seed(3)
    b = create_model("resnet8", 7)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize(("name", "options"), [("resnet14", {}), ("resnet50", {"width": 4}), ("resmlp-2x16", {})])
def test_zero_init_starts_blocks_as_their_shortcuts(name: str, options: dict[str, int]) -> None:
    model = create_model(name, 7, zero_init_last=True, **options).eval()
    block = list(model.get_submodule("layer1").children())[1]
    x = images(2, 4, block.expansion * options.get("width", 16)).relu()
    x = x.mean((2, 3)) if "mlp" in name else x
    assert torch.equal(block(x), x)
    assert not block.branch(x).any()


def test_set_head_keeps_the_body() -> None:
    model = create_model("resnet8", 10, width=8)
    body = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith(model.head_name)}
    set_head(model, 3)
    assert model.eval()(images()).shape == (3, 3)
    assert model.arch["num_classes"] == 3
    assert all(torch.equal(model.state_dict()[key], value) for key, value in body.items())
    assert str(create_model(**model.arch)) == str(model)
    with pytest.raises(ConfigError, match="num_classes"):
        set_head(model, 0)


@pytest.mark.parametrize("init", ["he", "xavier"])
def test_a_new_head_starts_as_the_first_did(init: str) -> None:
    model = create_model("resnet8", 10, width=64, init=init).double()
    set_head(model, 1000)
    assert model.fc.weight.dtype == torch.float64
    assert (model.fc.weight.abs().max() <= 256**-0.5) == (init == "he")
    assert not model.fc.bias.any()


def test_numbers_may_be_numpys() -> None:
    model = create_model("resnet8", np.int64(7), width=np.int32(4))  # type: ignore[arg-type]
    set_head(model, np.uint8(3))  # type: ignore[arg-type]
    assert json.loads(json.dumps(model.arch)) == create_model("resnet8", 3, width=4).arch


@pytest.mark.parametrize(("name", "options"), SMALL[::5])
def test_the_graph_compiles_whole(name: str, options: dict[str, object]) -> None:
    torch.compiler.reset()
    model = create_model(name, 7, **options).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), model(images()))


@pytest.mark.parametrize(("name", "options"), [*SMALL, ("resnet8", {"width": 8, "whiten_input": True})])
def test_tools_can_follow_the_network(name: str, options: dict[str, object]) -> None:
    model = create_model(name, 7, **options).eval()
    last = model.stages[-1]
    with torch.no_grad():
        assert torch.equal(torch.fx.symbolic_trace(model)(images()), model(images()))
        extracted = create_feature_extractor(model, [last])(images())[last]
        assert torch.equal(extracted, model.forward_features(images())[last])


@small
def test_bf16_and_channels_last(name: str, options: dict[str, object]) -> None:
    model = create_model(name, 7, **options).to(memory_format=torch.channels_last)
    x = images(4).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        features = model.forward_features(x)
        F.cross_entropy(model(x).float(), torch.tensor([0, 1, 2, 3])).backward()
    maps = [f for f in features.values() if f.dim() == 4]
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in maps)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_names_resolve() -> None:
    for name in list_models():
        with torch.device("meta"):
            model = create_model(name, 2)
        assert isinstance(model, Network)
    assert create_model("resnet50-cifar", 2, width=4).arch["shortcut"] == "A"
    assert len(create_model("resnet50-cifar", 2, width=4).stages) == 3
    assert len(create_model("resnet50", 2, width=4).stages) == 4
    assert len(create_model("plain26", 2, width=4).get_submodule("layer1")) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet19", r"6n\+2 .* 18, 34, 50, 101, 152\. Did you mean resnet18 or resnet20\?"),
        ("plain9", "plain8 or plain14"),
        ("resnet2", "resnet8"),
        ("resnet999999", "a depth"),
        ("resnet-50", "resnet50"),
        ("ResNet50", "resnet50"),
        ("resnet18-cifar", "model.stem=cifar"),
        ("resnet20-d", "resnet20"),
        ("resnet34-v1.5", "50, 101, 152"),
        ("resmlp8", "resmlp-8x256"),
        ("vgg16", f"a name that starts with {', '.join(FAMILIES)}"),
        ("", "a name that starts with"),
    ],
)
def test_an_unknown_name_says_what_is_allowed(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        create_model(name)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet20", {"shortcut": "D", "init": "zero"}, "model.shortcut: got 'D', expected one of A, B, C; model.init"),
        ("resnet20", {"stride_in": "3x3"}, "model.stride_in: got '3x3', but resnet20 does not have bottleneck"),
        ("plain20", {"shortcut": "A"}, "model.shortcut"),
        ("plain20", {"zero_init_last": True}, "model.zero_init_last"),
        ("preresnet20", {"zero_init_last": True}, "model.zero_init_last"),
        ("resnet20", {"norm": "layer"}, "model.norm: got 'layer', expected one of batch, none"),
        ("resnet20", {"norm_order": "last"}, "model.norm_order: got 'last', expected one of before, after"),
        ("plain20", {"norm_order": "after"}, "model.norm_order: got 'after', but plain20 does not have residual"),
        ("preresnet20", {"norm_order": "before"}, "model.norm_order: got 'before', but preresnet20 does not have"),
        ("plainmlp-2x16", {"norm_order": "after"}, "model.norm_order"),
        ("resnet20", {"norm": "none", "norm_order": "after"}, "norm_order: got 'after', but model.norm=none leaves no"),
        ("resnet20", {"norm": "none", "zero_init_last": True}, "zero_init_last: got True, but with model.norm=none no"),
        ("resnet11", {"norm_order": "after", "zero_init_last": True}, "zero_init_last: .* model.norm_order=after no"),
        ("resnet20", {"width": 0}, "model.width: got 0"),
        ("resnet20", {"num_classes": 0, "in_channels": 0}, "model.num_classes: got 0.*model.in_channels: got 0"),
        ("resmlp-8x256", {"width": 8, "stem": "cifar"}, "model.width.*model.stem"),
        ("resmlp-8x256", {"size": 0}, "model.size: got 0"),
        ("resnet50-d", {"shortcut": "A"}, "averages before it projects"),
    ],
)
def test_options_a_network_does_not_have_are_refused(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        create_model(name, **options)


def test_whitened_stem_undoes_the_correlation_of_neighbouring_pixels() -> None:
    scenes = torch.nn.functional.avg_pool2d(images(400, 20), 5, stride=1)
    network = create_model("resnet11", width=32)
    before = network.conv1.weight.detach().clone()
    whiten_stem(network, scenes)
    weight = network.conv1.weight.detach()
    assert torch.equal(weight[0::2], -weight[1::2])
    # The patches that lie wholly inside; the 16 strongest of 27 directions.
    found = torch.nn.functional.conv2d(scenes, weight[::2]).transpose(0, 1).flatten(1)
    second = found @ found.T / found.shape[1]
    assert (second.diagonal() > 0.8).all()
    assert (second.diagonal() < 1.3).all()
    assert (second - second.diag().diag()).abs().max() < 0.15
    plain = torch.nn.functional.conv2d(scenes, before[::2]).transpose(0, 1).flatten(1)
    assert torch.corrcoef(plain).fill_diagonal_(0).abs().max() > 0.5


def test_whitening_leaves_filters_beyond_the_pairs_alone() -> None:
    network = create_model("resnet9", in_channels=1, width=32)
    before = network.conv1.weight.detach().clone()
    whiten_stem(network, images(20, channels=1))
    assert torch.equal(network.conv1.weight[18:], before[18:])
    assert not torch.equal(network.conv1.weight[16:18], before[16:18])


@pytest.mark.parametrize("name", ["resmlp-2x16", "resnet50-d"])
def test_only_one_convolution_can_be_whitened(name: str) -> None:
    with pytest.raises(ConfigError, match=f"model.whiten_stem: got True, but the stem of {name}"):
        whiten_stem(create_model(name, 3, size=24), images())
