"""Channel statistics: exact against numpy, from memory and from files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plusx.data import statistics
from plusx.data.dataset import Split
from plusx.data.names import Names
from plusx.data.statistics import channel_statistics, sample
from tests.data.test_transforms import GRAY, RULES


def split_of(images: np.ndarray | None = None, paths: tuple[str, ...] | None = None) -> Split:
    n = len(paths or images)  # type: ignore[arg-type]
    return Split(
        "train", np.zeros(n, np.int64), None if paths is None else Names(paths), Names(map(str, range(n))), images
    )


def test_arrays_are_exact() -> None:
    images = np.random.default_rng(0).integers(0, 256, (150, 3, 9, 7), np.uint8)
    found = channel_statistics(split_of(images), RULES)
    assert found.mean == pytest.approx(images.mean((0, 2, 3)) / 255, rel=1e-14)
    assert found.std == pytest.approx(images.std((0, 2, 3)) / 255, rel=1e-12)
    assert found.notes == ()


def test_files_of_different_sizes_and_depths_are_pooled(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (h, 10), np.uint8) for h in (5, 11)] + [rng.integers(0, 65536, (6, 6)).astype("u2")]
    paths = tuple(str(tmp_path / f"{i}.png") for i in range(3))
    for path, array in zip(paths, pixels, strict=True):
        Image.fromarray(array).save(path)
    calls: list[tuple[int, int]] = []
    found = channel_statistics(split_of(paths=paths), GRAY, lambda done, total: calls.append((done, total)))
    values = np.concatenate([(a / np.iinfo(a.dtype).max).ravel() for a in pixels])
    assert found.mean == pytest.approx([values.mean()], rel=1e-6)
    assert found.std == pytest.approx([values.std()], rel=1e-6)
    assert calls[-1] == (3, 3)


def test_a_constant_channel_divides_by_one(tmp_path: Path) -> None:
    found = channel_statistics(split_of(np.full((4, 1, 5, 5), 51, np.uint8)), GRAY)
    assert found.mean == (0.2,)
    assert found.std == (1.0,)
    paths = tuple(str(tmp_path / f"{i}.png") for i in range(7))
    for path in paths:
        Image.fromarray(np.full((32, 32), 777, np.uint16)).save(path)
    assert channel_statistics(split_of(paths=paths), GRAY).std == (1.0,)


def test_many_photos_are_sampled_and_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SAMPLE", 2)
    paths = tuple(str(tmp_path / f"{i}.png") for i in range(5))
    for i, path in enumerate(paths):
        Image.new("RGB", (4, 4), (i, i, i)).save(path)
    large = replace(RULES, size=100, resize=100)
    found = channel_statistics(split_of(paths=paths), large)
    assert "2 of the 5 training photos" in found.notes[0]
    assert found == channel_statistics(split_of(paths=paths), large)
    assert channel_statistics(split_of(paths=paths), RULES).mean == pytest.approx([2 / 255] * 3)


def test_whole_photos_are_all_read_and_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SAMPLE", 2)
    monkeypatch.setattr(statistics, "BAND", 1000)
    rng, paths = np.random.default_rng(0), tuple(str(tmp_path / f"{i}.jpg") for i in range(5))
    for i, path in enumerate(paths):
        pixels = rng.normal(128, 50, (210 + i, 400, 1)) + rng.normal(0, 20, (210 + i, 400, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    large, calls = replace(RULES, size=100, resize=100), list[tuple[int, int]]()
    found = channel_statistics(split_of(paths=paths), large, lambda *counts: calls.append(counts), whole=True)
    values = np.concatenate([np.asarray(Image.open(path)).reshape(-1, 3) for path in paths]).T / 255
    assert found.covariance == pytest.approx(np.cov(values, bias=True), rel=1e-10)
    assert found.mean == pytest.approx(values.mean(1), rel=1e-12)
    assert (found.notes, calls[-1]) == ((), (5, 5))
    monkeypatch.setattr(statistics, "SAMPLE", 5)
    scaled = channel_statistics(split_of(paths=paths), large)
    assert scaled.covariance != pytest.approx(np.cov(values, bias=True), rel=1e-2), "JPEGs at half their size"
    unscaled = channel_statistics(split_of(paths=paths), replace(large, resize=200))
    assert unscaled.covariance == pytest.approx(np.cov(values, bias=True), rel=1e-10)


def test_a_sample_is_what_evaluation_sees(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), np.uint8)
    paths = tuple(str(tmp_path / f"{i}.png") for i in range(len(images)))
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    few, whole = sample(split_of(images), RULES, 4), sample(split_of(images), RULES, 100)
    assert torch.equal(whole, torch.stack([RULES(torch.from_numpy(image)) for image in images]))
    assert len(few) == 4
    assert all((whole == one).flatten(1).all(1).any() for one in few)
    assert torch.equal(sample(split_of(paths=paths), RULES, 4), few)
