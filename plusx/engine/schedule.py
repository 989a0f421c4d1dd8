"""Schedules of learning rate and weight decay: pure functions of the step and of what the run has measured.

So there is no state to save. Steps count from 0; milestones and warmup are shares of the run. A new schedule is a
function, its entry in `SCHEDULES`, and its name among the choices of `ScheduleConfig.name`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plusx.config import ScheduleConfig


@dataclass(frozen=True)
class SoFar:
    """What a run has measured up to a step.

    Attributes:
        warm: the training error has been under `warmup_error`.
        errors: the error at each evaluation, 0..1, in order.
    """

    warm: bool = True
    errors: Sequence[float] = ()


NOTHING = SoFar()


def learning_factor(config: ScheduleConfig, step: int, total: int, so_far: SoFar = NOTHING) -> float:
    """The learning rate of a step as a share of the peak.

    Arguments:
        config: the schedule.
        step: 0 <= step < total.
        total: steps of the whole run.
        so_far: what the run has measured; only the warmup by training error and `plateau` look at it.
    """
    cold = bool(config.warmup_error) and not so_far.warm
    limit = config.warmup_factor if cold else math.inf  # section 4.2: 110 layers start at 0.01
    warmup = round(config.warmup * total)
    if step < warmup:
        return min(limit, (step + 1) / warmup)
    return min(limit, SCHEDULES[config.name](config, step, total, warmup, so_far))


def decay_factor(config: ScheduleConfig, step: int, total: int) -> float:
    """The weight decay of a step as a share of `optim.weight_decay`: a straight line from 1 to `final_weight_decay`."""
    return 1 + (config.final_weight_decay - 1) * step / total


def multistep(config: ScheduleConfig, step: int, total: int, warmup: int, so_far: SoFar) -> float:
    """Multiplied by the decay factor at each milestone (paper, section 4.2): 0.5 of 64,000 is step 32,000."""
    return config.factor ** sum(step >= max(1, round(share * total)) for share in config.milestones)


def plateau(config: ScheduleConfig, step: int, total: int, warmup: int, so_far: SoFar) -> float:
    """Multiplied by the decay factor after every `patience` evaluations without a lower error (section 3.4)."""
    best, waited, decays = math.inf, 0, 0
    for error in so_far.errors:
        best, waited = (error, 0) if error < best else (best, waited + 1)
        if waited == config.patience:
            waited, decays = 0, decays + 1
    return config.factor**decays


def cosine(config: ScheduleConfig, step: int, total: int, warmup: int, so_far: SoFar) -> float:
    """Half a cosine from 1 after warmup toward `final`, where a step after the last would be."""
    left = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    return config.final + (1 - config.final) * left


def linear(config: ScheduleConfig, step: int, total: int, warmup: int, so_far: SoFar) -> float:
    """A straight line from 1 after warmup toward `final`, where a step after the last would be."""
    left = (total - step) / (total - warmup)
    return config.final + (1 - config.final) * left


SCHEDULES: dict[str, Callable[[ScheduleConfig, int, int, int, SoFar], float]] = {
    "multistep": multistep,
    "plateau": plateau,
    "cosine": cosine,
    "linear": linear,
}
