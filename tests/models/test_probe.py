"""Responses, gradients and dropped blocks, each against a computation by hand."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plusx.errors import ConfigError
from plusx.models import (
    Network,
    create_model,
    droppable_blocks,
    gradient_norms,
    layer_responses,
    without_block,
)
from plusx.models.blocks import BasicBlock, PreBasicBlock
from plusx.models.resnet import ResNet

KINDS = [
    ("resnet14", {"width": 4}),
    ("resnet14", {"width": 4, "shortcut": "B", "norm_order": "after"}),
    ("plain14", {"width": 4, "norm": "none"}),
    ("preresnet14", {"width": 4, "shortcut": "B"}),
    ("resnet11", {"width": 4}),
    ("resnet50-d", {"width": 4}),
    ("preresnet50", {"width": 4}),
    ("resmlp-2x16", {"size": 16}),
]
kinds = pytest.mark.parametrize(("name", "options"), KINDS)


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def network(name: str, options: dict[str, object]) -> Network:
    """A network whose norms have seen data and whose scales and shifts are not at their start."""
    torch.manual_seed(0)
    model = create_model(name, 5, **options)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += torch.rand_like(parameter)
    with torch.no_grad():
        model.train()(images())
    return model


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Everything that a network holds is the same before and after."""

    def content() -> tuple[list[object], ...]:
        modules = list(model.named_modules())
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for _, m in modules]
        grads = [p.grad for p in model.parameters()]
        return [n for n, _ in modules], [id(m) for _, m in modules], [m.training for _, m in modules], hooks, grads

    before, state = content(), {key: tensor.clone() for key, tensor in model.state_dict().items()}
    yield
    assert content() == before
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in state.items())


def std(x: Tensor) -> float:
    return ((x.double() - x.double().mean()) ** 2).mean().sqrt().item()


@pytest.mark.parametrize("norm_order", ["before", "after"])
def test_responses_equal_a_hand_computation(norm_order: str) -> None:
    model = network("resnet8", {"width": 4, "norm_order": norm_order}).eval()
    s = model.state_dict()

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(x, s[f"{name}.weight"], stride=stride, padding=1)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, *(s[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))

    x = norm(conv(images(), "conv1"), "bn1")
    wanted = {"conv1": std(x)}
    x = x.relu()
    for stage in (1, 2, 3):
        block = f"layer{stage}.0"
        y = norm(conv(x, f"{block}.conv1", 1 if stage == 1 else 2), f"{block}.bn1")
        wanted[f"{block}.conv1"] = std(y)
        y = conv(y.relu(), f"{block}.conv2")
        y = norm(y, f"{block}.bn2") if norm_order == "before" else y
        wanted[f"{block}.conv2"] = std(y)
        y = y + (x if stage == 1 else torch.cat([x[:, :, ::2, ::2], 0 * x[:, :, ::2, ::2]], 1))
        x = (y if norm_order == "before" else norm(y, f"{block}.bn2")).relu()
    found = layer_responses(model, images())
    assert list(found) == list(wanted)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_responses_of_a_bottleneck_are_those_of_its_3x3_layer() -> None:
    model = network("resnet50", {"width": 4}).eval()
    found = layer_responses(model, images())
    assert list(found) == [f"layer{i + 1}.{j}.conv2" for i, blocks in enumerate((3, 4, 6, 3)) for j in range(blocks)]
    block, x = model.get_submodule("layer1.0"), model.stem(images())
    assert found["layer1.0.conv2"] == pytest.approx(std(block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))))


def test_responses_of_other_networks() -> None:
    model = network("resmlp-2x16", {"size": 16}).eval()
    found = layer_responses(model, images())
    assert list(found) == ["fc1", *(f"layer1.{i}.fc{j}" for i in (0, 1) for j in (1, 2))]
    assert found["fc1"] == pytest.approx(std(model.bn1(model.fc1(images().flatten(1)))))
    pooled = network("resnet11", {"width": 4}).eval()
    first, x = pooled.get_submodule("layer1.0"), pooled.stem(images())
    assert layer_responses(pooled, images())["layer1.0.conv"] == pytest.approx(std(first.bn(first.pool(first.conv(x)))))
    bare = network("plain8", {"width": 4, "norm": "none"}).eval()
    assert layer_responses(bare, images())["conv1"] == pytest.approx(std(bare.bn1(bare.conv1(images()))))
    pre = network("preresnet8", {"width": 4}).eval()
    block, x = pre.get_submodule("layer1.0"), pre.stem(images())
    found = layer_responses(pre, images())
    y = block.bn2(block.conv1(x))
    assert found["layer1.0.conv1"] == pytest.approx(std(y))
    assert found["layer1.0.conv2"] == pytest.approx(std(block.conv2(y.relu())))


@kinds
def test_responses_leave_the_network_as_it_was(name: str, options: dict[str, object]) -> None:
    model = network(name, options)
    next(model.get_submodule("layer1").children()).eval()  # a network may be in both modes at once
    with unchanged(model):
        found = layer_responses(model, images())
        with torch.inference_mode():
            assert layer_responses(model, images()) == found
    hook = model.fc.register_forward_hook(lambda *_: 1 / 0)
    with unchanged(model), pytest.raises(ZeroDivisionError):
        layer_responses(model, images())
    hook.remove()
    assert found == layer_responses(model.eval(), images())


