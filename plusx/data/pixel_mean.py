"""The mean image: what the paper subtracts from each pixel (sections 3.4 and 4.2), and how it moves in training."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plusx.config import AugmentConfig
from plusx.data.augment import RANDOM_CROPS, fill_colour, mirrored, padded, padding, shifts, shifts_of_mirrored, windows
from plusx.data.dataset import Progress, Split
from plusx.data.transforms import Preprocess
from plusx.threads import in_parallel


def mean_image(split: Split, rules: Preprocess, progress: Progress | None = None) -> Tensor:
    """The mean of a split's images as evaluation sees them before normalisation, streamed: constant memory.

    The sums of 8-bit images that need no resize are of whole numbers, so exact; of others they are in float64.

    Arguments:
        split: the training split.
        rules: how files are decoded and made square; their mean and std are not used.
        progress: called with (done, total).

    Returns:
        float32 (C, size, size) in 0..1 units.

    Raises:
        ImageError: a file that cannot be decoded.
    """
    plain = replace(rules, mean=(0.0,) * rules.channels, std=(1.0,) * rules.channels, mean_image=None)

    def levels(i: int) -> Tensor:
        return plain.load(split.source(i)) * 255  # whole numbers again, whatever 8-bit value was divided

    total = torch.zeros(rules.channels, rules.size, rules.size, dtype=torch.float64)
    for found in in_parallel(levels, range(len(split)), progress):
        total += found
    return (total / (255 * len(split))).float()


class MovingMean:
    """What is subtracted from training images: the mean image, translated and mirrored with each of them.

    The paper subtracts first and then pads with zeros, crops and mirrors. From random crops the mean image is
    subtracted as it is, as the authors' released models do, which know the mean of crops alone.

    Arguments:
        preprocess: rules with a mean image.
        augment: random changes.
        seed: of the run.
        device: where batches go.
    """

    def __init__(self, preprocess: Preprocess, augment: AugmentConfig, seed: int, device: torch.device) -> None:
        assert preprocess.mean_pixels is not None
        pixels = preprocess.mean_pixels.permute(1, 2, 0) * 255
        self._pad = padding(augment)
        both = padded(torch.stack([pixels, pixels.flip(1)]), self._pad, fill_colour(augment, preprocess.mean))
        self._both, self._size, self._augment, self._seed = both.to(device), preprocess.size, augment, seed

    def of(self, epoch: int, ids: NDArray[np.int64]) -> Tensor:
        """For the training pixels of ids (N,), 0..255: float32 (N, S, S, C), or (S, S, C) where it is one for all."""
        if self._augment.crop in RANDOM_CROPS:
            return self._both[0]
        which = mirrored(self._augment, self._seed, epoch, ids)
        corners = shifts_of_mirrored(shifts(self._pad, self._seed, epoch, ids), which, self._pad)
        return windows(self._both, which.astype(np.int64), corners, self._size)
