"""Random changes to training images: batched tensor operations whose random numbers come from `sampling`.

Pixels are (N, H, W, C), 0..255, uint8 or (where a source has more than 8 bits) float32, until `normalize` makes them
network input.
"""

from collections.abc import Sequence
from math import exp, log, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plusx.config import AugmentConfig
from plusx.data.decode import Box
from plusx.data.sampling import Stream, uniform

ASPECT = (log(3 / 4), log(4 / 3))  # of resized crops, width to height
RANDOM_CROPS = ("resized", "scale")
TRIES = 10
CROP_DRAWS = 2 * TRIES + 2
ERASED, ERASED_ASPECT = (0.02, 0.33), (log(0.3), log(3.3))  # share of the area, height to width
ERASE_DRAWS = 1 + 2 * TRIES + 2


def crop_box(augment: AugmentConfig, draws: Sequence[float], height: int, width: int, size: int) -> Box:
    """The random crop of one image, for `crop` = "resized" or "scale".

    Arguments:
        augment: kind of crop and its ranges.
        draws: 22 uniform numbers.
        height: of the image, px.
        width: of the image, px.
        size: side of the network input, px.

    Returns:
        top, left, height, width in the image. "resized": a random share of the area at a random aspect, as in
        GoogLeNet (if ten tries do not fit, the largest of an allowed aspect). "scale": the crop that is `size` px where
        the shorter side is of a random length (paper, section 3.4).
    """
    place_y, place_x = draws[-2:]
    if augment.crop == "scale":
        assert augment.shorter_side is not None, "recipes.choose fills it"
        low, high = augment.shorter_side
        shorter = min(height, width)
        scaled = max(size, low + int(draws[0] * (high - low + 1)))
        rows = columns = max(1, round(shorter * size / scaled))
    else:
        rows, columns = _resized_crop(augment.area, draws, height, width)
    top, left = int(place_y * (height - rows + 1)), int(place_x * (width - columns + 1))
    return top, left, rows, columns


