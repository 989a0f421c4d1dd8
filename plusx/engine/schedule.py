"""Learning-rate schedules: pure functions of the step, so there is no state to save.

Steps count from 0; milestones and warmup are shares of the run. A new schedule is a function and one entry in
`SCHEDULES`.
"""

import math
from collections.abc import Callable

from plusx.config import ScheduleConfig


def learning_factor(config: ScheduleConfig, step: int, total: int) -> float:
    """The learning rate of a step as a share of the peak.

    Arguments:
        config: the schedule.
        step: 0 <= step < total.
        total: steps of the whole run.
    """
    warmup = round(config.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[config.name](config, step, total, warmup)


def multistep(config: ScheduleConfig, step: int, total: int, warmup: int) -> float:
    """Multiplied by the decay factor at each milestone (paper, sections 3.4 and 4.2): 0.5 of 64,000 is step 32,000."""
    return config.factor ** sum(step >= round(share * total) for share in config.milestones)


def cosine(config: ScheduleConfig, step: int, total: int, warmup: int) -> float:
    """Half a cosine from 1 after warmup to `final` at the end."""
    left = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    return config.final + (1 - config.final) * left


def linear(config: ScheduleConfig, step: int, total: int, warmup: int) -> float:
    """A straight line from 1 after warmup to `final` at the end."""
    left = (total - step) / (total - warmup)
    return config.final + (1 - config.final) * left


SCHEDULES: dict[str, Callable[[ScheduleConfig, int, int, int], float]] = {
    "multistep": multistep,
    "cosine": cosine,
    "linear": linear,
}
