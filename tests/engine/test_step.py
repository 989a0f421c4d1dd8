"""One training step."""

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from plusx.engine.distributed import World
from plusx.engine.metrics import Metrics
from plusx.engine.optim import build_optimizer
from plusx.engine.step import NonFiniteError, criterion, train_step
from tests.engine.tiny import CLASSES, Batch, examples, net, tiny_config


def step(module: nn.Module, batch: Batch, task: str = "single", **changes: Any) -> tuple[float, Metrics]:
    config = tiny_config(**changes)
    running = Metrics(task)
    loss = train_step(module, build_optimizer(module, config.optim), batch, running, config, 1)
    return loss, running


def gradient(module: nn.Module) -> Tensor:
    return torch.cat([w.grad.flatten() for w in module.parameters() if w.grad is not None])


def test_micro_batches_give_the_gradient_of_the_whole_batch() -> None:
    # Batch norm and dropout see the micro-batch, so the comparison goes without them.
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, CLASSES))
    whole, parts = copy.deepcopy(plain), copy.deepcopy(plain)
    (loss, _), (split_loss, running) = step(whole, examples(10)), step(parts, examples(10), engine__accumulate=3)
    assert split_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(gradient(parts), gradient(whole), rtol=1e-5, atol=1e-6)
    assert running.n == 10


def test_gradients_are_shared_after_the_last_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[bool] = []

    def gathering(world: World, net: nn.Module, last: bool) -> AbstractContextManager[None]:
        shared.append(last)
        return nullcontext()

    monkeypatch.setattr(World, "gathering", gathering)
    step(net(), examples(8), engine__accumulate=3)
    assert shared == [False, False, True]


@pytest.mark.parametrize(("n", "accumulate"), [(9, 8), (3, 3), (2, 8), (16, 4), (5, 2)])
def test_batch_norm_never_sees_one_image(n: int, accumulate: int) -> None:
    sizes: list[int] = []
    module = net()
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    step(module, examples(n), engine__accumulate=accumulate)
    assert sum(sizes) == n
    assert min(sizes) >= 2
    assert len(sizes) == min(accumulate, max(1, n // 2))


def test_running_counts_are_those_of_the_batch() -> None:
    module = net(dropout=0.0)
    batch = examples(16)
    logits = copy.deepcopy(module).train()(batch.images.contiguous(memory_format=torch.channels_last))
    loss, running = step(module, batch)
    assert running.correct == int((logits.argmax(1) == batch.targets).sum())
    assert running.loss == pytest.approx(loss, abs=1e-7)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_mixes_no_devices(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device without values stands for a GPU; it has no autocast, and no sum of many tensors at once."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: [1.0] * tensor.numel())
    monkeypatch.setattr("plusx.engine.step.get_total_norm", lambda weights, **_: get_total_norm(weights))
    config, module = tiny_config(engine__accumulate=accumulate), net().to("meta")
    optimizer, running = build_optimizer(module, config.optim), Metrics("single", device="meta")
    for group in optimizer.param_groups:
        group["foreach"] = False
    batch = Batch(*(tensor.to("meta") for tensor in examples(8)))
    train_step(module, optimizer, batch._replace(ids=torch.arange(8)), running, config, 1)
    assert running.totals.is_meta
    assert all(state["momentum_buffer"].is_meta for state in optimizer.state.values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_pixels_stop_before_the_optimizer_and_name_the_example(value: float) -> None:
    module = net()
    before = [w.detach().clone() for w in module.parameters()]
    batch = examples(8)
    batch.images[5, 0, 3, 3] = value
    batch = batch._replace(ids=batch.ids + 100)
    message = r"step 1: the loss is nan; not finite are the pixels of 1 example \(ids 105\)\. Look at these examples\.$"
    with pytest.raises(NonFiniteError, match=message):
        step(module, batch)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize(("n", "more"), [(8, ""), (10, ", …")])
def test_a_non_finite_gradient_stops_too(n: int, more: str) -> None:
    module = net()
    module.fc.weight.register_hook(lambda g: g * math.inf)
    ids = rf"\(ids 0, 1, 2, 3, 4, 5, 6, 7{more}\)"
    message = rf"step 1: the gradient norm is .*, on a batch of {n} examples {ids}\. Lower optim"
    with pytest.raises(NonFiniteError, match=message) as caught:
        step(module, examples(n))
    assert caught.value.hint.endswith("in a new --out.")
    assert caught.value.ids == list(range(n))


def test_clipping_scales_to_the_norm() -> None:
    free, clipped = net(0.0), net(0.0)
    step(free, examples(8))
    step(clipped, examples(8), optim__clip_norm=0.01)
    assert float(gradient(free).norm()) > 0.01
    assert float(gradient(clipped).norm()) == pytest.approx(0.01, rel=1e-4)
    torch.testing.assert_close(gradient(clipped), gradient(free) * (0.01 / gradient(free).norm()), rtol=1e-4, atol=1e-8)


def test_losses() -> None:
    logits, targets = torch.randn(6, CLASSES), torch.arange(6) % CLASSES
    hot = F.one_hot(targets, CLASSES).float()
    assert torch.equal(criterion(logits, targets, "single", 0.1), F.cross_entropy(logits, targets, label_smoothing=0.1))
    torch.testing.assert_close(criterion(logits, hot, "single", 0.1), criterion(logits, targets, "single", 0.1))
    assert torch.equal(criterion(logits, hot, "multi"), F.binary_cross_entropy_with_logits(logits, hot))
    smooth = F.binary_cross_entropy_with_logits(logits, hot * 0.9 + 0.05)
    torch.testing.assert_close(criterion(logits, hot, "multi", 0.1), smooth)


def test_weights_of_classes_multiply_their_losses() -> None:
    logits, targets = torch.randn(6, CLASSES), torch.arange(6) % CLASSES
    hot, weights = F.one_hot(targets, CLASSES).float(), torch.arange(1.0, CLASSES + 1)
    each = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(criterion(logits, targets, "single", 0, weights), (weights[targets] * each).mean())
    soft = criterion(logits, hot, "single", 0.1, weights)  # as after mixup
    torch.testing.assert_close(criterion(logits, targets, "single", 0.1, weights), soft)
    labels = -(weights * hot * F.logsigmoid(logits) + (1 - hot) * F.logsigmoid(-logits))
    torch.testing.assert_close(criterion(logits, hot, "multi", 0, weights), labels.mean())


def test_micro_batches_weigh_classes_as_the_whole_batch() -> None:
    weights, found = torch.arange(1.0, CLASSES + 1), []
    for accumulate in (1, 3):
        module, config = net(0.0).eval(), tiny_config(engine__accumulate=accumulate)  # no statistics of parts
        optimizer = build_optimizer(module, config.optim)
        loss = train_step(module, optimizer, examples(9), Metrics("single"), config, 1, class_weights=weights)
        found.append((loss, gradient(module)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


def test_bf16_computes_convolutions_in_bf16_and_the_loss_in_float32() -> None:
    seen: list[torch.dtype] = []
    module = net()
    module.conv2.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    loss, _ = step(module, examples(8), engine__precision="bf16")
    assert seen == [torch.bfloat16]
    assert loss != float(torch.tensor(loss).bfloat16())
    assert all(w.dtype == w.grad.dtype == torch.float32 for w in module.parameters())


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format_is_the_configured_one(channels_last: bool) -> None:
    formats: list[bool] = []
    module = net()
    module.register_forward_pre_hook(
        lambda _, inputs: formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    step(module, examples(8), engine__channels_last=channels_last)
    assert formats == [channels_last]
