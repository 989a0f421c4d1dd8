"""Shortcut options A, B and C (Table 3)."""

from plusx.studies.core import Figure, Study, is_lower
from plusx.studies.settings import cifar_arms

NETS = {"plain": ["plain20"]} | {f"option-{o}": ["resnet20", f"model.shortcut={o}"] for o in "ABC"}

STUDY = Study(
    name="shortcuts",
    claim="All three shortcut options beat the plain net; B is slightly better than A, and C slightly better than B.",
    source="Section 4.1, Table 3 (34 layers on ImageNet: errors of 25.03, 24.52 and 24.19 %; plain 28.54 %)",
    arms=cifar_arms(NETS),
    claims=(
        is_lower("Option A beats the plain net.", "test_error", "option-A", "plain"),
        is_lower("Option B beats the plain net.", "test_error", "option-B", "plain"),
        is_lower("Option C beats the plain net.", "test_error", "option-C", "plain"),
        is_lower("B is better than A.", "test_error", "option-B", "option-A"),
        is_lower("C is better than B.", "test_error", "option-C", "option-B"),
    ),
    figures=(
        Figure("Test error by shortcut option", "test_error", "", "%"),
        Figure("Training error", "train_error", "step", "%"),
    ),
)
