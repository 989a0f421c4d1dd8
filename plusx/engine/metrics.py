"""Exact metrics: all counts are integers, so that batch size, order and number of processes cannot change them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15  # of the calibration error
UNIT = 1 << 24  # losses and confidences are summed as integers, in steps of 6e-8
LARGEST = 2.0**40  # of a loss; larger ones count as this, so that the sum over millions of examples fits
MAX_CONFUSION = 2000  # classes; above, the confusion matrix is left out


class Metrics:
    """Counts over examples.

    Arguments:
        task: "single" (one class an example) or "multi" (any number of labels).
        n_classes: K; None keeps the totals only, not the counts by class and by confidence.
        device: where the totals are kept.

    Attributes:
        totals: int64 (6,): examples, top-1 right, top-5 right, the fractions of losses in units, examples with a loss
            that is not finite, the whole parts of losses.
        confusion: int64 (K, K), rows are true classes; None for multi-label and for very many classes.
    """

    def __init__(self, task: str, n_classes: int | None = None, device: torch.device | str = "cpu") -> None:
        self.task = task
        self.totals = torch.zeros(6, dtype=torch.int64, device=device)
        self._classes = torch.zeros(3, n_classes or 0, dtype=torch.int64)  # right, predicted, true
        self._bins = torch.zeros(3, BINS, dtype=torch.int64)  # answers, right, confidence in units
        keep = task == "single" and n_classes is not None and n_classes <= MAX_CONFUSION
        self.confusion = torch.zeros(n_classes or 0, n_classes or 0, dtype=torch.int64) if keep else None

    def update(self, logits: Tensor, targets: Tensor, loss: Tensor | None = None) -> None:
        """Adds a batch.

        Arguments:
            logits: (N, K).
            targets: int64 (N,), or float (N, K): labels, or for task "single" shares of which the largest counts.
            loss: its mean loss where that is known; else the cross-entropy of each example is computed here.
        """
        logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        sound = logits.isfinite().all(1)
        if self.task == "multi":
            labels, predicted = targets > 0.5, logits > 0
            top1 = top5 = (labels == predicted).all(1) & sound
        else:
            labels = targets if targets.ndim == 1 else targets.argmax(1)
            rank = _rank(logits, labels)
            top1, top5 = (rank < 1) & sound, (rank < 5) & sound
        losses = _losses(logits, targets, self.task) if loss is None else loss.double() * len(logits)
        known = losses.isfinite()
        losses = losses.where(known, 0).clamp(max=LARGEST)
        units = (losses.frac() * UNIT).round().long()
        counts = (torch.ones_like(top1), top1, top5, units, ~known, losses.long())
        self.totals += torch.stack([count.sum() for count in counts])
        if self._classes.numel():
            self._add_details(logits, labels, sound)

    def _add_details(self, logits: Tensor, labels: Tensor, sound: Tensor) -> None:
        classes = self._classes.shape[1]
        if self.task == "multi":
            predicted = logits > 0
            hits = labels & predicted & sound[:, None]
            self._classes += torch.stack([hits.sum(0), predicted.sum(0), labels.sum(0)])
            sure = logits.double().abs().sigmoid().flatten()
            right = ((labels == predicted) & sound[:, None]).flatten()
        else:
            predicted = logits.argmax(1)
            right = (predicted == labels) & sound
            parts = (labels[right], predicted, labels)
            self._classes += torch.stack([part.bincount(minlength=classes) for part in parts])
            sure = logits.double().softmax(1).amax(1)
            if self.confusion is not None:
                self.confusion.view(-1).index_add_(0, labels * classes + predicted, torch.ones_like(labels))
        bins = (sure.nan_to_num() * BINS).long().clamp(max=BINS - 1)
        counts = (torch.ones_like(bins), right.long(), (sure.nan_to_num() * UNIT).round().long())
        for row, count in zip(self._bins, counts, strict=True):
            row.index_add_(0, bins, count)

    def merge(self, total: Callable[[Tensor], Tensor]) -> "Metrics":
        """Makes all counts those of every process; `total` sums a tensor over them in place."""
        for counts in (self.totals, self._classes, self._bins, self.confusion):
            if counts is not None and counts.numel():
                total(counts)
        return self

    @property
    def n(self) -> int:
        """Examples."""
        return int(self.totals[0])

    @property
    def correct(self) -> int:
        """Examples answered right: the class, or for multi-label the whole set of labels."""
        return int(self.totals[1])

    @property
    def correct5(self) -> int:
        """Examples whose class is among the first min(5, K); for multi-label, which has no ranking, as `correct`."""
        return int(self.totals[2])

    @property
    def top1(self) -> float:
        """Accuracy, 0..1."""
        return self.correct / max(self.n, 1)

    @property
    def top5(self) -> float:
        """Top-5 accuracy, 0..1."""
        return self.correct5 / max(self.n, 1)

    @property
    def loss(self) -> float:
        """Mean loss of an example; NaN when one of them was not finite, or there are none."""
        if self.totals[4] or not self.n:
            return float("nan")
        return (int(self.totals[5]) * UNIT + int(self.totals[3])) / UNIT / self.n

    @property
    def ece(self) -> float:
        """Expected calibration error over 15 bins of equal width, 0..1; for multi-label over every label's answer."""
        answers, right, sure = self._bins.tolist()
        off = sum(abs(r - s / UNIT) for r, s in zip(right, sure, strict=True))
        return float(off / max(sum(answers), 1))

    def to_dict(self) -> dict[str, Any]:
        """Counts and what is made of them, as JSON."""
        counts = {"n": self.n, "correct": self.correct, "correct5": self.correct5}
        return {**counts, "top1": self.top1, "top5": self.top5, "loss": self.loss}

    def per_class(self, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """`{name: {n, precision, recall, f1}}`; a fraction of nothing is 0."""
        rows = {}
        for name, right, predicted, true in zip(classes, *self._classes.tolist(), strict=True):
            rows[name] = {
                "n": true,
                "precision": right / max(predicted, 1),
                "recall": right / max(true, 1),
                "f1": 2 * right / max(predicted + true, 1),
            }
        return rows


def _rank(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one; of equal logits the lower class comes first."""
    own = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & lower)).sum(1)


def _losses(logits: Tensor, targets: Tensor, task: str) -> Tensor:
    """Each example's loss in float64, without label smoothing."""
    if task == "multi":
        return F.binary_cross_entropy_with_logits(logits.double(), targets.double(), reduction="none").mean(1)
    return F.cross_entropy(logits.double(), targets if targets.ndim == 1 else targets.double(), reduction="none")
