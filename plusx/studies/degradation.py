"""Degradation: the paper's starting point. With depth, plain nets train worse; residual nets do not."""

from collections.abc import Sequence
from pathlib import Path

from plusx.studies.core import Arm, Claim, Figure, Results, Study, Verdict, ends, lower
from plusx.studies.curves import ERRORS, errors
from plusx.studies.settings import cifar_arms

DEPTHS = {"quick": (8, 20, 32), "paper": (20, 32, 44, 56, 110)}
STEPS = 790  # of a quick run: ten whole epochs
PAPER = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61}  # Table 6; 110 layers: mean of five runs


def arms(budget: str, folder: Path, root: str | None) -> Sequence[Arm]:
    """Plain and residual nets of each depth."""
    nets = {f"{family}{d}": [f"{family}{d}"] for family in ("plain", "resnet") for d in DEPTHS[budget]}
    paper = {f"resnet{depth}": {"test_error": error} for depth, error in PAPER.items()}
    return cifar_arms(budget, folder, root, nets, paper=paper, steps=STEPS)


def plain_degrades(results: Results) -> Verdict:
    """The shallowest plain net has the lower training error."""
    shallow, deep = ends(results, "plain")
    return lower(results, "train_error", shallow, deep)


def residual_gains(results: Results) -> Verdict:
    """The deepest residual net has the lower training error."""
    shallow, deep = ends(results, "resnet")
    return lower(results, "train_error", deep, shallow)


def residual_wins(results: Results) -> Verdict:
    """At the greatest depth, the residual net has the lower training error."""
    return lower(results, "train_error", ends(results, "resnet")[1], ends(results, "plain")[1])


STUDY = Study(
    name="degradation",
    claim="A deeper plain net has a higher training error than a shallower one; a deeper residual net has a lower one.",
    source="Section 1 and Fig. 1; section 4.2, Fig. 6 and Table 6",
    measures=ERRORS,
    arms=arms,
    measure=errors,
    claims=(
        Claim("The deepest plain net has a higher training error than the shallowest.", plain_degrades),
        Claim("The deepest residual net has a lower training error than the shallowest.", residual_gains),
        Claim("Of the deepest nets, the residual one has the lower training error.", residual_wins),
    ),
    figures=(
        Figure("Training error", "train_error", "step", "%"),
        Figure("Test error", "test_error", "step", "%"),
        Figure("Last training error by depth", "train_error", "", "%"),
    ),
)
