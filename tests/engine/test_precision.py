"""The start-up choice of arithmetic."""

import copy

import pytest
import torch
from torch import Tensor, nn

from plusx.engine import precision
from plusx.engine.precision import resolve
from tests.engine.tiny import net

SHAPE = (8, 3, 8, 8)


def test_a_set_precision_is_kept() -> None:
    assert resolve("bf16", net(), SHAPE) == ("bf16", "as set")


def test_the_check_changes_neither_network_nor_random_state() -> None:
    module = net().eval()
    before, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    choice, reason = resolve("auto", module, SHAPE)
    assert choice in ("fp32", "bf16")
    assert "cosine" in reason
    assert not module.training
    assert all(w.grad is None for w in module.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize(("fast", "wanted"), [(0.5, "bf16"), (0.99, "fp32"), (2.0, "fp32")])
def test_the_faster_one_wins_when_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, fast: float, wanted: str
) -> None:
    real = precision._pass

    def timed(net: nn.Module, images: Tensor, name: str) -> tuple[float, Tensor, Tensor]:
        return (fast if name == "bf16" else 1.0), *real(net, images, name)[1:]

    monkeypatch.setattr(precision, "_pass", timed)
    choice, reason = resolve("auto", net(dropout=0.0), SHAPE)
    assert choice == wanted
    assert f"{1 / fast:.2f}x as fast" in reason


class Rough(nn.Module):
    """Differences of large numbers: 8 bits of mantissa lose them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.fc(x + 1e5) - self.fc(torch.full_like(x, 1e5))


def test_bf16_that_is_wrong_is_refused() -> None:
    choice, reason = resolve("auto", Rough(), SHAPE)
    assert choice == "fp32"
    assert "too far off" in reason
