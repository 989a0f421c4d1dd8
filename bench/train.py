"""Training images/s, end to end with loading: plusx and a plain PyTorch loop.

A round starts its side's loading afresh, trains a few batches untimed until every buffer is filled, and times the next.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.photos import write_photos
from bench.rounds import compare


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
    Case("ResNet-50, 224 px, batch 16", "resnet50", 224, 16, untimed=5, timed=7, goal=2.3),
)


def write_sources(folder: Path, photos: int = 640, arrays: int = 12_800) -> None:
    """`photos/`: JPEG files of 500x375 px; `small.npz`: 32x32 images; both in 10 classes, and kept once complete."""
    if (folder / "complete").exists():
        return
    write_photos(folder / "photos" / "train", photos)
    write_photos(folder / "photos" / "test", 10)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (arrays, 32, 32, 3), np.uint8)
    labels = np.arange(arrays) % 10
    np.savez(folder / "small.npz", x_train=images, y_train=labels, x_test=images[:100], y_test=labels[:100])
    (folder / "complete").touch()


@cache
def prepared(side: str, case: Case, folder: Path) -> tuple[Callable[[int, int], float], dict[str, Any]]:
    """A side's function from (untimed, timed) steps to images/s, and its settings; built once in a process."""
    source = folder / ("small.npz" if case.size == 32 else "photos")
    if side == "plain":
        from bench import plain

        return plain.prepare(case.model, source, case.size, case.batch)
    from bench import ours

    # torchvision's networks of 50 layers and more have the stride in the 3x3 convolution.
    model = "resnet50-v1.5" if case.model == "resnet50" else case.model
    return ours.prepare(model, source, case.size, case.batch)


def measure(side: str, case: Case, folder: Path) -> tuple[float, dict[str, Any]]:
    """One round of one side: images/s, and the side's settings."""
    run_steps, about = prepared(side, case, folder)
    return run_steps(case.untimed, case.timed), about


def run(folder: Path, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """The result of each case; `quick` only shows that it runs: its numbers mean nothing."""
    write_sources(folder, *((64, 512) if quick else ()))
    for case in CASES:
        if quick:
            case = replace(case, batch=4, untimed=1, timed=1)
        yield compare(measure, case, folder, rounds)
