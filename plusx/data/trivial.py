"""TrivialAugment (Müller and Hutter 2021): one operation at a random strength on each training image.

The wide space of the paper, as torchvision has it; the operations are torchvision's, the random numbers `sampling`'s.
"""

from collections.abc import Callable, Sequence
from math import atan, degrees
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from plusx.data.sampling import Stream, uniform

STRENGTHS = 31
DRAWS = 3  # operation, strength, sign


def steps(first: float, last: float) -> list[float]:
    """Strengths in equal steps."""
    found: list[float] = torch.linspace(first, last, STRENGTHS).tolist()
    return found


class Operation(NamedTuple):
    """What is done to an image (C, H, W), uint8 or float32 0..1.

    Arguments:
        apply: (image, strength) -> image of the same shape and type.
        strengths: that are drawn from.
        signed: whether every second strength is negative.
    """

    apply: Callable[[Tensor, float], Tensor]
    strengths: list[float]
    signed: bool = True


def _moved(image: Tensor, right: float = 0, down: float = 0, shear: tuple[float, float] = (0, 0)) -> Tensor:
    centre = [0.0, 0.0] if any(shear) else None
    angles = [degrees(atan(s)) for s in shear]
    shift = [int(right), int(down)]
    moved: Tensor = F.affine(image, 0, shift, 1, angles, interpolation=InterpolationMode.BILINEAR, center=centre)
    return moved


def _solarized(image: Tensor, least: float) -> Tensor:
    solarized: Tensor = F.solarize(image, least * (1 if image.is_floating_point() else 255))
    return solarized


OPERATIONS = (
    Operation(lambda image, _: image, [0.0]),
    Operation(lambda image, s: _moved(image, shear=(s, 0)), steps(0, 0.99)),
    Operation(lambda image, s: _moved(image, shear=(0, s)), steps(0, 0.99)),
    Operation(lambda image, s: _moved(image, right=s), steps(0, 32)),
    Operation(lambda image, s: _moved(image, down=s), steps(0, 32)),
    Operation(lambda image, s: F.rotate(image, s, interpolation=InterpolationMode.BILINEAR), steps(0, 135)),
    Operation(lambda image, s: F.adjust_brightness(image, 1 + s), steps(0, 0.99)),
    Operation(lambda image, s: F.adjust_saturation(image, 1 + s), steps(0, 0.99)),
    Operation(lambda image, s: F.adjust_contrast(image, 1 + s), steps(0, 0.99)),
    Operation(lambda image, s: F.adjust_sharpness(image, 1 + s), steps(0, 0.99)),
    Operation(lambda image, s: F.posterize(image, round(s)), steps(8, 2), signed=False),
    Operation(_solarized, steps(1, 0), signed=False),
    Operation(lambda image, _: F.autocontrast(image), [0.0]),
    Operation(lambda image, _: F.equalize(image), [0.0]),
)


def varied(pixels: Tensor, seed: int, epoch: int, ids: NDArray[np.int64], deep: Sequence[bool]) -> Tensor:
    """One random operation on each of (N, H, W, C), uint8 or float32, 0..255; in place.

    Those that are not `deep` (N,) are changed as uint8 in any company.
    """
    draws = uniform(seed, epoch, ids, Stream.POLICY, DRAWS).tolist()
    for out, drawn, fine in zip(pixels, draws, deep, strict=True):
        image = (out if fine else out.to(torch.uint8)).permute(2, 0, 1)
        out.copy_(_operated(image, *drawn).permute(1, 2, 0))
    return pixels


def _operated(image: Tensor, kind: float, strength: float, sign: float) -> Tensor:
    """(C, H, W), 0..255, after the operation that three numbers in [0, 1) stand for."""
    operation = OPERATIONS[int(kind * len(OPERATIONS))]
    size = operation.strengths[int(strength * len(operation.strengths))]
    size = -size if operation.signed and sign < 0.5 else size
    if image.dtype == torch.uint8:
        return operation.apply(image, size)
    return operation.apply(image / 255, size) * 255
