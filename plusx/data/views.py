"""Test protocols, the paper's (section 3.4) and one for small images: the views of an image that a network answers to.

The probabilities of an image are the mean over its views. Each view starts from the decoded image and is normalised as
in training.
"""

import re
from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional

from plusx.config import MAX_SIDE
from plusx.data.transforms import Preprocess
from plusx.errors import ConfigError

SIDES = (224, 256, 384, 480, 640)  # px, of a network for 224 px (section 3.4)

Views = Callable[[Preprocess, Tensor], list[Tensor]]
"""Rules and an image (C, H, W), uint8 or float32 0..1 -> its views, each normalised float32 (C, H', W')."""


def one_crop(rules: Preprocess, image: Tensor) -> list[Tensor]:
    """The view of evaluation in training."""
    return [rules(image)]


def ten_crops(rules: Preprocess, image: Tensor) -> list[Tensor]:
    """Squares at the four corners and in the centre, each followed by its mirror (after Krizhevsky et al. 2012).

    They are cut out of the image with its shorter side resized to `resize`, Krizhevsky's out of its central square.
    Where all five are one, as with fit "pad" and "stretch", which leave a square, it comes once with its mirror: the
    mean is the same.
    """
    whole, size = rules.whole(image), rules.size
    bottom, right = whole.shape[1] - size, whole.shape[2] - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    crops = [whole[:, top : top + size, left : left + size] for top, left in corners[: 5 if bottom or right else 1]]
    return [x for crop in map(rules.normalize, crops) for x in (crop, crop.flip(2))]


def six_views(rules: Preprocess, image: Tensor) -> list[Tensor]:
    """The view of evaluation, and that view one pixel further up and left, and down and right; each with its mirror.

    What moves in from outside is the image's reflection. For networks trained with small translations, after
    Jordan (2024, arXiv 2404.00498), whose image as it is has half of the weight; here each view has the same.
    """
    view = rules(image)
    height, width = view.shape[1:]
    padded = functional.pad(view[None], (1, 1, 1, 1), mode="reflect")[0]
    moved = (padded[:, top : top + height, left : left + width] for top, left in ((1, 1), (2, 2), (0, 0)))
    return [x for y in moved for x in (y, y.flip(2))]


def scales(rules: Preprocess, image: Tensor, sides: tuple[int, ...] = ()) -> list[Tensor]:
    """The whole image at several sizes, for a network that is fully convolutional.

    Arguments:
        rules: with fit "crop" the image keeps its shape; otherwise it is the square of the fit, at each size.
        image: (C, H, W).
        sides: shorter sides, px; none are the paper's, times `size` / 224.
    """
    sides = sides or tuple(round(side * rules.size / 224) for side in SIDES)
    return [rules.normalize(rules.whole(image, side)) for side in sides]


PROTOCOLS: dict[str, tuple[Views, int]] = {
    "1-crop": (one_crop, 1),
    "6-view": (six_views, 6),
    "10-crop": (ten_crops, 10),
    "multi-scale": (scales, len(SIDES)),
}


def views_of(protocol: str) -> tuple[Views, int]:
    """What makes the views of a protocol, and how many it makes at most.

    Arguments:
        protocol: a name of `PROTOCOLS`, or `multi-scale=` and shorter sides in px with commas between.

    Raises:
        ConfigError: anything else.
    """
    if protocol in PROTOCOLS:
        return PROTOCOLS[protocol]
    if re.fullmatch(r"multi-scale=[0-9]{1,9}(,[0-9]{1,9})*", protocol):
        sides = tuple(map(int, protocol.partition("=")[2].split(",")))
        if all(1 <= side <= MAX_SIDE for side in sides):
            return partial(scales, sides=sides), len(sides)
    raise ConfigError(
        f"--protocol: got {protocol!r}, expected one of {', '.join(PROTOCOLS)}, multi-scale=PX,PX,…",
        f"PX is a shorter side from 1 to {MAX_SIDE}, as in multi-scale=224,256,384.",
    )
