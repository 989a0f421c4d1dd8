"""One training step: the gradients of a batch, checked before the optimizer moves anything."""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from plusx.config import Config
from plusx.engine.distributed import ALONE, World
from plusx.engine.metrics import Metrics
from plusx.errors import LOWER, DivergedError
from plusx.text import plural

SHOWN = 8  # example ids in a message


class Batch(Protocol):
    """What a loader yields."""

    @property
    def images(self) -> Tensor:
        """float32 (N, C, H, W), normalised."""

    @property
    def targets(self) -> Tensor:
        """int64 (N,) classes, or float32 (N, K): several labels, or shares of classes after mixing."""

    @property
    def ids(self) -> Tensor:
        """int64 (N,) on the CPU: each example's index in its split."""


class TrainBatch(Batch, Protocol):
    """This process's part of a step's batch."""

    @property
    def total(self) -> int:
        """Examples of the step over all processes."""


class NonFiniteError(DivergedError):
    """A loss or gradient that is NaN or infinite.

    Attributes:
        step: the step that was not made; the first is 1.
        ids: the examples to look at.
    """

    def __init__(self, message: str, step: int, ids: list[int], hint: str = LOWER) -> None:
        super().__init__(message, hint)
        self.step = step
        self.ids = ids


def train_step(
    net: nn.Module,
    optimizer: Optimizer,
    batch: TrainBatch,
    running: Metrics,
    config: Config,
    step: int,
    world: World = ALONE,
    class_weights: Tensor | None = None,
) -> float:
    """Moves the weights by one batch, adds the counts of all processes to `running` and returns the mean loss.

    The first step is 1. The loss, and what it does to the weights, are those of the whole batch on every rank.
    `class_weights` are those of `criterion`.

    Raises:
        NonFiniteError: before the optimizer moves; weights and optimizer are as they were.
    """
    optimizer.zero_grad(set_to_none=True)
    logits, mean = _gradients(net, batch, config, running.task, world, class_weights)
    counts = Metrics(running.task, device=mean.device)
    counts.update(logits, batch.targets, mean)
    summed = world.total(torch.cat([mean[None] * (len(batch.ids) / batch.total), counts.totals.double()]))
    weights = [w for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
    norm = get_total_norm([w.grad for w in weights], foreach=True)
    value, length = torch.stack([summed[0], norm]).tolist()  # the one wait for the device in a step
    if not (math.isfinite(value) and math.isfinite(length)):
        here = math.isfinite(value) or not mean.isfinite()  # if not, the loss is another rank's
        raise _non_finite(batch, value, length, step) if here else world.lost()
    if config.optim.clip_norm is not None:
        clip_grads_with_norm_(weights, config.optim.clip_norm, norm, foreach=True)
    optimizer.step()
    running.totals += summed[1:].long()
    return float(value)


def _gradients(
    net: nn.Module, batch: TrainBatch, config: Config, task: str, world: World, class_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Leaves the gradients of the whole batch on every rank.

    Returns:
        logits (N, K) and mean loss of this process's part.
    """
    size, engine = len(batch.ids), config.engine
    layout = torch.channels_last if engine.channels_last else torch.contiguous_format
    # As many on every rank, and no micro-batch of one image: batch norm could not normalise it.
    parts = min(engine.accumulate, max(1, batch.total // (2 * world.size)))
    outputs, mean = [], torch.zeros((), device=batch.images.device)
    pairs = zip(batch.images.tensor_split(parts), batch.targets.tensor_split(parts), strict=True)
    for part, (images, targets) in enumerate(pairs, 1):
        with world.gathering(net, last=part == parts):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=engine.precision == "bf16"):
                logits = net(images.contiguous(memory_format=layout))
            loss = criterion(logits.float(), targets, task, config.optim.label_smoothing, class_weights)
            # DistributedDataParallel takes the mean of ranks, which share the batch in unequal parts.
            (loss * (len(images) / batch.total * world.size)).backward()  # type: ignore[no-untyped-call]
        outputs.append(logits.detach())
        mean += loss.detach() * (len(images) / size)
    return torch.cat(outputs), mean


def criterion(
    logits: Tensor, targets: Tensor, task: str, smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Mean loss of logits (N, K): cross-entropy, or binary cross-entropy over every label for task "multi".

    `class_weights` (K,) multiply the loss of each class's examples; for "multi" that of the labels that are there.
    """
    if task == "multi":
        smooth = targets * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=class_weights)
    if class_weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    # A sum over examples: PyTorch's mean is over weights, which parts of a batch do not share.
    return F.cross_entropy(logits, targets, class_weights, reduction="sum", label_smoothing=smoothing) / len(logits)


def _non_finite(batch: Batch, loss: float, norm: float, step: int) -> NonFiniteError:
    """Names the examples whose pixels are not finite, or else the whole batch."""
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
    odd = ~batch.images.isfinite().flatten(1).all(1).cpu()
    ids: list[int] = batch.ids[odd if odd.any() else slice(None)].tolist()
    which = "; not finite are the pixels of" if odd.any() else ", on a batch of"
    shown = ", ".join(map(str, ids[:SHOWN])) + (", …" if len(ids) > SHOWN else "")
    message = f"step {step}: {what}{which} {plural('example', len(ids))} (ids {shown})."
    return NonFiniteError(message, step, ids, "Look at these examples." if odd.any() else LOWER)
