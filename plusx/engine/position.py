"""Where a run stands, and where it stands when the data or the model file that it counted on are gone."""

import dataclasses
import math
from dataclasses import dataclass, field

from plusx.engine.log import Row


@dataclass
class Position:
    """Where a run stands; with the tensors, all that a checkpoint holds."""

    step: int = 0  # steps made
    rate: float = 0.0  # learning rate of the last of them
    warm: bool = False  # the training error has been under schedule.warmup_error
    train_error: float = 1.0  # a moving average over batches, followed until the run is warm
    evaluated: int = 0  # the step of the last evaluation
    rows: list[Row] = field(default_factory=list)
    best: Row | None = None  # the row of the best evaluation
    images: int = 0  # trained on, all epochs together
    seconds: float = 0.0  # the run so far, all its parts together
    train_seconds: float = 0.0  # in steps, with the wait for data
    epoch_seconds: float = 0.0  # the same of the current epoch


@dataclass(frozen=True)
class Length:
    """How far a run goes, in steps; `in_epochs` where it was given as epochs."""

    steps: int
    per_epoch: int
    in_epochs: bool


def moved(at: Position, per_epoch: int, length: Length) -> Position:
    """The position of a run of so many steps an epoch, on data that have another number: at its next epoch.

    A run whose length is in steps goes on at its next step. Steps of an epoch may be more or fewer now: those of
    metrics move with them. What was measured on the old data is no longer the best of anything.
    """
    step, rows = at.step, at.rows
    if length.in_epochs:
        step = min(math.ceil(at.step / per_epoch) * length.per_epoch, length.steps)
        rows = [row | {"step": round(row["step"] * length.per_epoch / per_epoch)} for row in rows]
    evaluated = step - (step == length.steps)
    rows = [row for row in rows if row["step"] <= evaluated]
    return dataclasses.replace(at, step=step, evaluated=evaluated, rows=rows, best=None)


def without_model(at: Position, length: Length, best: bool) -> Position:
    """The position of a run whose model file is lost: its last evaluation is made again.

    Arguments:
        at: the position before.
        length: of the run.
        best: the file held the best evaluation's weights, which were nowhere else.
    """
    evaluated = at.evaluated - (at.evaluated == length.steps)
    rows = [row for row in at.rows if row["step"] <= evaluated]
    return dataclasses.replace(at, evaluated=evaluated, rows=rows, best=None if best else at.best)
