"""Arms of the studies: the paper's recipe at the paper's length, or on a part of CIFAR-10 for minutes."""

from collections.abc import Mapping, Sequence

from plusx.studies.core import Arm, Arms

QUICK_STEPS = 632  # of 128 images: eight whole epochs of the part

Nets = Mapping[str, Sequence[str]]  # name of an arm -> its network, then `section.field=value` changes


def named(*names: str) -> Nets:
    """An arm for each network as it is, under its own name."""
    return {name: [name] for name in names}


def cifar_arms(
    nets: Nets,
    paper: Nets | None = None,
    *,
    published: Mapping[str, Mapping[str, float]] | None = None,
    steps: int = QUICK_STEPS,
) -> Arms:
    """An arm for each entry of `nets`, or for each of `paper` where the paper's budget has other ones.

    `paper` trains as section 4.2 does. `quick` keeps that recipe on the part of CIFAR-10 for `steps` steps, with a
    rate that rises for a fifth of the run and falls in a line to 0: at 0.1 from the first step deep nets lose their
    first epochs, and so short a run would end its learning at the first milestone.
    """

    def arms(budget: str) -> list[Arm]:
        chosen, values, data, shared = paper or nets, published or {}, "cifar10", []
        if budget == "quick":
            chosen, values, data = nets, {}, "cifar10-part"
            shared = [f"schedule.steps={steps}", "schedule.name=linear", "schedule.warmup=0.2", "augment.pad=2"]
        common = {"recipe": "cifar10-paper", "data": data}
        return [
            Arm(name=arm, train={**common, "model": model, "overrides": [*shared, *changes]}, paper=values.get(arm, {}))
            for arm, (model, *changes) in chosen.items()
        ]

    return arms
