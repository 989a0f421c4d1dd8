"""The mean image: numpy's to the bit, subtracted as the paper says in training, the same bits at evaluation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from plusx import threads
from plusx.config import AugmentConfig
from plusx.data.augment import mirrored, shifts
from plusx.data.colour import IMAGENET_COLOURS
from plusx.data.dataset import Split
from plusx.data.loader import EvalLoader, TrainLoader
from plusx.data.names import Names
from plusx.data.pixel_mean import mean_image
from plusx.data.transforms import Preprocess
from tests.data.test_transforms import GRAY, RULES

N, SIDE = 30, 16
SMALL = replace(RULES, size=SIDE, resize=SIDE)


def arrays(n: int = N, channels: int = 3) -> Split:
    """Images whose mean has a different value at every pixel, and is far from symmetric."""
    rng, ramp = np.random.default_rng(0), np.linspace(0, 120, SIDE)
    images = (rng.integers(0, 120, (n, channels, SIDE, SIDE)) + ramp + ramp[:, None] * 0.1).astype(np.uint8)
    return Split("train", np.arange(n) % 3, None, Names(map(str, range(n))), images)


def files(folder: Path, images: Sequence[Any]) -> Split:
    """The images as PNG files."""
    paths = tuple(str(folder / f"{i}.png") for i in range(len(images)))
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return Split("train", np.arange(len(paths)) % 3, Names(paths), Names(paths))


def pixels_of(split: Split) -> Any:
    assert split.images is not None
    return split.images


CENTRED = SMALL.centred(mean_image(arrays(), SMALL))


def centre() -> Tensor:
    assert CENTRED.mean_pixels is not None
    return CENTRED.mean_pixels


def loader(mode: str, rules: Preprocess = CENTRED, colours: Any = None, **options: Any) -> TrainLoader:
    augment = AugmentConfig(**options)
    return TrainLoader(arrays(), rules, augment, n_classes=3, mode=mode, batch=8, seed=1, colours=colours)


def test_8_bit_values_are_whole_numbers() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    rules = replace(GRAY, size=16, resize=16, mean=(0.0,), std=(1.0,))
    assert torch.equal(rules(values.view(1, 16, 16)).flatten() * 255, values.float())


@pytest.mark.parametrize(("size", "channels", "given"), [(SIDE, 3, 3), (SIDE, 1, 1), (SIDE, 3, 1), (SIDE - 4, 3, 3)])
def test_arrays_are_numpys_to_the_bit(size: int, channels: int, given: int) -> None:
    split, edge = arrays(channels=given), (SIDE - size) // 2
    rules = replace(RULES if channels == 3 else GRAY, size=size, resize=SIDE)
    wanted = pixels_of(split)[:, :, edge : edge + size, edge : edge + size].mean(0, dtype=np.float64) / 255
    found = mean_image(split, rules)
    assert found.shape == (channels, size, size)
    assert np.array_equal(found.numpy(), np.broadcast_to(wanted.astype(np.float32), found.shape))


def test_many_resized_images_lose_no_precision() -> None:
    plain = replace(RULES, size=12, resize=12, mean=(0.0,) * 3, std=(1.0,) * 3)
    split = arrays(300)
    wanted = torch.stack([plain(torch.from_numpy(image)) for image in pixels_of(split)]).double().mean(0)
    assert (mean_image(split, plain) - wanted).abs().mean() < 2e-8, "a sum in float32 misses by 1e-7"


def test_files_are_their_arrays_in_any_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SLICE", 4)
    split = files(tmp_path, [image.transpose(1, 2, 0) for image in pixels_of(arrays())])
    calls: list[tuple[int, int]] = []
    found = mean_image(split, SMALL, lambda *counts: calls.append(counts))
    assert np.abs(found.numpy() - pixels_of(arrays()).mean(0) / 255).max() < 1e-7
    assert torch.equal(found, mean_image(arrays(), SMALL))
    assert calls[-1] == (N, N)


def test_files_of_any_size_and_depth_are_those_of_evaluation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images: list[Any] = [rng.integers(0, 256, (20 + 3 * i, 45, 3), np.uint8) for i in range(7)]
    split = files(tmp_path, [*images, rng.integers(0, 65536, (30, 50)).astype(np.uint16)])
    assert split.paths is not None
    plain = replace(RULES, mean=(0.0,) * 3, std=(1.0,) * 3)
    wanted = torch.stack([plain.load(path) for path in split.paths]).double().mean(0)
    assert (mean_image(split, RULES) - wanted).abs().max() < 1e-7


def test_rules_with_a_mean_image() -> None:
    assert torch.equal(centre(), mean_image(arrays(), SMALL))
    assert CENTRED.mean == pytest.approx(pixels_of(arrays()).mean((0, 2, 3)) / 255, abs=1e-7)
    assert CENTRED.std == (1.0, 1.0, 1.0)
    x = torch.rand(2, 3, SIDE, SIDE)
    assert torch.equal(CENTRED.normalize(x), x - centre())
    other = torch.rand(3, SIDE, SIDE + 1)
    assert torch.equal(CENTRED.normalize(other), other - torch.tensor(CENTRED.mean)[:, None, None])
    assert CENTRED.normalize(torch.rand(2, 3, SIDE, SIDE, device="meta")).device.type == "meta"
    assert len(repr(CENTRED)) < 300


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_evaluation_has_the_bits_of_one_image(batch: int, tmp_path: Path) -> None:
    wanted = torch.stack([CENTRED(torch.from_numpy(image)) for image in pixels_of(arrays())])
    assert torch.equal(torch.cat([b.images for b in EvalLoader(arrays(), CENTRED, batch=batch)]), wanted)
    split = files(tmp_path, [image.transpose(1, 2, 0) for image in pixels_of(arrays())])
    assert torch.equal(torch.cat([b.images for b in EvalLoader(split, CENTRED, batch=batch)]), wanted)
    assert (wanted.mean(0).abs() < 1e-6).all()


def reference(image: Tensor, pad: int, corner: Sequence[int], flip: bool, mode: str = "constant") -> Tensor:
    """The paper's words (section 4.2): subtract, pad with zeros, crop, mirror."""
    centred = image.double() / 255 - centre().double()
    top, left = corner
    crop = F.pad(centred, (pad, pad, pad, pad), mode)[:, top : top + SIDE, left : left + SIDE]
    return crop.flip(2) if flip else crop


