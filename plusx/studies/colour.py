"""With and without PCA colour augmentation."""

from collections.abc import Sequence
from pathlib import Path

from plusx.studies.core import Arm, Claim, Figure, Study, lower
from plusx.studies.curves import ERRORS, errors
from plusx.studies.settings import cifar_arms


def arms(budget: str, folder: Path, root: str | None) -> Sequence[Arm]:
    """ResNet-20 without colour shifts, and with the paper's."""
    return cifar_arms(budget, folder, root, {"without": ["resnet20"], "with": ["resnet20", "augment.colour=0.1"]})


STUDY = Study(
    name="colour",
    claim="PCA colour augmentation lowers the test error.",
    source="Section 3.4, after Krizhevsky et al. 2012, who report over one point of top-1 error on ImageNet",
    measures=ERRORS,
    arms=arms,
    measure=errors,
    claims=(Claim("The test error is lower with it.", lambda r: lower(r, "test_error", "with", "without")),),
    figures=(
        Figure("Test error by colour augmentation", "test_error", "", "%"),
        Figure("Test error over steps", "test_error", "step", "%"),
    ),
)