@kinds
def test_gradient_norms_equal_autograd(name: str, options: dict[str, object]) -> None:
    model = network(name, options)
    assert gradient_norms(model) == {}
    ran: list[str] = []
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    hooks = [m.register_forward_hook(lambda *_, n=n: ran.append(f"{n}.weight")) for n, m in layers.items()]
    loss = F.cross_entropy(model(images()), torch.tensor([0, 1, 2, 3]))
    for hook in hooks:
        hook.remove()
    weights = [model.get_parameter(key) for key in ran]
    grads = torch.autograd.grad(loss, weights, retain_graph=True)
    loss.backward()
    found, relative = gradient_norms(model), gradient_norms(model, relative=True)
    assert list(found) == list(relative) == ran
    for key, weight, grad in zip(ran, weights, grads, strict=True):
        assert found[key] == pytest.approx(grad.square().sum().sqrt().item(), rel=1e-5)
        assert relative[key] == pytest.approx((grad.norm() / weight.norm()).item(), rel=1e-5)
    weights[1].grad = None
    assert list(gradient_norms(model)) == [ran[0], *ran[2:]]


def test_vanished_gradients_are_still_measured() -> None:
    model = create_model("plain8", 5, width=4)
    weight = model.get_parameter("conv1.weight")
    weight.grad = torch.full_like(weight, 1e-30)
    assert gradient_norms(model) == {"conv1.weight": pytest.approx(1e-30 * weight.numel() ** 0.5, rel=1e-5, abs=0)}


@pytest.mark.parametrize(("block", "shortcut"), [(BasicBlock, "A"), (BasicBlock, None), (PreBasicBlock, "B")])
def test_dropping_blocks_equals_a_network_without_them(
    block: type[BasicBlock] | type[PreBasicBlock], shortcut: str | None
) -> None:
    torch.manual_seed(0)
    ends = {"num_classes": 5, "in_channels": 3, "width": 4, "stem": "cifar", "shortcut": shortcut}
    model, rest = ResNet(block, (3, 2, 3), **ends), ResNet(block, (2, 1, 2), **ends)
    with torch.no_grad():
        model.train()(images())
    names = {"layer1.2": "layer1.1", "layer3.2": "layer3.1"}  # what follows a dropped block moves up
    state = {names.get(key[:8], key[:8]) + key[8:]: t for key, t in model.state_dict().items() if key[7:8] != "1"}
    rest.load_state_dict(state)
    dropped = ("layer1.1", "layer2.1", "layer3.1")
    with torch.no_grad(), unchanged(model.eval()):
        whole, alone = model(images()), rest.eval()(images())
        assert not torch.allclose(whole, alone)
        with ExitStack() as stack:
            for name in dropped:
                stack.enter_context(without_block(model, name))
            assert torch.equal(model(images()), alone)
        assert torch.equal(model(images()), whole)


def test_dropping_a_block_leaves_its_shortcut() -> None:
    model = network("resnet14", {"width": 4}).eval()
    block = model.get_submodule("layer2.1")
    with without_block(model, "layer2.1"):
        dropped = model(images())
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)
    assert torch.equal(model(images()), dropped)


@kinds
def test_droppable_blocks_keep_the_shape_and_the_network(name: str, options: dict[str, object]) -> None:
    model = network(name, options)
    names = droppable_blocks(model)
    assert names
    for block in names[::3]:
        with unchanged(model):
            with without_block(model, block):
                model.eval()(images())
                model.train()
                assert block not in droppable_blocks(model)
            with pytest.raises(ZeroDivisionError), without_block(model, block):
                raise ZeroDivisionError
        model(images())


def test_which_blocks_can_be_dropped() -> None:
    assert droppable_blocks(create_model("resnet14", 5)) == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
    assert droppable_blocks(create_model("plain14", 5)) == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
    assert droppable_blocks(create_model("resnet14", 5, shortcut="C")) == []
    deep = [f"layer{i + 1}.{j}" for i, blocks in enumerate((3, 4, 6, 3)) for j in range(1, blocks)]
    assert droppable_blocks(create_model("resnet50", 5, width=4)) == deep
    assert droppable_blocks(create_model("plain50", 5, width=4)) == deep
    assert droppable_blocks(create_model("resnet11", 5)) == ["layer1.1", "layer2.1", "layer3.1"]
    assert droppable_blocks(create_model("plainmlp-2x16", 5)) == ["layer1.0", "layer1.1"]


@pytest.mark.parametrize("name", ["layer2.0", "layer1", "layer9.0", "conv1", "", "layer1.0.conv1"])
def test_other_blocks_are_refused(name: str) -> None:
    model = create_model("resnet14", 5, width=4)
    with (
        unchanged(model),
        pytest.raises(ConfigError, match=f"block: got '{name}', expected one that keeps"),
        without_block(model, name),
    ):
        pass
