"""Arms of the studies: the paper's recipe at the paper's length, or on a part of CIFAR-10 for minutes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plusx.studies.core import Arm
from plusx.studies.data import cifar_part

QUICK_STEPS = 632  # of 128 images: eight whole epochs of the part


def cifar_arms(
    budget: str,
    folder: Path,
    root: str | None,
    nets: Mapping[str, Sequence[str]],
    *,
    paper: Mapping[str, Mapping[str, float]] | None = None,
    steps: int = QUICK_STEPS,
) -> list[Arm]:
    """An arm for each entry of `nets`: its name -> the network, then `section.field=value` changes.

    `paper` trains as section 4.2 does. `quick` keeps that recipe on the part of CIFAR-10 for `steps` steps, with a
    rate that rises for a fifth of the run and falls in a line to 0: at 0.1 from the first step deep nets lose their
    first epochs, and so short a run would end its learning at the first milestone.
    """
    quick = budget == "quick"
    common: dict[str, Any] = {"recipe": "cifar10-paper"}
    if quick:
        common["data"] = str(cifar_part(folder, root))
        shared = [f"schedule.steps={steps}", "schedule.name=linear", "schedule.warmup=0.2"]
        shared += ["data.val_fraction=0", "augment.pad=2"]
    else:
        common["data"] = "cifar10"
        shared = [f"data.root={root}"] if root else []
    return [
        Arm(
            name=name,
            train=common | {"model": model, "overrides": [*shared, *changes]},
            paper=(paper or {}).get(name, {}) if not quick else {},
        )
        for name, (model, *changes) in nets.items()
    ]
