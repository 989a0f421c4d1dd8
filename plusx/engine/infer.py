"""The one inference path: evaluation in training, `evaluate` and `predict` all answer through it."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plusx.engine.metrics import Metrics
from plusx.engine.precision import keep_float32
from plusx.engine.step import Batch
from plusx.memory import keep_freed_memory


class EvalLoader(Protocol):
    """Every example of a split exactly once, in order."""

    @property
    def n(self) -> int:
        """Examples."""

    def __iter__(self) -> Iterator[Batch]: ...


class Images(NamedTuple):
    """A batch whose targets nobody knows."""

    images: Tensor  # float32 (N, C, H, W), normalised
    targets: Tensor  # int64 (N,), zeros
    ids: Tensor  # int64 (N,), positions in a list

    @classmethod
    def of(cls, images: Sequence[Tensor], ids: Sequence[int]) -> "Images":
        """From images of one shape and their positions."""
        return cls(torch.stack(list(images)), torch.zeros(len(ids), dtype=torch.int64), torch.tensor(ids))


def predict_logits(
    model: nn.Module, batches: Iterable[Batch], device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Answers to batches, computed in float32; leaves the model in evaluation mode.

    Yields:
        logits float32 (N, K), targets and ids of each batch, on the CPU.
    """
    keep_float32(device)
    keep_freed_memory()
    for batch in batches:
        model.eval()
        with torch.inference_mode():
            images = batch.images.to(device).contiguous(memory_format=torch.channels_last)
            logits = model(images).float().cpu()
        yield logits.clone(), batch.targets.cpu(), batch.ids  # a clone outside of it is an ordinary tensor


def measure(
    model: nn.Module, loader: EvalLoader, task: str, n_classes: int, device: torch.device | str = "cpu"
) -> Metrics:
    """Exact metrics of a model over every example of a loader."""
    metrics = Metrics(task, n_classes)
    for logits, targets, _ in predict_logits(model, loader, device):
        metrics.update(logits, targets)
    assert metrics.n == loader.n, f"the loader gave {metrics.n} of {loader.n} examples"
    return metrics


def predict_views(
    model: nn.Module, views: Sequence[Sequence[Tensor]], device: torch.device | str = "cpu", *, pixels: int
) -> Sequence[Tensor]:
    """Answers to several views of each of N images; views of one shape go through the network together.

    Arguments:
        model: images (N, C, H, W) -> logits (N, K).
        views: of each image, at least one; float32 (C, H, W), normalised, of any shapes.
        device: where the model answers.
        pixels: H * W * N of a forward pass; a view that is larger goes alone.

    Returns:
        of each image the logits (V, K) of its views, on the CPU.
    """
    flat = [view for one in views for view in one]
    parts = list(predict_logits(model, _alike(flat, pixels), device))
    order = torch.cat([ids for *_, ids in parts]).argsort()
    logits = torch.cat([logits for logits, *_ in parts])[order]
    return torch.split(logits, [len(one) for one in views])


def _alike(views: Sequence[Tensor], pixels: int) -> Iterator[Images]:
    """Batches of equal shapes; ids are positions in `views`."""
    shapes = defaultdict[torch.Size, list[int]](list)
    for i, view in enumerate(views):
        shapes[view.shape].append(i)
    for (_, height, width), ids in shapes.items():
        count = max(1, pixels // (height * width))
        for start in range(0, len(ids), count):
            chosen = ids[start : start + count]
            yield Images.of([views[i] for i in chosen], chosen)


def averaged(logits: Tensor, task: str) -> Tensor:
    """Logits of the mean of several answers' probabilities (section 3.4), in float64; one answer stays as it is.

    Added in logarithms, so that no probability is rounded to 0 or 1 and every loss is finite.

    Arguments:
        logits: (V, …, K) of V answers.
        task: "single": probabilities are the softmax over K; "multi": the sigmoid of each.

    Returns:
        (…, K), with the mean probabilities as its softmax, or sigmoid.
    """
    if len(logits) == 1:
        return logits[0]
    x = logits.double()
    if task == "multi":
        return F.logsigmoid(x).logsumexp(0) - F.logsigmoid(-x).logsumexp(0)
    return x.log_softmax(-1).logsumexp(0) - math.log(len(x))
