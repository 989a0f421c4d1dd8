"""Mean and standard deviation of the training images' channels, streamed: constant memory for any number of images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plusx.data.dataset import Progress, Split
from plusx.data.decode import decode
from plusx.data.sampling import order
from plusx.data.scan import in_parallel
from plusx.data.transforms import Preprocess, as_channels

SAMPLE = 4000  # photos; the mean of so many is within a quarter of a gray level
SMALL = 64  # px: up to this network input all files are read
SLICE = 64  # images in memory summed at a time

Sums = tuple[int, list[Any], list[Any]]
"""Pixels, and for each channel the sum of values 0..255 and of their squares."""


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each channel over all pixels, in 0..1 units, and what a person should know."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()


def channel_statistics(split: Split, rules: Preprocess, progress: Progress | None = None) -> Statistics:
    """Statistics of a split: exact, by integer sums, for 8-bit images; of photos at most 4,000, chosen by a fixed seed.

    Arguments:
        split: the training split.
        rules: how files are decoded; a JPEG is read at a scale that keeps the shorter side at `rules.resize`.
        progress: called with (done, total).

    Returns:
        the statistics; a channel that never changes gets the standard deviation 1.

    Raises:
        ImageError: a file that cannot be decoded.
    """
    ids: Sequence[int] = range(len(split))
    notes: tuple[str, ...] = ()
    if split.paths is not None and rules.size > SMALL and len(split) > SAMPLE:
        ids = sorted(order(len(split), 0, 0, 0, SAMPLE).tolist())
        notes = (f"mean and standard deviation are of {SAMPLE:,} of the {len(split):,} training photos",)
    if split.paths is not None:
        paths = [split.paths[i] for i in ids]
        found = in_parallel(lambda path: _file_sums(path, rules), paths, progress)
    else:
        found = _array_sums(split, rules)
    count, total, square = 0, [0] * rules.channels, [0] * rules.channels
    for n, sums, squares in found:
        count += n
        total = [a + b for a, b in zip(total, sums, strict=True)]
        square = [a + b for a, b in zip(square, squares, strict=True)]
    mean = tuple(t / count / 255 for t in total)
    spread = [count * q - t * t for t, q in zip(total, square, strict=True)]
    std = tuple(s**0.5 / count / 255 if s > 0 else 1.0 for s in spread)
    return Statistics(mean, std, notes)


def sample(split: Split, rules: Preprocess, count: int) -> Tensor:
    """At most `count` images as evaluation sees them, (N, C, S, S); which ones depends on the split's size alone.

    Raises:
        ImageError: a file that cannot be decoded.
    """
    ids = sorted(order(len(split), 0, 0, 0, min(count, len(split))).tolist())
    if split.paths is not None:
        return torch.stack([rules.load(split.paths[i]) for i in ids])
    assert split.images is not None
    return torch.stack([rules(torch.from_numpy(split.images[i])) for i in ids])


def _file_sums(path: str, rules: Preprocess) -> Sums:
    image = decode(
        path,
        max_pixels=rules.max_pixels,
        channels=rules.channels,
        background=rules.background,
        min_side=rules.resize,
    )
    return _sums(image)


def _array_sums(split: Split, rules: Preprocess) -> Iterator[Sums]:
    assert split.images is not None
    for start in range(0, len(split), SLICE):
        images = torch.from_numpy(split.images[start : start + SLICE])
        yield _sums(as_channels(images, rules.channels).transpose(0, 1))


def _sums(pixels: Tensor) -> Sums:
    """(C, …) uint8 0..255 or float32 0..1. Sums of integers are Python's, exact at any size."""
    deep = pixels.is_floating_point()
    x = pixels.flatten(1).to(torch.float64) * 255 if deep else pixels.flatten(1).to(torch.int64)
    return x.shape[1], x.sum(1).tolist(), (x * x).sum(1).tolist()
