"""Networks without normalisation, with batch norm after the addition, and with bottlenecks for small images."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plusx.errors import DataError
from plusx.models import count_macs, count_params, create_model
from plusx.models.blocks import BasicBlock, BatchNorm, BlockStyle, Bottleneck, PreBasicBlock, PreBottleneck, Shift

WORDS = {"conv2d": "conv", "linear": "linear", "batch_norm": "norm", "relu": "relu", "add_": "add"}
BEFORE = ["conv", "norm", "relu", "conv", "norm", "add", "relu"]
AFTER = ["conv", "norm", "relu", "conv", "add", "norm", "relu"]


def images(n: int = 3, size: int = 16, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def live(model: nn.Module) -> nn.Module:
    """The model with every parameter and statistic of its norms drawn, in evaluation mode."""
    draw = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, BatchNorm | Shift):
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
    return model.eval()


class Recorder(TorchFunctionMode):
    """The operations that run, in order, as `WORDS`."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func.__name__ in WORDS:
            self.ran.append(WORDS[func.__name__])
        return func(*args, **(kwargs or {}))


def operations(module: nn.Module, x: Tensor) -> list[str]:
    with Recorder() as recorder, torch.no_grad():
        module.eval()(x)
    return recorder.ran


@pytest.mark.parametrize(("order", "wanted"), [(None, BEFORE), ("before", BEFORE), ("after", AFTER)])
def test_order_of_operations_in_a_block(order: str | None, wanted: list[str]) -> None:
    net = create_model("resnet14", 7, width=4, norm_order=order)
    assert operations(net.get_submodule("layer2.1"), images(2, 8, 8)) == wanted
    deep = create_model("resnet50", 7, width=4, norm_order=order)
    assert operations(deep.get_submodule("layer1.1"), images(2, 8, 16)) == ["conv", "norm", "relu", *wanted]
    fast = create_model("resnet11", 7, width=4, norm_order=order)
    assert operations(fast.get_submodule("layer1.1"), images(2, 8, 8)) == wanted
    full = create_model("resmlp-2x8", 7, norm_order=order)
    linear = ["linear" if word == "conv" else word for word in wanted]
    assert operations(full.get_submodule("layer1.1"), torch.randn(4, 8)) == linear


def test_a_projection_keeps_its_own_batch_norm() -> None:
    net = create_model("resnet14", 7, width=4, shortcut="B", norm_order="after")
    assert operations(net.get_submodule("layer2.0"), images(2, 8, 4)) == [
        "conv", "norm", "relu", "conv", "conv", "norm", "add", "norm", "relu",
    ]  # fmt: skip


