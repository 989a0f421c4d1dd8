"""How much each F(x) carries: single blocks are dropped from trained nets, without any further training."""

from statistics import median

from plusx.evaluation import evaluate
from plusx.models.probe import droppable_blocks, without_block
from plusx.result import Run
from plusx.studies.core import Figure, Study, is_lower, is_within
from plusx.studies.curves import Measured
from plusx.studies.settings import cifar_arms, named
from plusx.studies.trained import trained

STEPS = 948  # of a quick run: twelve whole epochs
SMALL = 5.0  # points of error: what a block that carries little may cost


def measure(run: Run) -> Measured:
    """Test error with each block dropped in turn, in points above that of the whole net."""
    classifier, network, dataset = trained(run)

    def error() -> float:
        return 100 * (1 - evaluate(classifier, dataset, split=run.watched).top1)

    whole = error()
    costs = []
    for name in droppable_blocks(network):
        with without_block(network, name):
            costs.append(error() - whole)
    return Measured(
        values={"test_error": whole, "median_cost": median(costs), "largest_cost": max(costs)},
        series={"cost": list(enumerate(costs, 1))},
    )


STUDY = Study(
    name="depth",
    claim=f"Dropping a block costs a trained residual net under {SMALL:g} points at the median, less than a plain one.",
    source="Section 4.2: layers of deeper residual nets modify the signal less; Veit et al. 2016, arXiv 1605.06431",
    measures={
        "test_error": "test error, %",
        "median_cost": "error added by dropping a block, median, points",
        "largest_cost": "the same, largest",
    },
    arms=cifar_arms(named("plain32", "resnet32"), steps=STEPS),
    measure=measure,
    claims=(
        is_lower(
            "A block of the residual net costs less than one of the plain net.", "median_cost", "resnet32", "plain32"
        ),
        is_within(f"A block of the residual net costs under {SMALL:g} points.", "median_cost", "resnet32", below=SMALL),
    ),
    figures=(
        Figure("Error added by dropping a block", "cost", "droppable block, in order", "points"),
        Figure("Median error added", "median_cost", "", "points"),
    ),
)
