"""Exact metrics, against torchmetrics and scikit-learn."""

import json
import math

import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_accuracy,
    multiclass_calibration_error,
)

from plusx.engine.metrics import Metrics

K = 7
NAMES = [f"c{k}" for k in range(K)]


def answers(n: int = 500) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, K - 1, (n,), generator=generator)  # the last class has no example
    logits = torch.randn(n, K, generator=generator)
    logits[torch.arange(n), targets] += 1
    return logits, targets


def filled(logits: Tensor, targets: Tensor, task: str = "single") -> Metrics:
    metrics = Metrics(task, K)
    metrics.update(logits, targets)
    return metrics


def test_single_label_equals_the_references() -> None:
    logits, targets = answers()
    metrics = filled(logits, targets)
    assert metrics.n == 500
    for k, own in ((1, metrics.top1), (5, metrics.top5)):
        wanted = multiclass_accuracy(logits, targets, K, average="micro", top_k=k)
        assert own == pytest.approx(float(wanted), abs=1e-7)
    assert metrics.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, targets)), abs=1e-6)
    wanted = multiclass_calibration_error(logits.double(), targets, K, n_bins=15)
    assert metrics.ece == pytest.approx(float(wanted), abs=1e-6)
    assert metrics.confusion is not None
    assert (metrics.confusion.numpy() == confusion_matrix(targets, logits.argmax(1), labels=range(K))).all()
    columns = precision_recall_fscore_support(targets, logits.argmax(1), labels=range(K), zero_division=0)
    for k, row in enumerate(metrics.per_class(NAMES).values()):
        wanted_row = [float(column[k]) for column in columns]
        assert [row["precision"], row["recall"], row["f1"], row["n"]] == pytest.approx(wanted_row)


def test_multi_label_equals_the_references() -> None:
    logits, _ = answers()
    targets = (logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    metrics = filled(logits, targets, "multi")
    predicted = logits > 0
    assert metrics.correct == metrics.correct5 == int((predicted == targets.bool()).all(1).sum()) > 0
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert metrics.loss == pytest.approx(float(wanted), abs=1e-6)
    columns = precision_recall_fscore_support(targets.numpy(), predicted.numpy(), zero_division=0)
    for k, row in enumerate(metrics.per_class(NAMES).values()):
        assert [row["precision"], row["recall"], row["f1"], row["n"]] == pytest.approx([float(c[k]) for c in columns])
    sure, right = logits.abs().double().sigmoid().flatten(), (predicted == targets.bool()).flatten().long()
    assert metrics.ece == pytest.approx(float(binary_calibration_error(sure, right, n_bins=15)), abs=1e-6)
    assert metrics.confusion is None


def test_order_and_batch_size_change_nothing() -> None:
    logits, targets = answers()
    once, often = filled(logits, targets), Metrics("single", K)
    for part in torch.randperm(500, generator=torch.Generator().manual_seed(2)).split(13):
        often.update(logits[part], targets[part])
    assert torch.equal(once.totals, often.totals)
    assert (once.loss, once.ece, once.per_class(NAMES)) == (often.loss, often.ece, often.per_class(NAMES))


def test_merged_counts_are_those_of_the_whole() -> None:
    logits, targets = answers()
    whole = filled(logits, targets)
    one, other = filled(logits[:200], targets[:200]), filled(logits[200:], targets[200:])
    assert whole.confusion is not None
    assert one.confusion is not None
    counts: list[Tensor] = []
    other.merge(lambda own: (counts.append(own), own)[1])
    one.merge(lambda own: own.add_(counts.pop(0)))
    assert torch.equal(one.totals, whole.totals)
    assert torch.equal(one.confusion, whole.confusion)
    assert (one.ece, one.per_class(NAMES)) == (whole.ece, whole.per_class(NAMES))


def test_huge_losses_are_summed_exactly_up_to_the_largest_that_counts() -> None:
    metrics = Metrics("single", 2)
    for loss in (2e7, 1e11):
        metrics.update(torch.tensor([[loss, 0.0]]).expand(30_000, 2), torch.ones(30_000, dtype=torch.long))
    assert metrics.loss == (2e7 + float(torch.tensor(1e11))) / 2
    metrics = Metrics("single", 2)
    metrics.update(torch.tensor([[3e38, 0.0]]).expand(30_000, 2), torch.ones(30_000, dtype=torch.long))
    assert metrics.loss == 2**40


def test_equal_logits_go_to_the_lower_class() -> None:
    metrics = filled(torch.zeros(3, K), torch.tensor([0, 4, 5]))
    assert (metrics.correct, metrics.correct5) == (1, 2)
    assert metrics.per_class(NAMES)["c0"]["recall"] == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("task", ["single", "multi"])
def test_answers_that_are_not_finite_never_count_as_right(value: float, task: str) -> None:
    logits, targets = torch.full((2, K), value), torch.tensor([0, 3])
    labels = torch.nn.functional.one_hot(targets, K).float()
    metrics = filled(logits, targets if task == "single" else labels, task)
    assert (metrics.n, metrics.correct, metrics.correct5) == (2, 0, 0)
    assert math.isnan(metrics.loss)
    assert {row["recall"] for row in metrics.per_class(NAMES).values() if row["n"]} == {0.0}


def test_few_classes_make_top5_count_all() -> None:
    metrics = Metrics("single", 3)
    metrics.update(torch.randn(10, 3), torch.arange(10) % 3)
    assert metrics.top5 == 1.0


def test_a_given_loss_and_soft_targets() -> None:
    logits, targets = answers(60)
    soft = 0.7 * torch.nn.functional.one_hot(targets, K).float() + 0.3 / K
    metrics = Metrics("single")
    metrics.update(logits, soft, torch.tensor(1.3))
    assert metrics.loss == pytest.approx(float(torch.tensor(1.3)), abs=1e-9)
    assert metrics.correct == filled(logits, targets).correct


def test_as_json() -> None:
    metrics = filled(*answers())
    plain = json.loads(json.dumps(metrics.to_dict()))
    assert plain["n"] == 500
    assert plain["top1"] == metrics.top1 == plain["correct"] / 500
    assert plain["loss"] == metrics.loss


def test_nothing_counted_yet() -> None:
    metrics = Metrics("single", K)
    assert (metrics.n, metrics.top1, metrics.ece) == (0, 0.0, 0.0)
    assert math.isnan(metrics.loss)
