"""The one way from a file's bytes to pixels, for training, evaluation, prediction and serving.

Rules: formats from an allow-list; size limits from the header, before anything is decoded; upright by EXIF orientation;
the first frame; transparency over a fixed gray; gray of more than 8 bits at full precision, unless it has transparency;
a cut file is refused.
Colour of more than 8 bits a channel is read as its high 8 bits, CMYK by Pillow's plain formula; colour profiles are not
applied.
"""

import io
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from plusx.config import MAX_PIXELS
from plusx.errors import ImageError

EXTENSIONS = frozenset(  # taken from folders
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
PHOTOS = ("JPEG", "MPO")  # of Pillow's names for what it opened; an MPO is a JPEG that has others behind it
MAX_SCANS = 100  # of a progressive JPEG; usual are 10, and each costs a pass over the whole image
ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MIRRORED = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}  # axes, after a transposition from 5 on
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_IEND = b"IEND\xaeB`\x82"
_EOI, _SOS = b"\xff\xd9", b"\xff\xda"
_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # JPEG markers but for restarts and those that libjpeg passes over
_FRAMES = (0xC0, 0xC1, 0xC2)  # JPEG markers of baseline, extended and progressive frames
_LONGEST_JPEG = 65_500  # px, that libjpeg writes
_CONTEXT_ROWS = 4  # below a row, that upsampling its colour may look at
_BITS, _PHOTOMETRIC, _TILE_WIDTH, _TILE_HEIGHT = 258, 262, 322, 323  # TIFF tags

Box = tuple[int, int, int, int]  # top, left, height, width
Source = str | os.PathLike[str] | bytes

PngImagePlugin.MAX_TEXT_MEMORY = 8 * 2**20  # compressed comments may unpack to 64 MiB by default
warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file; what matters becomes an ImageError


def decode(
    source: Source,
    *,
    max_pixels: int = MAX_PIXELS,
    channels: int = 3,
    background: int = 255,
    name: str | None = None,
    min_side: int | None = None,
) -> Tensor:
    """Decode an image file.

    Arguments:
        source: path of a regular file, or a file's bytes.
        max_pixels: largest width times height accepted, read from the header.
        channels: 1 for gray, 3 for RGB.
        background: gray level under transparent pixels, 0 to 255.
        name: what errors call it; the path by default.
        min_side: for training and reports only: decode a JPEG at 1/2, 1/4 or 1/8 scale if its shorter side stays at
            least this.

    Returns:
        (C, H, W): uint8 0..255; or float32 0..1 where a gray source without alpha has more than 8 bits: 16-bit and
        32-bit integers divided by 65535, 12-bit TIFF by 4095, floating point as it is. In memory the channels of a
        pixel are adjacent.

    Raises:
        ImageError: whatever is wrong with the file, its values included; no other exception leaves.
    """
    with _opened(source, name, max_pixels) as (image, turn, stream):
        scale = 1 if min_side is None else _scale(min(image.size), min_side)
        # A whole image is turned sooner by Pillow.
        if turn > 1 or (pixels := _quick_jpeg(image, turn, stream, scale, channels)) is None:
            pixels = _tensor(_upright(image, turn, scale), channels, background)
        return pixels.permute(2, 0, 1)