def _resized_crop(area: tuple[float, float], draws: Sequence[float], height: int, width: int) -> tuple[int, int]:
    low, high = area
    for i in range(TRIES):
        pixels = height * width * (low + (high - low) * draws[2 * i])
        aspect = exp(ASPECT[0] + (ASPECT[1] - ASPECT[0]) * draws[2 * i + 1])
        rows, columns = round(sqrt(pixels / aspect)), round(sqrt(pixels * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            return rows, columns
    return min(height, max(1, round(width / exp(ASPECT[0])))), min(width, max(1, round(height * exp(ASPECT[1]))))


def crop_draws(seed: int, epoch: int, ids: NDArray[np.int64]) -> list[list[float]]:
    """What `crop_box` needs for each id, (N, 22)."""
    rows: list[list[float]] = uniform(seed, epoch, ids, Stream.CROP, CROP_DRAWS).tolist()
    return rows


def resize_crop(pixels: Tensor, size: int) -> Tensor:
    """(H, W, C) uint8 or float32 -> (size, size, C), antialiased bilinear; integer arithmetic for uint8."""
    if pixels.shape[:2] == (size, size):
        return pixels
    x = pixels.contiguous()[None].permute(0, 3, 1, 2)
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)


def mirrored(augment: AugmentConfig, seed: int, epoch: int, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which examples are mirrored in this epoch, (N,); "alternate": each in every other epoch, half of them in each."""
    if augment.flip == "random":
        return uniform(seed, epoch, ids, Stream.FLIP) < 0.5
    if augment.flip == "alternate":
        return (uniform(seed, 0, ids, Stream.FLIP) < 0.5) ^ (epoch % 2 == 1)
    return np.zeros(len(ids), np.bool_)


def mirror(pixels: Tensor, which: NDArray[np.bool_]) -> Tensor:
    """Mirror the chosen ones of (N, H, W, C), in place."""
    chosen = torch.from_numpy(np.flatnonzero(which)).to(pixels.device)
    pixels[chosen] = pixels[chosen].flip(2)
    return pixels


def padding(augment: AugmentConfig) -> int:
    """Pixels around a stored image, on each side, from which random windows are cut."""
    return (augment.pad or 0) if augment.crop == "translate" else 0


def fill_colour(augment: AugmentConfig, mean: Sequence[float]) -> Tensor | None:
    """What `frame` puts around translated images: the mean (C,), which normalisation turns to zero (to half a level).

    None where the padding mode is "reflect".
    """
    return None if augment.padding_mode == "reflect" else (torch.tensor(mean) * 255).round()


def frame(stored: Tensor, pad: int, fill: Tensor | None) -> Tensor:
    """Fill the outer `pad` px of (N, H + 2 pad, W + 2 pad, C) in place: with a colour (C,), or the image's reflection.

    Zeros, once the mean is subtracted, would be edges to a filter that whitens the input afterwards; a reflection has
    none.
    """
    for axis in (1, 2):
        side = stored.shape[axis] - 2 * pad
        sources = np.pad(np.arange(pad, pad + side), pad, mode="reflect").tolist()
        for line in (*range(pad), *range(pad + side, side + 2 * pad)):
            source = stored.select(axis, sources[line]) if fill is None else fill.to(stored.dtype)
            stored.select(axis, line).copy_(source)
    return stored


def padded(pixels: Tensor, pad: int, fill: Tensor | None) -> Tensor:
    """(N, H, W, C) with a frame of `pad` px on every side."""
    n, height, width, channels = pixels.shape
    out = torch.empty(n, height + 2 * pad, width + 2 * pad, channels, dtype=pixels.dtype)
    out[:, pad : pad + height, pad : pad + width] = pixels
    return frame(out, pad, fill)


def shifts(pad: int, seed: int, epoch: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Top and left of each example's random window in its padded image, (N, 2), 0 to 2 pad."""
    found: NDArray[np.int64] = (uniform(seed, epoch, ids, Stream.SHIFT, 2) * (2 * pad + 1)).astype(np.int64)
    return found


def shifts_of_mirrored(corners: NDArray[np.int64], which: NDArray[np.bool_], pad: int) -> NDArray[np.int64]:
    """Where windows that are cut first and then mirrored lie in images that are mirrored first, (N, 2)."""
    left = np.where(which, 2 * pad - corners[:, 1], corners[:, 1])
    return np.stack([corners[:, 0], left], 1)


def windows(stored: Tensor, rows: NDArray[np.int64], corners: NDArray[np.int64], size: int) -> Tensor:
    """Cut a window out of each of some stored images.

    A row of a window is one piece of memory, so the whole batch is one selection from an overlapping view of the store.

    Arguments:
        stored: (M, H, W, C), contiguous.
        rows: (N,) which images.
        corners: (N, 2) top and left of each window.
        size: side of the windows, px.

    Returns:
        (N, size, size, C)
    """
    _, height, width, channels = stored.shape
    view = stored.view(-1).as_strided((stored.numel() // channels - size + 1, size * channels), (channels, 1))
    first = (rows * height + corners[:, 0]) * width + corners[:, 1]
    index = first[:, None] + np.arange(size) * width
    picked = view.index_select(0, torch.from_numpy(index.reshape(-1)).to(stored.device))
    return picked.view(len(rows), size, size, channels)


def resampled(pixels: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Each crop of (N, S, S, C) enlarged to the whole, bilinear -> float32 (N, S, S, C)."""
    size = pixels.shape[1]
    top, left, high, wide = torch.tensor(boxes, dtype=torch.float32, device=pixels.device).T / size
    nil = torch.zeros_like(top)
    across = torch.stack([wide, nil, 2 * left + wide - 1], 1)
    down = torch.stack([nil, high, 2 * top + high - 1], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), [len(boxes), 1, size, size], align_corners=False)
    x = pixels.permute(0, 3, 1, 2).float()
    out = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return out.permute(0, 2, 3, 1).contiguous()


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(N, H, W, C) pixels 0..255 -> float32 (N, C, H, W), channels_last in memory; mean and std in 0..1 units."""
    n, height, width, channels = pixels.shape
    scale = 1 / (255 * torch.tensor(std, device=pixels.device))
    shift = -torch.tensor(mean, device=pixels.device) / torch.tensor(std, device=pixels.device)
    # Whole rows against a repeated pattern: one pass over memory, which the channels alone would be too short for.
    x = pixels.reshape(n, height, width * channels).to(torch.float32, copy=True)
    torch.addcmul(shift.repeat(width), x, scale.repeat(width), out=x)
    return x.view(n, height, width, channels).permute(0, 3, 1, 2)


def cut_out(images: Tensor, side: int, seed: int, epoch: int, ids: NDArray[np.int64]) -> Tensor:
    """Set a square around a random pixel to zero, the mean, in place (DeVries and Taylor 2017).

    Arguments:
        images: normalised (N, C, S, S).
        side: of the square, px; the image's edges cut it.
        seed: of the run.
        epoch: counted from 0.
        ids: (N,) examples.

    Returns:
        the same tensor.
    """
    size = images.shape[-1]
    centres = (uniform(seed, epoch, ids, Stream.CUTOUT, 2) * size).astype(np.int64)
    away = torch.from_numpy(np.arange(size) - centres[:, :, None] + side // 2).to(images.device)  # (N, 2, S)
    inside = (away >= 0) & (away < side)
    return images.masked_fill_((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], 0.0)


def erase(images: Tensor, chance: float, seed: int, epoch: int, ids: NDArray[np.int64]) -> Tensor:
    """Set a random rectangle of some images to zero, the mean, in place (random erasing, Zhong et al. 2020).

    Arguments:
        images: normalised (N, C, S, S).
        chance: that an image is chosen; its rectangle has 2 to 33 % of the area, its sides 3 : 10 to 33 : 10.
        seed: of the run.
        epoch: counted from 0.
        ids: (N,) examples.

    Returns:
        the same tensor.
    """
    size = images.shape[-1]
    draws = uniform(seed, epoch, ids, Stream.ERASE, ERASE_DRAWS)
    for i in np.flatnonzero(draws[:, 0] < chance).tolist():
        tries, (place_y, place_x) = draws[i, 1:-2].reshape(TRIES, 2).tolist(), draws[i, -2:].tolist()
        for share, form in tries:
            pixels = size**2 * (ERASED[0] + (ERASED[1] - ERASED[0]) * share)
            aspect = exp(ERASED_ASPECT[0] + (ERASED_ASPECT[1] - ERASED_ASPECT[0]) * form)
            rows, columns = round(sqrt(pixels * aspect)), round(sqrt(pixels / aspect))
            if rows < size and columns < size:
                top, left = int(place_y * (size - rows + 1)), int(place_x * (size - columns + 1))
                images[i, :, top : top + rows, left : left + columns] = 0.0
                break
    return images


def mix(images: Tensor, targets: Tensor, mixup: float, cutmix: float, key: int) -> tuple[Tensor, Tensor]:
    """Mix neighbours in the batch, the first with the second and so on, by one share for the whole batch.

    A last one without a partner mixes with the one before it. Pairs, so that processes that share a batch mix as one.

    Arguments:
        images: (N, C, S, S).
        targets: float32 (N, K).
        mixup: alpha of mixup (Zhang et al. 2018); 0 is off.
        cutmix: alpha of cutmix (Yun et al. 2019); 0 is off. With both on, either has every second chance.
        key: what the random numbers are a function of.

    Returns:
        images and soft targets, of the same shapes.
    """
    rng = np.random.default_rng(key)
    cut = rng.random() < 0.5 if mixup and cutmix else bool(cutmix)
    alpha = cutmix if cut else mixup
    share = float(rng.beta(alpha, alpha))
    partner = torch.arange(len(images), device=images.device) ^ 1
    partner[partner == len(images)] = max(len(images) - 2, 0)
    others = images[partner]
    if cut:
        size = images.shape[-1]
        (top, left), half = rng.integers(0, size, 2).tolist(), sqrt(1 - share) * size / 2
        y, x = (slice(max(0, round(c - half)), min(size, round(c + half))) for c in (top, left))
        images = images.clone()
        images[:, :, y, x] = others[:, :, y, x]
        share = 1 - (y.stop - y.start) * (x.stop - x.start) / size**2
    else:
        images = images.lerp(others, 1 - share)
    return images, targets.lerp(targets[partner], 1 - share)
