"""Training images/s, end to end with loading: plusx and a plain PyTorch loop in alternating rounds of one run.

Each side lives in a process of its own, so that neither changes the other's settings; only one works at a time. A round
starts its side's loading afresh, trains a few batches untimed until every buffer is filled, and times the next ones.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.photos import write_photos


@dataclass(frozen=True)
class Case:
    """One comparison: a network, its input and batch, and how many batches make a round."""

    name: str
    model: str
    size: int
    batch: int
    untimed: int
    timed: int
    goal: float  # times the plain loop's images/s


CASES = (
    Case("ResNet-20, 32 px, batch 128", "resnet20", 32, 128, untimed=8, timed=40, goal=2.2),
    Case("ResNet-18, 224 px, batch 32", "resnet18", 224, 32, untimed=6, timed=12, goal=2.4),
    Case("ResNet-50, 224 px, batch 16", "resnet50", 224, 16, untimed=6, timed=8, goal=2.3),
)
SIDES = ("plain", "plusx")


def write_sources(folder: Path, photos: int = 640, arrays: int = 12_800) -> None:
    """`photos/`: JPEG files of 500x375 px; `small.npz`: 32x32 images; both in 10 classes, and kept once complete."""
    if (folder / "complete").exists():
        return
    write_photos(folder / "photos", photos)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (arrays, 32, 32, 3), np.uint8)
    labels = np.arange(arrays) % 10
    np.savez(folder / "small.npz", x_train=images, y_train=labels, x_test=images[:100], y_test=labels[:100])
    (folder / "complete").touch()


@cache
def endless_steps(side: str, case: Case, folder: Path) -> Callable[[], Iterator[int]]:
    """A side's function that starts its loading and yields the images of each step; network and data are built once."""
    source = folder / ("small.npz" if case.size == 32 else "photos")
    if side == "plain":
        from bench import plain

        return plain.prepare(case.model, source, case.size, case.batch)
    from bench import ours

    return ours.prepare(case.model, source, case.size, case.batch)


def measure(side: str, case: Case, folder: Path) -> float:
    """One round of one side, images/s."""
    steps = endless_steps(side, case, folder)()
    for _ in range(case.untimed):
        next(steps)
    start = time.perf_counter()
    images = sum(next(steps) for _ in range(case.timed))
    seconds = time.perf_counter() - start
    steps.close()  # type: ignore[attr-defined]
    return images / seconds


def compare(case: Case, folder: Path, rounds: int) -> dict[str, Any]:
    """Both sides of a case, round after round, and the ratio of their medians."""
    spawn = multiprocessing.get_context("spawn")
    pools = {side: ProcessPoolExecutor(1, spawn) for side in SIDES}
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        # Who goes first alternates too.
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            found[side].append(pools[side].submit(measure, side, case, folder).result())
    for pool in pools.values():
        pool.shutdown()
    plain, plusx = (statistics.median(found[side]) for side in SIDES)
    return {
        **asdict(case),
        "unit": "images/s",
        "rounds": {side: [round(v, 2) for v in values] for side, values in found.items()},
        "plain": round(plain, 2),
        "plusx": round(plusx, 2),
        "ratio": round(plusx / plain, 3),
    }


def run(folder: Path, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """The result of each case; `quick` only shows that it runs: its numbers mean nothing."""
    write_sources(folder, *((64, 512) if quick else ()))
    for case in CASES:
        if quick:
            case = Case(case.name, case.model, case.size, min(case.batch, 8), 1, 2, case.goal)
        yield compare(case, folder, rounds)