def decode_crop(
    source: Source,
    choose: Callable[[int, int], Box],
    size: int,
    *,
    max_pixels: int = MAX_PIXELS,
    channels: int = 3,
    background: int = 255,
) -> Tensor:
    """Decode the part of an image that a training crop needs, as coarsely as the crop allows.

    Arguments:
        source: path of a regular file, or a file's bytes.
        choose: (height, width) of the upright image -> the crop in it.
        size: a JPEG may be decoded at 1/2, 1/4 or 1/8 scale while neither side of the crop falls below this.
        max_pixels: as for `decode`.
        channels: as for `decode`.
        background: as for `decode`.

    A JPEG is read down to the crop and no further, so damage below it goes unnoticed here.

    Returns:
        the crop at the scale it was decoded at, (H, W, C); types and values as from `decode`.

    Raises:
        ImageError: as `decode`.
    """
    with _opened(source, None, max_pixels) as (image, turn, stream):
        width, height = image.size[::-1] if turn >= 5 else image.size
        top, left, high, wide = choose(height, width)
        scale = _scale(min(high, wide), size)
        rows, columns = -(-height // scale), -(-width // scale)
        edges = _edges((top, left, high, wide), rows / height, columns / width)
        if (pixels := _quick_jpeg(image, turn, stream, scale, channels, edges[1])) is not None:
            return pixels[edges[0] : edges[1], edges[2] : edges[3]]
        image = _upright(image, turn, scale)
        top, bottom, left, right = _edges((top, left, high, wide), image.height / height, image.width / width)
        if image.mode in _DEEP:  # a part has no tags, which say what the values mean
            return _tensor(image, channels, background)[top:bottom, left:right]
        return _tensor(image.crop((left, top, right, bottom)), channels, background)


def smaller(path: str, side: int, *, max_pixels: int = MAX_PIXELS, channels: int = 3, background: int = 255) -> bytes:
    """A large image as a JPEG file, upright, at a whole fraction of its size.

    Arguments:
        path: of a regular file.
        side: what is left of the shorter side is this at least, px.
        max_pixels: as for `decode`.
        channels: as for `decode`.
        background: as for `decode`.

    Returns:
        the file, of quality 95 with its colours at full resolution; b"" for an image less than twice as large as
        `side`, with more than 8 bits, or too long for a JPEG.

    Raises:
        ImageError: as `decode`.
    """
    with _opened(path, None, max_pixels) as (image, turn, _):
        if min(image.size) < 2 * side or image.mode in _DEEP:
            return b""
        image = _upright(image, turn, _scale(min(image.size), side))
        if image.has_transparency_data:  # transparent pixels have no part in a mean
            image = image.convert("RGBA")
        elif image.mode not in ("L", "RGB", "CMYK"):
            image = image.convert("RGB")
        image = image.reduce(min(image.size) // side)  # what is no JPEG has its whole size still
        if max(image.size) > _LONGEST_JPEG:
            return b""
        pixels = _tensor(image, channels, background).numpy()
        space = "GRAY" if channels == 1 else "RGB"
        return bytes(simplejpeg.encode_jpeg(pixels, 95, space, colorsubsampling="444"))


def image_error(source: object, name: str | None, reason: str) -> ImageError:
    """What is wrong with an image; without the hint to run `plusx check` where it is no file."""
    if isinstance(source, str | os.PathLike):
        return ImageError(name or os.fspath(source), reason)
    error = ImageError(name or "image bytes", reason)
    error.hint = ""
    return error


def _edges(box: Box, down: float, across: float) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a crop in an image scaled by these factors."""
    top, left, high, wide = box
    return round(top * down), round((top + high) * down), round(left * across), round((left + wide) * across)


@contextmanager
def _opened(source: Source, name: str | None, max_pixels: int) -> Iterator[tuple[Image.Image, int, io.BytesIO]]:
    """An image whose header is acceptable, its orientation (1 to 8), its bytes; every error becomes an ImageError."""
    try:
        # Nothing else keeps the bytes of a file, so that the stream may change them without a copy of megabytes.
        stream = io.BytesIO(source if isinstance(source, bytes) else read_file(source, max_pixels))
        image = Image.open(stream, formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} px, more than the {max_pixels:,} allowed")
        if problem := _refused(image, stream.getvalue(), max_pixels):
            raise ValueError(problem)
        if image.format == "PNG":
            image.load()  # its EXIF data may follow the pixels
        yield image, 1 if image.format == "TIFF" else orientation(image), stream  # Pillow turns a TIFF by itself
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        reason = f"not an image of the kinds {', '.join(FORMATS)}" if stream.getvalue() else "empty"
        raise image_error(source, name, reason) from error
    except OSError as error:
        raise image_error(source, name, error.strerror or str(error)) from error
    except Exception as error:  # Pillow's readers raise of every kind on hostile bytes
        raise image_error(source, name, str(error) or type(error).__name__) from error


def read_file(path: str | os.PathLike[str], max_pixels: int) -> bytes:
    """A regular file's bytes; anything else is refused without waiting for it.

    Raises:
        OSError: it cannot be read.
        ValueError: no regular file, or of more bytes than an image of so many pixels can need.
    """
    status, limit = os.stat(path), 8 * max_pixels + 2**24
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > limit:
        raise ValueError(f"{status.st_size:,} bytes, more than the {limit:,} that an image of allowed size can need")
    # Unbuffered, since all is read at once; without waiting, since it may have become a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        return file.read(status.st_size)


def _refused(image: Image.Image, data: bytes, max_pixels: int) -> str:
    """What Pillow accepts and we refuse: cut ends, and headers that make decoding cost more than the size says."""
    if image.format == "PNG" and data.rfind(_IEND) < 0:
        return "truncated: no end of the PNG"
    if image.format == "BMP" and (declared := int.from_bytes(data[2:6], "little")) > len(data):
        return f"truncated: {len(data):,} of {declared:,} bytes"
    if image.info.get("progressive") and data.count(_SOS) > MAX_SCANS and (scans := _scans(data)) > MAX_SCANS:
        return f"{scans} JPEG scans, more than the {MAX_SCANS} allowed"
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile = image.tag_v2.get(_TILE_WIDTH, 0) * image.tag_v2.get(_TILE_HEIGHT, 0)
        if tile > max(max_pixels, 2**20):
            return f"TIFF tiles of {tile:,} px, more than the {max_pixels:,} allowed"
    return ""


def _scans(data: bytes) -> int:
    """Scans of a JPEG, up to the end of the image: what follows is never decoded."""
    at, scans = 2, 0
    while (marker := _SEGMENT.search(data, at)) and marker[0] != _EOI:
        scans += marker[0] == _SOS
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is absent or unreadable."""
    if not (image.format in ("PNG", "TIFF") or "exif" in image.info or "xmp" in image.info):
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data says nothing about the pixels
        return 1
    return value if value in _UPRIGHT else 1


def _scale(side: int, least: int) -> int:
    """The largest of libjpeg's divisors that leaves at least `least` of `side` px."""
    return next((s for s in (8, 4, 2) if side >= s * least), 1)


def _upright(image: Image.Image, turn: int, scale: int) -> Image.Image:
    """Decode, a JPEG at 1/scale of its size, and undo the EXIF orientation."""
    if scale > 1:
        image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
    image.load()
    return image.transpose(_UPRIGHT[turn]) if turn > 1 else image


def _quick_jpeg(
    image: Image.Image, turn: int, stream: io.BytesIO, scale: int, channels: int, rows: int = 1 << 16
) -> Tensor | None:
    """A JPEG at 1/scale of its size, upright, (H, W, C): Pillow's pixels, sooner.

    Arguments:
        image: its header.
        turn: its orientation.
        stream: the file's bytes; its header claims another height for a while.
        scale: 1, 2, 4 or 8.
        channels: 1 for gray, 3 for RGB.
        rows: needed, at that scale, of one that is not turned; more than a JPEG can have are all.

    Returns:
        at least those rows; None for what needs Pillow, which says what is wrong with it or bears it.
    """
    space, mode = ("GRAY", "L") if channels == 1 else ("RGB", "RGB")
    if image.format not in PHOTOS or image.mode != mode:
        return None
    height = image.height if turn > 1 else min(image.height, scale * (rows + _CONTEXT_ROWS))
    least = {"min_height": -(-height // scale), "min_width": -(-image.width // scale), "min_factor": 1}
    with stream.getbuffer() as data:
        at = _height_at(data)
        if at is None or _EOI not in bytes(data[-1024:]):  # cut
            return None
        true_height = bytes(data[at : at + 2])
        data[at : at + 2] = height.to_bytes(2, "big")
        try:
            # Rows that are left out would be an error if it were strict.
            pixels = simplejpeg.decode_jpeg(data, space, strict=height == image.height, **least)
        except ValueError:
            return None
        finally:
            data[at : at + 2] = true_height
    upright = torch.from_numpy(pixels).transpose(0, 1) if turn >= 5 else torch.from_numpy(pixels)
    return upright.flip(_MIRRORED[turn]) if turn in _MIRRORED else upright


def _height_at(data: memoryview) -> int | None:
    """Where the header of a JPEG says its height, two bytes at which decoders stop; None if it has no such header."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _FRAMES:
            return at + 5
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _tensor(image: Image.Image, channels: int, background: int) -> Tensor:
    """(H, W, C): uint8, or float32 of a deep gray image."""
    if image.mode in _DEEP:
        gray = torch.from_numpy(_deep(image, background))[:, :, None]
        return gray.repeat(1, 1, channels)
    if image.has_transparency_data:
        under = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(under, image.convert("RGBA"))
    wanted = "L" if channels == 1 else "RGB"
    if image.mode != wanted:
        image = image.convert(wanted)
    pixels = torch.from_numpy(np.array(image))
    return pixels[:, :, None] if channels == 1 else pixels


def _deep(image: Image.Image, background: int) -> NDArray[np.float32]:
    """(H, W) in 0..1 of a gray image with more than 8 bits."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    top = 1.0 if image.mode == "F" else 4095.0 if tags.get(_BITS) == (12,) else 65535.0
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # NaN fails both
        raise ValueError(f"values {low:g} to {high:g}, expected 0 to {top:g}")
    gray = values.astype(np.float32) / np.float32(top)
    if tags.get(_PHOTOMETRIC) == 0:  # zero is white
        gray = np.float32(1) - gray
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = background / 255
    return gray
