"""Both sides of a comparison in alternating rounds of one run."""

import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

SIDES = ("plain", "plusx")

Measure = Callable[[str, Any, Path], tuple[float, dict[str, Any]]]


def compare(measure: Measure, case: Any, source: Path, rounds: int) -> dict[str, Any]:
    """The case, each round's images/s, the medians of both sides and their ratio.

    Each side lives in a process of its own, so that neither changes the other's settings; only one works at a time.
    For the same reason nothing here imports plusx, which sets how the threads of its process wait.

    Arguments:
        measure: (side, case, source) -> images/s of one round, and the side's settings; a function of a module.
        case: a dataclass.
        source: where the examples lie.
        rounds: how often each side is measured.
    """
    spawn = multiprocessing.get_context("spawn")
    pools = {side: ProcessPoolExecutor(1, spawn) for side in SIDES}
    speeds: dict[str, list[float]] = {side: [] for side in SIDES}
    settings = {}
    for number in range(rounds):
        # Who goes first alternates too.
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            speed, settings[side] = pools[side].submit(measure, side, case, source).result()
            speeds[side].append(speed)
    for pool in pools.values():
        pool.shutdown()
    plain, plusx = (statistics.median(speeds[side]) for side in SIDES)
    return {
        **asdict(case),
        "unit": "images/s",
        "settings": settings,
        "rounds": {side: [round(v, 2) for v in values] for side, values in speeds.items()},
        "plain": round(plain, 2),
        "plusx": round(plusx, 2),
        "ratio": round(plusx / plain, 3),
    }
