"""Degradation: the paper's starting point. With depth, plain nets train worse; residual nets do not."""

from plusx.studies.core import Claim, Figure, Study, ends, lower
from plusx.studies.settings import Nets, cifar_arms, named

STEPS = 790  # of a quick run: ten whole epochs
PAPER = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61}  # Table 6; 110 layers: mean of five runs


def nets(*depths: int) -> Nets:
    """Plain and residual nets of each depth."""
    return named(*(f"{family}{depth}" for family in ("plain", "resnet") for depth in depths))


STUDY = Study(
    name="degradation",
    claim="A deeper plain net has a higher training error than a shallower one; a deeper residual net has a lower one.",
    source="Section 1 and Fig. 1; section 4.2, Fig. 6 and Table 6",
    arms=cifar_arms(
        nets(8, 20, 32),
        nets(20, 32, 44, 56, 110),
        published={f"resnet{depth}": {"test_error": error} for depth, error in PAPER.items()},
        steps=STEPS,
    ),
    claims=(
        Claim(
            "The deepest plain net has a higher training error than the shallowest.",
            lambda r: lower(r, "train_error", ends(r, "plain")[0], ends(r, "plain")[1]),
        ),
        Claim(
            "The deepest residual net has a lower training error than the shallowest.",
            lambda r: lower(r, "train_error", ends(r, "resnet")[1], ends(r, "resnet")[0]),
        ),
        Claim(
            "Of the deepest nets, the residual one has the lower training error.",
            lambda r: lower(r, "train_error", ends(r, "resnet")[1], ends(r, "plain")[1]),
        ),
    ),
    figures=(
        Figure("Training error", "train_error", "step", "%"),
        Figure("Test error", "test_error", "step", "%"),
        Figure("Last training error by depth", "train_error", "", "%"),
    ),
)
