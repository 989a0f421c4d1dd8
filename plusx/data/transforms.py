"""The one evaluation transform: decoded pixels to network input, always an image at a time, always in float32.

Made of operations that an exported graph repeats: division, antialiased bilinear resize, crop or pad, normalisation.
Training-time evaluation, `evaluate`, `predict` and the model file share it, so the same file gets the same bits.
"""

import base64
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plusx.config import MAX_PIXELS, MAX_SIDE, MOST_PIXELS
from plusx.data.decode import Source, decode, image_error
from plusx.errors import ConfigError

BAND = 2**19  # pixels resized at a time
LONGEST = 4  # shorter sides that a centre crop looks at; the rest of a very long image is never resized
SLACK = 1e-3  # that values of an image may lie outside of 0..1, as after a resize
SMALLEST, LARGEST = 1e-9, 1e9  # of a standard deviation; the latter of a mean too
GRAY = (0.299, 0.587, 0.114)
BATCH, BATCH_PIXELS = 128, 32 * 224**2  # of a forward pass of evaluation, at most


def eval_batch(size: int) -> int:
    """Images, so many px a side, that evaluation sends through a network at a time.

    128 small ones, 32 of 224 px: on a CPU more are no faster, and a ResNet-50 takes 4 GB for 128.
    """
    return max(1, min(BATCH, BATCH_PIXELS // size**2))


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Decoding rules and the evaluation transform.

    Arguments:
        size: side of the square output, px.
        resize: shorter side before the centre crop, px; not used by the other fits.
        fit: "crop": resize the shorter side, keep the centre; "pad": resize the longer side, fill with the background;
            "stretch": resize both.
        channels: 1 for gray, 3 for RGB.
        mean, std: of each channel, in 0..1 units.
        background: gray level under transparent pixels and around padded images, 0 to 255.
        max_pixels: largest image accepted, from its header.
        mean_image: subtracted pixel by pixel instead of `mean`, which then is its mean: little-endian float32
            (C, size, size) in 0..1 units, as base64. See `centred`.

    Raises:
        ConfigError: values that do not go together.
    """

    size: int
    resize: int
    fit: str
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    background: int = 255
    max_pixels: int = MAX_PIXELS
    mean_image: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        whole = (("size", MAX_SIDE, 1), ("resize", MAX_SIDE, 1), ("background", 255, 0), ("max_pixels", MOST_PIXELS, 1))
        problems = [
            f"data.{name}: got {str(value)[:40]}, expected a whole number from {low} to {high}"
            for name, high, low in whole
            if type(value := getattr(self, name)) is not int or not low <= value <= high
        ]
        if self.fit not in ("crop", "pad", "stretch"):
            problems.append(f"data.fit: got {self.fit!r}, expected one of crop, pad, stretch")
        if not problems and self.fit == "crop" and self.resize < self.size:
            problems.append(f"data.resize: got {self.resize}, expected at least data.size ({self.size})")
        if self.channels not in (1, 3):
            problems.append(f"data.channels: got {self.channels}, expected 1 or 3")
        if not len(self.mean) == len(self.std) == self.channels:
            problems.append(f"mean and std: got {len(self.mean)} and {len(self.std)} values, expected {self.channels}")
        if not all(SMALLEST <= value <= LARGEST for value in self.std):
            problems.append(f"std: got {str(self.std)[:80]}, expected {SMALLEST:g} to {LARGEST:g}")
        if not all(abs(value) <= LARGEST for value in self.mean):
            problems.append(f"mean: got {str(self.mean)[:80]}, expected at most {LARGEST:g} on either side of 0")
        problems = problems or self._mean_image_problems()
        if problems:
            raise ConfigError("; ".join(problems))

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 0..255 or float32 0..1 (C, H, W) -> normalised float32 (C, size, size).

        Raises:
            ImageError: anything else.
        """
        if wrong := _unfit(image):
            expected = "a tensor, uint8 or float32 with values from 0 to 1, of shape (1 or 3, H, W)"
            raise image_error(image, "image", f"got {wrong}, expected {expected}")
        return self.normalize(self.square(image))

    def load(self, source: Source | NDArray[np.uint8], name: str | None = None) -> Tensor:
        """A file's path or bytes, or an image (C, H, W) -> normalised float32 (C, size, size).

        Raises:
            ImageError: the file cannot be decoded.
        """
        return self(self.decode(source, name))

    def decode(
        self, source: Source | NDArray[np.uint8], name: str | None = None, *, min_side: int | None = None
    ) -> Tensor:
        """A file's path or bytes -> (C, H, W) as `decode.decode` gives it; an image (C, H, W) as it is.

        Raises:
            ImageError: the file cannot be decoded, or what was given is none of these.
        """
        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.ndim != 3 or source.shape[0] not in (1, 3) or not source.size:
                got = f"got an array of {source.dtype} {source.shape}, expected uint8 (1 or 3, H, W)"
                raise image_error(source, name or "image", got)
            return torch.from_numpy(np.require(source, requirements=("C", "W")))  # a copy of what PyTorch cannot share
        if isinstance(source, bytearray | memoryview):
            source = bytes(source)
        if not isinstance(source, str | os.PathLike | bytes):
            got = f"got {type(source).__name__}, expected a path, a file's bytes or an array"
            raise image_error(source, name or "image", got)
        return decode(source, name=name, min_side=min_side, **self.decoding)

    @property
    def decoding(self) -> dict[str, int]:
        """What `decode` has to know."""
        return {"max_pixels": self.max_pixels, "channels": self.channels, "background": self.background}

    def keeps(self, shape: tuple[int, ...]) -> bool:
        """Whether images of this shape (C, H, W) go through with neither a resize nor a crop."""
        whole = self.fit != "crop" or self.resize == self.size
        return whole and tuple(shape) == (self.channels, self.size, self.size)

    def square(self, image: Tensor) -> Tensor:
        """(C, H, W), uint8 or float32 -> float32 0..1 (C, size, size), not yet normalised."""
        return as_channels(_centre(self._fitted(image), self.size, self.size), self.channels)

    def whole(self, image: Tensor, side: int | None = None) -> Tensor:
        """(C, H, W), uint8 or float32 -> float32 0..1 (C, H', W'), not yet normalised: the image before any crop.

        Arguments:
            image: with fit "crop" it keeps its shape; of one longer than `LONGEST` shorter sides it is the centre.
            side: the shorter side, or with other fits the square's, px; None is that of evaluation.
        """
        return as_channels(self._fitted(image, side), self.channels)

    @cached_property
    def mean_pixels(self) -> Tensor | None:
        """The mean image, float32 (C, size, size) in 0..1 units; None when there is none."""
        if self.mean_image is None:
            return None
        values = np.frombuffer(base64.b64decode(self.mean_image, validate=True), "<f4").astype(np.float32)
        return torch.from_numpy(values.reshape(self.channels, self.size, self.size))

    def centred(self, mean_image: Tensor) -> "Preprocess":
        """These rules with a mean image, float32 (C, size, size) in 0..1, and a standard deviation of 1.

        That is the paper's normalisation (sections 3.4 and 4.2).
        """
        text = base64.b64encode(mean_image.numpy().astype("<f4").tobytes()).decode()
        mean = tuple(mean_image.double().mean((1, 2)).tolist())
        return replace(self, mean=mean, std=(1.0,) * self.channels, mean_image=text)

    def normalize(self, x: Tensor) -> Tensor:
        """float32 0..1 (..., C, H, W) -> (x - mean) / std; elementwise, so equal bits for one image and for many.

        A mean image is subtracted from images of its own size, the mean of each channel from others.
        """
        shape = (self.channels, 1, 1)
        mean, std = (torch.tensor(v, dtype=torch.float32, device=x.device).view(shape) for v in (self.mean, self.std))
        if self.mean_pixels is not None and x.shape[-3:] == self.mean_pixels.shape:
            mean = self.mean_pixels.to(x.device)
        return (x - mean).div_(std)

    def _mean_image_problems(self) -> list[str]:
        try:
            image = self.mean_pixels
        except (TypeError, ValueError):
            return [f"mean_image: expected base64 of float32 ({self.channels}, {self.size}, {self.size})"]
        finite = image is None or bool(image.isfinite().all())
        return [] if finite else ["mean_image: got NaN or infinity, expected finite values"]

    def _fitted(self, image: Tensor, side: int | None = None) -> Tensor:
        if self.fit == "crop":
            return _shorter(image, side or self.resize)
        side = side or self.size
        return _resized(image, side, side) if self.fit == "stretch" else self._padded(image, side)

    def _padded(self, image: Tensor, side: int) -> Tensor:
        longer = max(image.shape[1:])
        height, width = (max(1, length * side // longer) for length in image.shape[1:])
        top, left = (side - height) // 2, (side - width) // 2
        edges = (left, side - width - left, top, side - height - top)
        return F.pad(_resized(image, height, width), edges, value=self.background / 255)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the inverse of `from_dict`. No key for a mean image where there is none."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items() if v is not None}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Preprocess":
        """From the values of `to_dict`.

        Raises:
            ConfigError: missing or unknown fields, or values that do not go together.
        """
        names = {f.name for f in fields(cls)}
        if set(plain) | {"mean_image"} != names:
            raise ConfigError(f"preprocessing: got fields {sorted(plain)}, expected {sorted(names)}")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
        return cls(**values)


def _unfit(image: Any) -> str:
    """What keeps this from being an image for the network; empty when nothing does."""
    if not isinstance(image, Tensor):
        return type(image).__name__
    pixels = image.dtype in (torch.uint8, torch.float32) and image.ndim == 3 and image.shape[0] in (1, 3)
    if not pixels or not image.numel():
        return f"a tensor of {image.dtype} {tuple(image.shape)}"
    if image.is_floating_point():
        low, high = (extreme.item() for extreme in image.aminmax())
        if not (low >= -SLACK and high <= 1 + SLACK):  # NaN fails both
            return f"values from {low:g} to {high:g}"
    return ""


def as_channels(images: Tensor, channels: int) -> Tensor:
    """(…, C, H, W) with C = 1 or 3 as gray or RGB, of the same type; RGB becomes gray by ITU-R 601's weights."""
    if images.shape[-3] == channels:
        return images
    if channels == 3:
        return images.expand(*images.shape[:-3], 3, -1, -1)
    gray = (images * torch.tensor(GRAY, dtype=torch.float32, device=images.device).view(3, 1, 1)).sum(-3, keepdim=True)
    return gray if images.is_floating_point() else gray.round().to(images.dtype)


def _shorter(image: Tensor, side: int) -> Tensor:
    """(C, H, W) with its shorter side resized to `side` px; of a very long image the centre alone."""
    shorter = min(image.shape[1:])
    image = _centre(image, *(min(length, LONGEST * shorter) for length in image.shape[1:]))
    height, width = (length * side // shorter for length in image.shape[1:])
    return _resized(image, height, width)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bilinear resize of (C, H, W), uint8 or float32, to float32 0..1 (C, height, width).

    Rows are made narrower before the image is made lower, as one call would do it and to the same bits, but in bands,
    so that a large photo never exists as a whole in float32.
    """
    if image.shape[1:] == (height, width):
        return _floats(image)
    rows = max(1, BAND // image.shape[2])
    bands = [_interpolated(_floats(band), band.shape[1], width) for band in torch.split(image, rows, dim=1)]
    return _interpolated(torch.cat(bands, dim=1), height, width)


def _floats(image: Tensor) -> Tensor:
    """float32 0..1, in one memory layout whatever the input's, since the resize could round differently for another."""
    x = image.to(torch.float32, memory_format=torch.contiguous_format)
    return x.div_(255) if image.dtype == torch.uint8 else x


def _interpolated(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x[None], (height, width), mode="bilinear", antialias=True)[0]


def _centre(x: Tensor, height: int, width: int) -> Tensor:
    """The centre of (C, H, W)."""
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]
