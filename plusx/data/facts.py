"""What recipes may know about the data: counts, and sizes from the headers of a sample."""

import os
import stat
from typing import NamedTuple

import numpy as np
from PIL import Image

from plusx.config import Facts
from plusx.data.dataset import Dataset, Split
from plusx.data.decode import FORMATS, PHOTOS, orientation
from plusx.errors import DataError, ImageError
from plusx.threads import in_parallel

SAMPLE = 256  # files whose headers tell the size
GRAY = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class Header(NamedTuple):
    """An image file's header: upright size in px, Pillow's mode, whether EXIF turns it, whether it has several frames,
    and whether some of it is transparent.

    The further pictures of a JPEG are previews of the first, not frames.
    """

    width: int
    height: int
    mode: str
    turned: bool
    animated: bool
    transparent: bool


def header(path: str) -> Header:
    """Read a file's header, no pixels.

    Raises:
        ImageError: not one of the accepted formats.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError(path, "not a regular file")
        with Image.open(path, formats=FORMATS) as image:
            turn = orientation(image)
            size = image.size[::-1] if turn >= 5 and image.format != "TIFF" else image.size  # Pillow turns a TIFF
            return Header(*size, image.mode, turn > 1, _animated(image), image.has_transparency_data)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise of every kind on hostile bytes
        raise ImageError(path, str(error) or type(error).__name__) from error


def _animated(image: Image.Image) -> bool:
    try:
        return image.format not in PHOTOS and getattr(image, "is_animated", False)
    except Exception:  # a damaged second frame, which nobody decodes
        return True


def facts(dataset: Dataset) -> Facts:
    """Counts, the median size of up to 256 training images spread over all classes, and the channels they need.

    Where those are all gray, the headers of all training images are read before colour is given up.

    Raises:
        DataError: none of those files can be read.
    """
    train = dataset.splits["train"]
    width, height, aspect, gray = _shape(train)
    if gray and train.paths is not None:  # a few in colour may lie outside the sample
        gray = all(in_parallel(_seems_gray, train.paths))
    return Facts(
        n_train=len(train),
        n_val=len(dataset.splits.get("val", ())),
        n_classes=len(dataset.classes),
        width=width,
        height=height,
        channels=1 if gray else 3,
        mirror=dataset.mirror,
        benchmark=dataset.benchmark,
        files=train.images is None,
        aspect=aspect,
    )


def _shape(split: Split) -> tuple[int, int, float, bool]:
    """Median width, height and longer side over shorter, and whether all are gray, of a sample or of all arrays."""
    if split.images is not None:
        _, channels, height, width = split.images.shape
        return width, height, max(width, height) / min(width, height), channels == 1
    assert split.paths is not None
    headers = []
    for i in np.unique(np.linspace(0, len(split) - 1, SAMPLE).astype(int)):  # examples are sorted by class
        try:
            headers.append(header(split.paths[i]))
        except ImageError as error:
            problem = error
    if not headers:
        raise DataError(f"none of the files looked at can be read; one of them: {problem.message}", problem.hint)
    width, height = (int(np.median([h[axis] for h in headers])) for axis in (0, 1))
    aspect = float(np.median([max(h[:2]) / max(min(h[:2]), 1) for h in headers]))
    return width, height, aspect, all(h.mode in GRAY for h in headers)


def _seems_gray(path: str) -> bool:
    """Whether the header says gray; a file that cannot be read decides nothing."""
    try:
        return header(path).mode in GRAY
    except ImageError:
        return True
