"""Loading alone, images/s of one core: JPEG files to augmented, normalised 224 px crops.

plusx and the DataLoader of torchvision's reference training: no workers, one thread, on one and the same core.
"""

import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.photos import write_photos
from bench.rounds import compare

SIZE = 224


@dataclass(frozen=True)
class Case:
    """One comparison: photos of a size, how many of them, and how many batches make a round."""

    name: str
    width: int
    height: int
    photos: int
    batch: int
    batches: int
    goal: float  # times the reference's images/s
    soft: int = 1  # see `bench.photos`
    copies: str = ""  # as `train` does by default with photos so large: ours makes them ("first") or has them ("later")


CASES = (
    Case("loading, photos of 500x375 px", 500, 375, photos=256, batch=32, batches=16, goal=1.8),
    Case("loading, 12 megapixels in 3.2 MB", 4000, 3000, photos=12, batch=4, batches=6, goal=4.0, soft=2),
    Case("loading, 12 megapixels in 4.6 MB", 4000, 3000, photos=12, batch=4, batches=6, goal=4.0),
    *(
        Case(
            f"loading, 12 megapixels in 4.6 MB, {name}",
            *(4000, 3000),
            photos=12,
            batch=4,
            batches=6,
            goal=goal,
            copies=copies,
        )
        for name, copies, goal in (("first epoch of copies", "first", 2.0), ("later epochs", "later", 10.0))
    ),
)


@cache
def endless_batches(side: str, case: Case, source: Path) -> Iterator[int]:
    """A side's batches over and over, as their numbers of images."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from bench import plain

    if side == "plain":
        loader = plain.loader(source, SIZE, case.batch, workers=0)
        return (len(images) for _ in count() for images, _ in loader)

    from plusx.config import AugmentConfig
    from plusx.data import Preprocess, Split, TrainLoader
    from plusx.data.copies import Copies
    from plusx.data.names import Names

    paths = Names(sorted(str(path) for path in source.glob("train/*/*.jpg")))
    split = Split(name="train", targets=np.zeros(len(paths), np.int64), paths=paths, names=paths)
    rules = Preprocess(size=SIZE, resize=256, fit="crop", channels=3, mean=plain.MEAN, std=plain.STD)
    augment = AugmentConfig(crop="resized", flip="random")
    common: dict[str, Any] = {"n_classes": 10, "mode": "photo", "batch": case.batch, "seed": 0, "workers": 0}

    def ours(again: int = 0) -> TrainLoader:
        copies = Copies(source / f"copies-{case.copies}-{again}", 2 * SIZE, rules) if case.copies else None
        return TrainLoader(split, rules, augment, copies=copies, **common)

    if case.copies == "first":
        return (len(batch.images) for again in count() for batch in ours(again).epoch(0))
    own = ours()
    if case.copies:
        list(own.epoch(0))
    return (len(batch.images) for epoch in count(1) for batch in own.epoch(epoch))


def measure(side: str, case: Case, source: Path) -> tuple[float, dict[str, Any]]:
    """One round of one side: images/s, and what it read."""
    batches = endless_batches(side, case, source)
    next(batches)
    start = time.perf_counter()
    images = sum(next(batches) for _ in range(case.batches))
    seconds = time.perf_counter() - start
    sizes = [path.stat().st_size for path in source.glob("train/*/*.jpg")]
    return images / seconds, {"threads": torch.get_num_threads(), "bytes_each": round(statistics.mean(sizes))}


def run(folder: Path, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """The result of each case; `quick` only shows that it runs: its numbers mean nothing."""
    for case in CASES:
        if quick:
            case = replace(case, photos=12, batch=2, batches=2)
        source = folder / f"{case.width}x{case.height}-{case.soft}"
        write_photos(source / "train", case.photos, case.width, case.height, soft=case.soft)
        yield compare(measure, case, source, rounds)
