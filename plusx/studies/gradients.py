"""Do gradients vanish, where, and what carries them? Their norms by layer, at the start and through training."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from plusx.models.probe import gradient_norms
from plusx.run import Run
from plusx.studies.core import Arm, Claim, Figure, Measured, Study, Watch, limit, lower
from plusx.studies.curves import ERRORS, errors
from plusx.studies.settings import cifar_arms

FILE = "gradients.jsonl"
EVERY = 20  # steps between two records
STEPS = 395  # of a quick run: five whole epochs
VANISHED = 0.01  # first layers' gradient as a share of the last layers'
HEALTHY = 0.1


def arms(budget: str, folder: Path, root: str | None) -> Sequence[Arm]:
    """Plain nets without batch norm, with it, and residual nets; shallow and deep."""
    nets = {}
    for depth in (20, 56):
        nets[f"no-norm-{depth}"] = [f"plain{depth}", "model.norm=none", "model.init=xavier", "optim.lr=0.01"]
        nets[f"plain-{depth}"] = [f"plain{depth}"]
        nets[f"residual-{depth}"] = [f"resnet{depth}"]
    return cifar_arms(budget, folder, root, nets, steps=STEPS)


def watch(folder: Path) -> Watch:
    """Writes the gradient norms of every 20th step, the first among them, to `gradients.jsonl`."""

    def look(step: int, module: nn.Module) -> None:
        if step == 1 or step % EVERY == 0:
            with (folder / FILE).open("a") as file:
                file.write(json.dumps({"step": step, "norms": list(gradient_norms(module).values())}) + "\n")

    return look


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run in order; a step that was made again after an interruption counts once."""
    found = {}
    for line in (folder / FILE).read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by the interruption; the step follows again
            continue
        found[row["step"]] = row
    return [found[step] for step in sorted(found)]


def share(norms: Sequence[float]) -> float:
    """Gradient norm of the first third of the 3x3 layers over that of the last third; the stem and the head are out."""
    inner = norms[1:-1]
    third = len(inner) // 3
    return math.hypot(*inner[:third]) / max(math.hypot(*inner[-third:]), 1e-300)


def measure(run: Run) -> Measured:
    """The first layers' share at the start and through training, and the norms themselves."""
    rows = records(run.folder)
    shares = [(row["step"], share(row["norms"])) for row in rows]
    return Measured(
        values=errors(run).values
        | {"start_share": shares[0][1], "mean_share": sum(s for _, s in shares) / len(shares)},
        series={
            "start": list(enumerate(rows[0]["norms"][1:-1], 2)),
            "end": list(enumerate(rows[-1]["norms"][1:-1], 2)),
            "share": shares,
        },
    )


STUDY = Study(
    name="gradients",
    claim="Without batch norm gradients vanish with depth; with it they do not, yet deeper plain nets train worse.",
    source="Reader's notes, introduction; section 4.1: the difficulty is unlikely to be caused by vanishing gradients",
    measures={
        **ERRORS,
        "start_share": "gradient of the first layers over that of the last, first step",
        "mean_share": "the same, mean through training",
    },
    arms=arms,
    measure=measure,
    claims=(
        Claim(
            "The notes: without batch norm, gradients vanish toward the first of 56 layers.",
            lambda r: limit(r, "start_share", "no-norm-56", below=VANISHED),
        ),
        Claim(
            "The notes: the deeper the net, the smaller the gradients of its first layers.",
            lambda r: lower(r, "start_share", "no-norm-56", "no-norm-20"),
        ),
        Claim(
            "The paper: with batch norm, gradients of a plain net do not vanish at the start.",
            lambda r: limit(r, "start_share", "plain-56", above=HEALTHY),
        ),
        Claim("The paper: nor do they through training.", lambda r: limit(r, "mean_share", "plain-56", above=HEALTHY)),
        Claim(
            "The paper: the deeper plain net has the higher training error all the same.",
            lambda r: lower(r, "train_error", "plain-20", "plain-56"),
        ),
    ),
    watch=watch,
    figures=(
        Figure("Gradient norms at the first step", "start", "layer", "L2 norm", log=True),
        Figure("Gradient norms at the last step", "end", "layer", "L2 norm", log=True),
        Figure("First layers over last layers", "share", "step", "share", log=True),
    ),
)
