"""Preconditioned gradients: the algebra against a slow reference, what is left alone, and what they are for."""

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD

from plusx.engine import precondition
from plusx.engine.distributed import World
from plusx.engine.precondition import Preconditioner, patch_covariance
from plusx.engine.stop import Stopped
from plusx.errors import ConfigError, TrainingError
from tests.engine.tiny import CLOCKS, Train, at_batch, net, run, tiny_config


def patches(layer: nn.Conv2d, images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every patch that the layer multiplies, one a row, cut out one by one."""
    (rows, columns), (down, right) = layer.kernel_size, layer.stride
    assert isinstance(layer.padding[0], int)
    above, left = int(layer.padding[0]), int(layer.padding[1])
    padded = np.pad(images, ((0, 0), (0, 0), (above, above), (left, left)))
    return np.array(
        [
            image[:, y : y + rows, x : x + columns].ravel()
            for image in padded
            for y in range(0, image.shape[1] - rows + 1, down)
            for x in range(0, image.shape[2] - columns + 1, right)
        ]
    )


LAYERS = {
    "3x3": nn.Conv2d(3, 4, 3, padding=1),
    "3x3, stride 2": nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "1x1, stride 2": nn.Conv2d(3, 4, 1, stride=2),
    "oblong": nn.Conv2d(3, 4, (3, 1), stride=(1, 2), padding=(1, 0)),
    "5x5 without padding": nn.Conv2d(3, 4, 5),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_covariance_is_that_of_all_patches(layer: nn.Conv2d, layout: torch.memory_format) -> None:
    images = 3 + torch.randn(8, 3, 9, 7)
    wanted = np.cov(patches(layer, images.double().numpy()).T, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = patch_covariance(layer, images.contiguous(memory_format=layout))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-5)


def test_covariance_of_large_layers_is_that_of_a_sample() -> None:
    layer, images = nn.Conv2d(2, 4, 3, padding=1), torch.randn(200, 2, 20, 20)
    images[:, 1] += 2 * images[:, 0]
    torch.manual_seed(0)
    found, again = patch_covariance(layer, images), patch_covariance(layer, images)
    assert not torch.equal(found, again)  # of other patches
    torch.manual_seed(0)
    assert torch.equal(found, patch_covariance(layer, images))
    inner = patches(nn.Conv2d(2, 4, 3, padding=1), images[:16].double().numpy())
    np.testing.assert_allclose(found.numpy(), np.cov(inner.T), atol=0.45)


def descended(damping: float) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """The tiny network after one step at rate 1: the inputs of its convolutions, and what its weights were."""
    module = net(dropout=0.0).train()
    inputs: dict[str, Tensor] = {}
    for name in ("conv1", "conv2"):
        layer = module.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0].detach()}))
    optimizer = SGD(module.parameters(), lr=1.0)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    with Preconditioner(module, optimizer, damping).watching(0):
        module(torch.randn(6, 3, 8, 8) * torch.tensor([1, 5, 0.2]).view(3, 1, 1)).square().sum().backward()
        gradients = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
        optimizer.step()
    return module, inputs, {name: before[name] - gradients[name] for name in before}


@pytest.mark.parametrize("damping", [0.1, 1e-3])
def test_a_step_is_the_gradient_times_the_inverse_covariance_and_as_long(damping: float) -> None:
    module, inputs, plainly = descended(damping)
    before = dict(net(dropout=0.0).named_parameters())
    for name, now in module.named_parameters():
        start = before[name].detach()
        if not name.startswith("conv"):
            assert torch.equal(now, plainly[name])
            continue
        layer = module.get_submodule(name.removesuffix(".weight"))
        assert isinstance(layer, nn.Conv2d)
        covariance = np.cov(patches(layer, inputs[name.removesuffix(".weight")].double().numpy()).T, bias=True)
        damped = covariance + damping * covariance.trace() / len(covariance) * np.eye(len(covariance))
        gradient = (start - plainly[name]).double().flatten(1).numpy()
        wanted = gradient @ np.linalg.inv(damped)
        wanted *= np.linalg.norm(gradient) / np.linalg.norm(wanted)
        step = (start - now.detach()).double().flatten(1).numpy()
        assert np.linalg.norm(step - wanted) < 2e-4 * np.linalg.norm(wanted)
        assert np.linalg.norm(step - gradient) > 0.1 * np.linalg.norm(gradient)  # not what it was


def remaining_loss(lr: float, damping: float | None) -> float:
    """After 200 steps of learning the difference of two channels that differ by little; it begins at 1."""
    torch.manual_seed(0)
    shared, apart = torch.randn(64, 1, 6, 6), torch.randn(64, 1, 6, 6)
    images = torch.cat([10 * shared + 0.1 * apart, 10 * shared - 0.1 * apart], 1)
    layer = nn.Conv2d(2, 1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = SGD(layer.parameters(), lr=lr)
    preconditioner = Preconditioner(layer, optimizer, damping) if damping else None
    loss = torch.zeros(())
    for step in range(200):
        optimizer.zero_grad()
        with preconditioner.watching(step) if preconditioner else nullcontext():
            loss = (layer(images) - apart).square().mean()
            loss.backward()
            optimizer.step()
    return loss.item()


def test_what_correlated_inputs_hide_is_learnt() -> None:
    assert 0.85 < remaining_loss(4e-3, None) < 1  # near the highest rate that does not diverge:
    assert not remaining_loss(1e-2, None) < 1e3  # or NaN
    assert remaining_loss(5.0, 1e-5) < 0.01


def test_a_covariance_without_inverse_is_a_clear_error() -> None:
    layer = nn.Conv2d(2, 1, 1)
    optimizer = SGD(layer.parameters(), lr=0.1)
    with Preconditioner(layer, optimizer, 1e-12).watching(0):
        layer(torch.tensor([1.0, -1.0]).repeat(64, 2, 6, 3)).sum().backward()  # a covariance of ones, exact on any CPU
        with pytest.raises(TrainingError, match=r"no inverse"):
            optimizer.step()
    assert "covariance" not in optimizer.state[layer.weight]


def test_covariances_are_a_mean_of_the_first_looks_then_a_moving_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precondition, "EVERY", 3)
    layer = nn.Conv2d(1, 2, 1, bias=False)
    optimizer = SGD(layer.parameters(), lr=0.0)
    preconditioner = Preconditioner(layer, optimizer, 0.1)
    wanted = 0.0
    for step in range(3 * 14):
        size = 1.0 + step
        with preconditioner.watching(step):
            layer(size * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)).sum().backward()
            optimizer.step()
        if step % 3 == 0:
            looks = step // 3 + 1
            wanted += (size**2 - wanted) / min(looks, 10)
        assert float(optimizer.state[layer.weight]["covariance"]) == pytest.approx(wanted, rel=1e-5)


def test_what_has_no_inputs_or_no_gradient_is_left_alone() -> None:
    grouped, frozen, dead = nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    frozen.weight.requires_grad_(False)
    module = nn.Sequential(grouped, frozen, dead)
    optimizer = SGD([grouped.weight, dead.weight], lr=0.1)
    preconditioner = Preconditioner(module, optimizer, 0.1)
    with preconditioner.watching(0):
        module(torch.zeros(2, 4, 9, 9)).sum().backward()
        wanted = grouped.weight.grad.clone() if grouped.weight.grad is not None else None
        optimizer.step()
    assert wanted is not None
    assert torch.equal(grouped.weight.grad, wanted) if grouped.weight.grad is not None else False
    assert dead.weight.isfinite().all()
    assert [w is dead.weight for w in optimizer.state] == [True]
    with preconditioner.watching(1):
        optimizer.zero_grad(set_to_none=True)
        optimizer.step()
    assert dead.weight.isfinite().all()


def test_a_step_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    train = Train()
    trainer, _, _ = run(tmp_path, tiny_config(optim__precondition="inputs"), train)
    train.data.images[:] = float("nan")
    with pytest.raises(TrainingError):
        trainer.fit()
    assert all("covariance" not in state for state in trainer.optimizer.state.values())
    assert all(not layer._forward_pre_hooks for layer in trainer.module.modules())


def test_memory_that_ends_in_the_second_look_leaves_the_state_before_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precondition, "EVERY", 4)
    config = tiny_config(optim__precondition="inputs")
    straight = run(tmp_path / "straight", config)[0]
    straight.fit()
    cut = run(tmp_path / "cut", config)[0]
    looks = iter(range(1, 100))

    def inverted(own: Preconditioner, covariance: Tensor, real: Any = Preconditioner._inverted) -> Tensor:
        if next(looks) == 4:  # two layers, twice
            raise torch.OutOfMemoryError("CUDA")
        return real(own, covariance)

    with monkeypatch.context() as patched:
        patched.setattr(Preconditioner, "_inverted", inverted)
        with pytest.raises(TrainingError, match="step 5: out of memory"):
            cut.fit()
    resumed = run(tmp_path / "cut", config)[0]
    result = resumed.fit()
    assert [row | dict.fromkeys(CLOCKS, 0) for row in result.history] == [
        row | dict.fromkeys(CLOCKS, 0) for row in straight.at.rows
    ]
    final = resumed.module.state_dict()
    assert all(torch.equal(value, final[name]) for name, value in straight.module.state_dict().items())


def test_covariances_are_in_checkpoints_and_the_averaged_network_carries_no_hooks(tmp_path: Path) -> None:
    config = tiny_config(optim__precondition="inputs", engine__ema=0.9)
    trainer, _, _ = run(tmp_path, config, Train(before=at_batch(7, lambda: (_ for _ in ()).throw(Stopped("", 15)))))
    with suppress(Stopped):
        trainer.fit()
    again, _, _ = run(tmp_path, config)
    again.fit()
    for module in (again.module, again.average.module if again.average else None):
        assert module is not None
        assert all(not layer._forward_pre_hooks for layer in module.modules())
    saved = [again.optimizer.state[w]["covariance"] for w in (again.module.conv1.weight, again.module.conv2.weight)]
    assert [len(covariance) for covariance in saved] == [27, 72]


def test_ranks_share_the_mean_of_their_covariances(monkeypatch: pytest.MonkeyPatch) -> None:
    world, shared = World(), []

    def mean(tensors: list[Tensor]) -> None:
        shared.append([tensor.clone() for tensor in tensors])
        for tensor in tensors:
            tensor.mul_(2)

    monkeypatch.setattr(world, "mean", mean)
    module = net().train()
    optimizer = SGD(module.parameters(), lr=0.1)
    with Preconditioner(module, optimizer, 0.1, world).watching(0):
        module(torch.randn(4, 3, 8, 8)).sum().backward()
        optimizer.step()
    assert [len(tensor) for tensor in shared[0]] == [27, 72]
    for tensor, weight in zip(shared[0], (module.conv1.weight, module.conv2.weight), strict=True):
        assert torch.equal(optimizer.state[weight]["covariance"], 2 * tensor)


@pytest.mark.parametrize("changes", [{"optim__name": "adamw"}, {"engine__compile": True}], ids=str)
def test_what_it_does_not_go_with_is_told(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"optim\.precondition: needs"):
        tiny_config(optim__precondition="inputs", **changes)
