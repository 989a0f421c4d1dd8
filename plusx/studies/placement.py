"""Where the stride of a bottleneck stands, and whether batch norm comes before or after the addition."""

from plusx.studies.core import Figure, Study, is_lower
from plusx.studies.settings import cifar_arms

STEPS = 395  # of a quick run: five whole epochs
BOTTLENECKS = ["resnet50", "model.stem=cifar", "model.width=16", "model.shortcut=B"]
STRIDES = {f"stride-in-{k}": [*BOTTLENECKS, f"model.stride_in={k}"] for k in ("1x1", "3x3")}
NORMS = {f"norm-{order}": ["resnet20", f"model.norm_order={order}"] for order in ("before", "after")}

STUDY = Study(
    name="placement",
    claim="A stride does better in the 3x3 than in the 1x1 convolution, batch norm better before the addition.",
    source='Table 1, section 3.4; "v1.5" networks; He et al. 2016, arXiv 1603.05027, Table 2: 6.61 and 8.17 % error',
    arms=cifar_arms(STRIDES | NORMS, steps=STEPS),
    claims=(
        is_lower(
            "A stride in the 3x3 convolution gives the lower test error.",
            "test_error",
            "stride-in-3x3",
            "stride-in-1x1",
        ),
        is_lower(
            "Batch norm before the addition gives the lower test error.", "test_error", "norm-before", "norm-after"
        ),
    ),
    figures=(
        Figure("Test error by placement", "test_error", "", "%"),
        Figure("Training error", "train_error", "step", "%"),
    ),
)
