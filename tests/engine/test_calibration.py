"""The temperature: right where it is known, moderate where there are no mistakes, without effect on answers."""

import pytest
import torch
import torch.nn.functional as F

from plusx.engine import calibration, fit_temperature


def drawn(n: int = 20_000, k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, K) and targets drawn from their softmax, so that the right temperature is 1."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, k, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)


def test_finds_the_scale_that_logits_were_given() -> None:
    logits, targets = drawn()
    for scale in (0.25, 1.0, 3.0):
        assert abs(fit_temperature(scale * logits, targets) / scale - 1) < 0.05


@pytest.mark.parametrize("rows", [1000, 1999])
def test_parts_have_the_temperature_of_the_whole(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = drawn(2_000)
    whole, sizes, double = fit_temperature(logits, targets), [], torch.Tensor.double
    monkeypatch.setattr(calibration, "ROWS", rows)
    monkeypatch.setattr(torch.Tensor, "double", lambda part: (sizes.append(len(part)), double(part))[1])
    assert fit_temperature(logits, targets) == whole
    assert max(sizes) == rows


def test_no_temperature_nearby_has_a_lower_loss() -> None:
    logits, targets = drawn(2_000)
    best = fit_temperature(logits, targets)
    smoothing = 1 / (len(targets) + 2)
    losses = [
        F.cross_entropy(logits.double() / (best * f), targets, label_smoothing=smoothing) for f in (0.98, 1, 1.02)
    ]
    assert losses[1] < min(losses[0], losses[2])


def test_examples_without_a_mistake_do_not_make_certainty() -> None:
    logits = 4 * F.one_hot(torch.arange(100) % 10, 10).float()
    probability = (logits / fit_temperature(logits, torch.arange(100) % 10)).softmax(1).amax(1)
    assert float(probability[0]) == pytest.approx(1 - 0.9 / 102, abs=1e-6)  # as smoothed targets have it
