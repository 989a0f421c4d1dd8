"""Degradation: the paper's starting point. With depth, plain nets train worse; residual nets do not."""

from collections.abc import Sequence
from pathlib import Path

from plusx.study.core import Arm, Claim, Figure, Study, lower
from plusx.study.curves import ERRORS, errors
from plusx.study.settings import cifar_arms

DEPTHS = {"quick": (20, 56), "paper": (20, 32, 44, 56, 110)}
PAPER = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61}  # Table 6; 110 layers: mean of five runs


def arms(budget: str, folder: Path, root: str | None) -> Sequence[Arm]:
    """Plain and residual nets of each depth."""
    nets = {f"{family}{d}": [f"{family}{d}"] for family in ("plain", "resnet") for d in DEPTHS[budget]}
    return cifar_arms(
        budget, folder, root, nets, paper={f"resnet{depth}": {"test_error": error} for depth, error in PAPER.items()}
    )


STUDY = Study(
    name="degradation",
    claim="A deeper plain net has a higher training error than a shallower one; a deeper residual net has a lower one.",
    source="Section 1 and Fig. 1; section 4.2, Fig. 6 and Table 6",
    measures=ERRORS,
    arms=arms,
    measure=errors,
    claims=(
        Claim(
            "A deeper plain net has a higher training error.", lambda r: lower(r, "train_error", "plain20", "plain56")
        ),
        Claim(
            "A deeper residual net has a lower training error.",
            lambda r: lower(r, "train_error", "resnet56", "resnet20"),
        ),
        Claim(
            "At 56 layers, the residual net has the lower training error.",
            lambda r: lower(r, "train_error", "resnet56", "plain56"),
        ),
    ),
    figures=(
        Figure("Training error", "train_error", "step", "%"),
        Figure("Test error", "test_error", "step", "%"),
    ),
)