@pytest.mark.parametrize("mode", ["small", "photo"])
@pytest.mark.parametrize("flip", ["none", "random", "alternate"])
@pytest.mark.parametrize(("crop", "pad"), [("translate", 4), ("translate", SIDE), ("none", 4)])
def test_training_is_the_papers_words(mode: str, flip: str, crop: str, pad: int) -> None:
    augment, zeros = AugmentConfig(crop=crop, pad=pad, flip=flip), 0
    for epoch in range(2):
        for images, _, ids, _ in loader(mode, crop=crop, pad=pad, flip=flip).epoch(epoch):
            edge = pad if crop == "translate" else 0
            corners, flips = shifts(edge, 1, epoch, ids.numpy()), mirrored(augment, 1, epoch, ids.numpy())
            given = torch.from_numpy(pixels_of(arrays()))[ids]
            wanted = torch.stack(
                [reference(*each) for each in zip(given, [edge] * len(ids), corners.tolist(), flips, strict=True)]
            )
            assert (images - wanted).abs().max() < 1e-6
            assert (images[wanted == 0] == 0).all()
            zeros += int((wanted == 0).sum())
    assert (zeros > 0) == (crop == "translate")


@pytest.mark.parametrize("mode", ["small", "photo"])
def test_the_mean_image_is_reflected_with_the_image(mode: str) -> None:
    for images, _, ids, _ in loader(mode, crop="translate", pad=4, padding_mode="reflect", flip="random").epoch(1):
        corners, flips = (
            shifts(4, 1, 1, ids.numpy()),
            mirrored(AugmentConfig(crop="none", flip="random"), 1, 1, ids.numpy()),
        )
        given = torch.from_numpy(pixels_of(arrays()))[ids]
        wanted = [reference(x, 4, *how, "reflect") for x, *how in zip(given, corners.tolist(), flips, strict=True)]
        assert (images - torch.stack(wanted)).abs().max() < 1e-6


@pytest.mark.parametrize("mode", ["small", "photo"])
@pytest.mark.parametrize("options", [{"crop": "resized"}, {"crop": "scale", "shorter_side": (18, 30)}])
def test_random_crops_lose_the_mean_image_as_it_is(mode: str, options: dict[str, Any]) -> None:
    plain = replace(SMALL, mean=(0.0,) * 3, std=(1.0,) * 3)
    both = [loader(mode, rules, flip="random", **options).epoch(1) for rules in (plain, CENTRED)]
    for raw, centred in zip(*both, strict=True):
        assert torch.equal(raw.ids, centred.ids)
        assert (raw.images - centre() - centred.images).abs().max() < 1e-6


def test_colour_shifts_are_added_in_units_of_the_image() -> None:
    options = {"crop": "translate", "pad": 2, "colour": 0.1}
    both = [loader("small", colours=colours, **options).epoch(2) for colours in (None, IMAGENET_COLOURS)]
    for plain, shifted in zip(*both, strict=True):
        wanted = IMAGENET_COLOURS.shifts(0.1, 1, 2, plain.ids.numpy())
        assert wanted.abs().max() > 0.01
        assert (shifted.images - plain.images - wanted[:, :, None, None]).abs().max() < 1e-6
