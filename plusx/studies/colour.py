"""With and without PCA colour augmentation."""

from plusx.studies.core import Figure, Study, is_lower
from plusx.studies.settings import cifar_arms

STUDY = Study(
    name="colour",
    claim="PCA colour augmentation lowers the test error.",
    source="Section 3.4, after Krizhevsky et al. 2012, who report over one point of top-1 error on ImageNet",
    arms=cifar_arms({"without": ["resnet20"], "with": ["resnet20", "augment.colour=0.1"]}),
    claims=(is_lower("The test error is lower with it.", "test_error", "with", "without"),),
    figures=(
        Figure("Test error by colour augmentation", "test_error", "", "%"),
        Figure("Test error over steps", "test_error", "step", "%"),
    ),
)
