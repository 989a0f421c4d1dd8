"""Degradation in fully connected nets: the notes say that F may be feed-forward."""

from plusx.studies.core import Figure, Study, is_lower
from plusx.studies.settings import cifar_arms

NETS = {
    f"{kind}-{blocks}": [f"{family}-{blocks}x128"]
    for kind, family in (("plain", "plainmlp"), ("residual", "resmlp"))
    for blocks in (4, 24)
}

STUDY = Study(
    name="mlp",
    claim="Fully connected nets degrade with depth too, and shortcuts mend it.",
    source="Section 3.2: the notation of equation 1 holds for fully connected layers; the reader's notes",
    arms=cifar_arms(NETS),
    claims=(
        is_lower("A deeper plain net has a higher training error.", "train_error", "plain-4", "plain-24"),
        is_lower(
            "At 24 blocks, the residual net has the lower training error.", "train_error", "residual-24", "plain-24"
        ),
        is_lower("A deeper residual net has a lower training error.", "train_error", "residual-24", "residual-4"),
    ),
    figures=(Figure("Training error", "train_error", "step", "%"), Figure("Test error", "test_error", "step", "%")),
)