def normed(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    parts = [state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *parts)


@pytest.mark.parametrize("stride", [1, 2])
def test_after_addition_equals_a_hand_written_basic_block(stride: int) -> None:
    block = live(BasicBlock(4, 4 * stride, stride, BlockStyle("B", norm_order="after")))
    s, x = block.state_dict(), images(2, 8, 4).relu()
    y = normed(F.conv2d(x, s["conv1.weight"], stride=stride, padding=1), s, "bn1").relu()
    shortcut = x if stride == 1 else normed(F.conv2d(x, s["downsample.0.weight"], stride=2), s, "downsample.1")
    y = normed(F.conv2d(y, s["conv2.weight"], padding=1) + shortcut, s, "bn2").relu()
    assert torch.equal(block(x), y)


def test_after_addition_equals_a_hand_written_bottleneck() -> None:
    block = live(Bottleneck(16, 4, 1, BlockStyle("B", "1x1", norm_order="after")))
    s, x = block.state_dict(), images(2, 8, 16).relu()
    y = normed(F.conv2d(x, s["conv1.weight"]), s, "bn1").relu()
    y = normed(F.conv2d(y, s["conv2.weight"], padding=1), s, "bn2").relu()
    assert torch.equal(block(x), normed(F.conv2d(y, s["conv3.weight"]) + x, s, "bn3").relu())


@pytest.mark.parametrize("block", [PreBasicBlock, PreBottleneck])
def test_a_pre_activation_block_equals_a_hand_written_one(block: type[PreBasicBlock] | type[PreBottleneck]) -> None:
    """A projection starts after the first batch norm and ReLU, and has no batch norm of its own."""
    made = live(block(4, 8, 2, BlockStyle("B", "3x3")))
    s, x = made.state_dict(), images(2, 8, 4)
    first = y = normed(x, s, "bn1").relu()
    if block is PreBottleneck:
        y = normed(F.conv2d(y, s["conv1.weight"]), s, "bn2").relu()
        y = normed(F.conv2d(y, s["conv2.weight"], stride=2, padding=1), s, "bn3").relu()
        y = F.conv2d(y, s["conv3.weight"])
    else:
        y = normed(F.conv2d(y, s["conv1.weight"], stride=2, padding=1), s, "bn2").relu()
        y = F.conv2d(y, s["conv2.weight"], padding=1)
    assert torch.equal(made(x), y + F.conv2d(first, s["downsample.0.weight"], stride=2))


def test_after_addition_equals_a_hand_written_fully_connected_block() -> None:
    block = live(create_model("resmlp-1x8", 7, norm_order="after").get_submodule("layer1.0"))
    s, x = block.state_dict(), torch.rand(5, 8)
    y = normed(x @ s["fc1.weight"].T, s, "bn1").relu()
    torch.testing.assert_close(block(x), normed(y @ s["fc2.weight"].T + x, s, "bn2").relu())


@pytest.mark.parametrize("name", ["resnet14", "resnet50", "resnet11", "resmlp-2x16"])
def test_the_order_changes_no_parameter(name: str) -> None:
    states = []
    for order in ("before", "after"):
        torch.manual_seed(0)
        states.append(create_model(name, 7, norm_order=order).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


NAMES = ["resnet8", "plain8", "preresnet8", "resnet50", "resnet50-d", "plain50", "preresnet50", "resnet11"]


@pytest.mark.parametrize("name", [*NAMES, "resmlp-2x16", "plainmlp-2x16"])
def test_without_norm_each_batch_norm_is_a_shift_of_its_name(name: str) -> None:
    torch.manual_seed(0)
    normal = create_model(name, 7, size=16)
    torch.manual_seed(0)
    bare = create_model(name, 7, size=16, norm="none")
    places = {key for key, module in normal.named_modules() if isinstance(module, BatchNorm)}
    assert {key for key, module in bare.named_modules() if isinstance(module, Shift)} == places
    assert not any(isinstance(module, BatchNorm) for module in bare.modules())
    gone = {f"{key}.{part}" for key in places for part in ("weight", "running_mean", "running_var")}
    gone |= {f"{key}.num_batches_tracked" for key in places}
    state = normal.state_dict()
    assert list(bare.state_dict()) == [key for key in state if key not in gone]
    assert all(torch.equal(state[key], tensor) for key, tensor in bare.state_dict().items())
    assert count_macs(bare, (3, 16, 16)) == count_macs(normal, (3, 16, 16))
    assert not any("norm" in word for word in operations(bare, images()))


@pytest.mark.parametrize("name", ["resnet8", "plain8"])
def test_without_norm_equals_a_hand_written_net(name: str) -> None:
    model = live(create_model(name, 7, width=4, norm="none"))
    s = model.state_dict()

    def layer(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        return F.conv2d(x, s[f"{conv}.weight"], s[f"{bn}.bias"], stride, padding=1)

    x = layer(images(), "conv1", "bn1").relu()
    for stage in (1, 2, 3):
        block, stride = f"layer{stage}.0", 1 if stage == 1 else 2
        y = layer(layer(x, f"{block}.conv1", f"{block}.bn1", stride).relu(), f"{block}.conv2", f"{block}.bn2")
        if name == "resnet8":
            y = y + (x if stage == 1 else torch.cat([x[:, :, ::2, ::2], 0 * x[:, :, ::2, ::2]], 1))
        x = y.relu()
    torch.testing.assert_close(model(images()), F.linear(x.mean((2, 3)), s["fc.weight"], s["fc.bias"]))


def test_without_norm_equals_a_hand_written_fully_connected_net() -> None:
    model = live(create_model("plainmlp-1x16", 7, size=16, norm="none"))
    s, x = model.state_dict(), images().flatten(1)
    for fc, bn in (("fc1", "bn1"), ("layer1.0.fc1", "layer1.0.bn1"), ("layer1.0.fc2", "layer1.0.bn2")):
        x = F.linear(x, s[f"{fc}.weight"], s[f"{bn}.bias"]).relu()
    torch.testing.assert_close(model(images()), F.linear(x, s["fc.weight"], s["fc.bias"]))


def test_a_shift_keeps_the_arithmetic_and_the_memory_format() -> None:
    shift = Shift(4)
    nn.init.ones_(shift.bias)
    x = images(2, 4, 4).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    assert shift(x).dtype == torch.bfloat16
    assert shift(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(shift(x), x + 1)


def test_without_norm_one_image_of_one_value_per_channel_trains() -> None:
    create_model("resnet8", 7, width=4, norm="none").train()(images(1, 4)).sum().backward()
    with pytest.raises(DataError, match="batch norm needs more"):
        create_model("resnet8", 7, width=4).train()(images(1, 4))


@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
@pytest.mark.parametrize("size", [16, 32])
def test_bottlenecks_suit_small_images(stride_in: str, size: int) -> None:
    model = create_model("resnet50", 10, stem="cifar", width=16, stride_in=stride_in)
    shapes = [tuple(f.shape[1:]) for f in model.forward_features(images(2, size)).values()]
    assert shapes == [(16, size, size), *((64 * 2**i, size // 2**i, size // 2**i) for i in range(4))]
    model(images(2, size)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert count_params(model) == 1_484_186
