"""Mean, std and covariance of the training images' channels, streamed: constant memory at any number of images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plusx.data.dataset import Progress, Split
from plusx.data.sampling import order
from plusx.data.transforms import Preprocess, as_channels
from plusx.threads import in_parallel

SAMPLE = 4000  # photos; the mean of so many is within a quarter of a gray level
SMALL = 64  # px: up to this network input all files are read
SLICE = 64  # images in memory summed at a time
BAND = 2**20  # pixels of an image summed at a time
ROUNDING = 1e-6  # a standard deviation below may be rounding, of images with more than 8 bits

# Pixels, for each channel the sum of values 0..255, and for each two channels that of their products: as Python's
# numbers, which add up without end.
Sums = tuple[int, NDArray[np.object_], NDArray[np.object_]]


@dataclass(frozen=True)
class Statistics:
    """Mean, standard deviation, covariance of channels over all pixels in 0..1 units, and what a person should know."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...] = ()


def channel_statistics(
    split: Split, rules: Preprocess, progress: Progress | None = None, *, whole: bool = False
) -> Statistics:
    """Statistics of a split: exact, by integer sums, for 8-bit images.

    Arguments:
        split: the training split.
        rules: how files are decoded.
        progress: called with (done, total).
        whole: read every file in full. Otherwise at most 4,000 photos are read, chosen by a fixed seed, and a JPEG at a
            scale that keeps the shorter side at `rules.resize`.

    Returns:
        the statistics; a channel that never changes gets the standard deviation 1.

    Raises:
        ImageError: a file that cannot be decoded.
    """
    ids: Sequence[int] = range(len(split))
    notes: tuple[str, ...] = ()
    if split.paths is not None and rules.size > SMALL and len(split) > SAMPLE and not whole:
        ids = sorted(order(len(split), 0, 0, 0, SAMPLE).tolist())
        notes = (f"mean and standard deviation are of {SAMPLE:,} of the {len(split):,} training photos",)
    if split.paths is not None:
        paths = [split.paths[i] for i in ids]
        least = None if whole else rules.resize
        found = in_parallel(lambda path: _sums(rules.decode(path, min_side=least)), paths, progress)
    else:
        found = _array_sums(split, rules)
    count, total = 0, np.zeros(rules.channels, object)
    products = np.zeros((rules.channels, rules.channels), object)
    for n, sums, second in found:
        count, total, products = count + n, total + sums, products + second
    spread = count * products - np.outer(total, total)
    deviations = (max(s, 0) ** 0.5 / count / 255 for s in spread.diagonal())
    std = tuple(value if value > ROUNDING else 1.0 for value in deviations)
    covariance = tuple(map(tuple, spread / count**2 / 255**2))
    return Statistics(tuple(total / count / 255), std, covariance, notes)


def sample(split: Split, rules: Preprocess, count: int) -> Tensor:
    """At most `count` images as evaluation sees them, (N, C, S, S); which ones depends on the split's size alone.

    Raises:
        ImageError: a file that cannot be decoded.
    """
    ids = sorted(order(len(split), 0, 0, 0, min(count, len(split))).tolist())
    return torch.stack([rules.load(split.source(i)) for i in ids])


def _array_sums(split: Split, rules: Preprocess) -> Iterator[Sums]:
    assert split.images is not None
    for start in range(0, len(split), SLICE):
        images = torch.from_numpy(split.images[start : start + SLICE])
        yield _sums(as_channels(images, rules.channels).transpose(0, 1))


def _sums(pixels: Tensor) -> Sums:
    """(C, …) uint8 0..255 or float32 0..1. Sums of 8-bit values are whole numbers, exact at any size."""
    deep, flat = pixels.is_floating_point(), pixels.flatten(1)
    sums, products = torch.zeros(len(flat), dtype=torch.float64), torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for band in torch.split(flat, BAND, 1):
        x = band.to(torch.float64)
        if deep:
            x *= 255
        sums, products = sums + x.sum(1), products + x @ x.T
    kind = torch.float64 if deep else torch.int64  # below 2**53, so those of 8-bit values are whole numbers
    return flat.shape[1], sums.to(kind).numpy().astype(object), products.to(kind).numpy().astype(object)
