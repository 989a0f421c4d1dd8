"""Do gradients vanish, where, and what carries them? Their norms by layer, at the start and through training."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from plusx.errors import PlusxError
from plusx.models.probe import gradient_norms
from plusx.result import Run
from plusx.studies.core import Figure, Study, Watch, is_lower, is_within
from plusx.studies.curves import ERRORS, Measured, errors
from plusx.studies.settings import cifar_arms

FILE = "gradients.jsonl"
EVERY = 10  # steps between two records
STEPS = 79  # of a quick run: a whole epoch
VANISHED = -2  # log10 of the first layers' gradient as a share of the last layers'
LEAST = 1e-45  # what a gradient of 0 counts as: the smallest number of float32

NETS = {}
for depth in (20, 56):
    for init in ("xavier", "he"):
        NETS[f"no-norm-{init}-{depth}"] = [f"plain{depth}", "model.norm=none", f"model.init={init}", "optim.lr=0.01"]
    NETS[f"plain-{depth}"] = [f"plain{depth}"]
    NETS[f"residual-{depth}"] = [f"resnet{depth}"]


def watch(folder: Path) -> Watch:
    """Writes the gradient norms of the first step and of every 10th to `gradients.jsonl`, before the step is saved.

    Raises:
        PlusxError: they cannot be written.
    """
    path = folder / FILE

    def look(step: int, module: nn.Module) -> None:
        if step > 1 and step % EVERY:
            return
        row = {"step": step, "norms": list(gradient_norms(module).values())}
        try:
            with path.open("a") as file:
                file.write(f"\n{json.dumps(row)}\n")  # on a line of its own, even after one that was cut off
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            message = f"{path}: cannot be written: {error.strerror or error}."
            raise PlusxError(message, "Check the disk and its space; the same command continues.") from error

    return look


def records(folder: Path, steps: int) -> list[dict[str, Any]]:
    """The records of a run of so many steps, in order; a step that was made again after an interruption counts once.

    Raises:
        PlusxError: some are not there.
    """
    found = {}
    path, wanted = folder / FILE, [1, *range(EVERY, steps + 1, EVERY)]
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # empty, or cut off by an interruption: then the step follows again
            continue
        found[row["step"]] = row
    if missing := [str(step) for step in wanted if step not in found]:
        message = f"{path}: no record of step {', '.join(missing)}; expected step 1 and every {EVERY}th of {steps}."
        raise PlusxError(message, f"Delete {folder}; the same command trains this run again.")
    return [found[step] for step in wanted]


def thirds(norms: Sequence[float]) -> tuple[float, float]:
    """Gradient norm of a layer, root mean square over the first and over the last third of the 3x3 layers.

    The stem and the head are out. A joint norm would grow with the number of layers, and hide that gradients shrink.
    """
    inner = norms[1:-1]
    third = len(inner) // 3
    first, last = (math.hypot(*part) / math.sqrt(third) for part in (inner[:third], inner[-third:]))
    return first, last


def share(norms: Sequence[float]) -> float:
    """The first third's gradient over the last third's."""
    first, last = thirds(norms)
    return first / max(last, LEAST)


def measure(run: Run) -> Measured:
    """The first layers' gradient and its share, at the start and through training, and the norms themselves."""
    found = errors(run)
    rows = records(run.folder, int(found.series["train_error"][-1][0]))
    shares = [(row["step"], share(row["norms"])) for row in rows]
    values = {"start_norm": thirds(rows[0]["norms"])[0], "start_share": shares[0][1]}
    values |= {"median_share": median(value for _, value in shares)}
    return Measured(
        values=found.values | {name: math.log10(max(LEAST, value)) for name, value in values.items()},
        series={
            "start": list(enumerate(rows[0]["norms"][1:-1], 2)),
            "end": list(enumerate(rows[-1]["norms"][1:-1], 2)),
            "share": shares,
        },
    )


STUDY = Study(
    name="gradients",
    claim="Without batch norm gradients shrink with depth, with Xavier's initialisation and with He's, with Xavier's "
    "toward the first layers too; with it they are healthy and do not vanish, yet deeper plain nets train worse.",
    source="Reader's notes, introduction; section 4.1: the difficulty is unlikely to be caused by vanishing gradients",
    measures={
        **ERRORS,
        "start_norm": "gradient of one of the first layers, first step, log10 of the L2 norm (root mean square)",
        "start_share": "gradient of the first layers over that of the last, first step, log10",
        "median_share": "the same, median through training",
    },
    arms=cifar_arms(NETS, steps=STEPS),
    measure=measure,
    claims=(
        is_lower(
            "The notes: without batch norm, the deeper net has the smaller gradients in its first layers at the start, "
            "with Xavier's initialisation.",
            *("start_norm", "no-norm-xavier-56", "no-norm-xavier-20"),
            early=True,
        ),
        is_lower(
            "The notes: without batch norm, it has them with He's initialisation too.",
            *("start_norm", "no-norm-he-56", "no-norm-he-20"),
            early=True,
        ),
        is_within(
            "The notes: with Xavier's, they shrink toward the first of 56 layers, at the start.",
            *("start_share", "no-norm-xavier-56"),
            below=VANISHED,
            early=True,
        ),
        is_within(
            "The notes: with Xavier's, they shrink toward the first of 56 layers, through training.",
            *("median_share", "no-norm-xavier-56"),
            below=VANISHED,
            early=True,
        ),
        is_within(
            "The paper: with batch norm, those of a plain net of 56 layers are healthy at the start: the first layers' "
            "between a tenth and ten times the last layers'.",
            *("start_share", "plain-56"),
            above=-1,
            below=1,
            early=True,
        ),
        is_within("The paper: they do not vanish through training either.", "median_share", "plain-56", above=VANISHED),
        is_within(
            "With shortcuts they are healthy at the start.", "start_share", "residual-56", above=-1, below=1, early=True
        ),
        is_lower(
            "The paper: the deeper plain net has the higher training error all the same.",
            *("train_error", "plain-20", "plain-56"),
        ),
    ),
    watch=watch,
    figures=(
        Figure("Gradient norms at the first step", "start", "layer", "L2 norm", log=True),
        Figure("Gradient norms at the last record", "end", "layer", "L2 norm", log=True),
        Figure("First layers over last layers", "share", "step", "share", log=True),
    ),
)
