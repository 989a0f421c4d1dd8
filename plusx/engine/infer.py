"""The one inference path: evaluation in training, `evaluate` and `predict` all answer through it."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from plusx.engine.metrics import Metrics
from plusx.engine.step import Batch


class EvalLoader(Protocol):
    """Every example of a split exactly once, in order."""

    @property
    def n(self) -> int:
        """Examples."""

    def __iter__(self) -> Iterator[Batch]: ...


def predict_logits(
    model: nn.Module, batches: Iterable[Batch], device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Answers to batches, computed in float32; leaves the model in evaluation mode.

    Yields:
        logits float32 (N, K), targets and ids of each batch, on the CPU.
    """
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
