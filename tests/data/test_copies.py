"""Copies of large photos: the same crops whether they are kept, lost or damaged, and close to the photos."""

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from plusx.config import AugmentConfig
from plusx.data import copies as module
from plusx.data.copies import Copies
from plusx.data.dataset import Split
from plusx.data.decode import decode, smaller
from plusx.data.loader import TrainLoader
from plusx.data.names import Names
from plusx.errors import ImageError
from tests.data.test_transforms import RULES

N = 9
SIDE = 40


@pytest.fixture(autouse=True)
def any_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder may be small."""
    monkeypatch.setattr(module, "RESERVE", 0)


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """A soft picture in colour."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Large photos of several formats, one of them turned by EXIF, one of 16 bits, one small."""
    where = tmp_path / "photos"
    where.mkdir()
    for i in range(N - 2):
        image = scene(400 + 32 * i, 248 + 24 * i, i)
        exif = image.getexif()
        exif[0x112] = 6 if i == 2 else 1
        image.save(where / f"{i}.{'png' if i % 3 == 0 else 'jpg'}", exif=exif, quality=95)
    Image.fromarray(np.full((200, 220), 30_000, np.uint16)).save(where / "deep.png")
    scene(70, 60).save(where / "small.jpg")
    return where


def split(folder: Path) -> Split:
    paths = sorted(map(str, folder.iterdir()))
    return Split("train", np.arange(len(paths)) % 3, Names(paths), Names(paths))


def pixels(folder: Path, kept: Path | None, workers: int = 0, **options: Any) -> list[torch.Tensor]:
    """Two epochs' images."""
    copies = None if kept is None else Copies(kept, SIDE, RULES)
    augment = AugmentConfig(**{"crop": "resized", "flip": "random", **options})
    loader = TrainLoader(
        split(folder), RULES, augment, n_classes=3, mode="photo", batch=4, seed=1, workers=workers, copies=copies
    )
    found = [batch.images.clone() for epoch in range(2) for batch in loader.epoch(epoch)]
    loader.close()
    return found


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, a, b)) and len(a) == len(b)


@pytest.mark.parametrize(
    "options", [{}, {"crop": "scale", "shorter_side": (28, 60)}, {"policy": "trivial", "mixup": 0.2}]
)
def test_the_same_pixels_whoever_decodes_and_whatever_is_kept(
    folder: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = pixels(folder, tmp_path / "kept", **options)
    for workers in (1, 3):
        assert equal(pixels(folder, tmp_path / f"kept-{workers}", workers, **options), wanted)
    assert not equal(pixels(folder, None, **options), wanted)
    before = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert len(before) == N
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept-3").iterdir()} == before
    monkeypatch.setattr(module, "smaller", None)  # what is kept needs no second look at the photo
    assert equal(pixels(folder, tmp_path / "kept", **options), wanted)
    monkeypatch.undo()
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(module, "RESERVE", 2 * free)
    assert equal(pixels(folder, tmp_path / "none", **options), wanted)
    assert list((tmp_path / "none").iterdir()) == []
    assert equal(pixels(folder, tmp_path / "no" / "folder", **options), wanted)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "zeros", "folder"])
def test_a_damaged_copy_is_made_again(folder: Path, tmp_path: Path, damage: str) -> None:
    copies, path = Copies(tmp_path / "kept", SIDE, RULES), str(folder / "1.jpg")
    made = copies.source(path)
    assert isinstance(made, bytes)
    (kept,) = copies.folder.iterdir()
    whole = kept.read_bytes()
    kept.unlink()
    broken = {
        "flip": whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
        "cut": whole[:-5],
        "empty": b"",
        "zeros": bytes(len(whole)),
    }
    if damage == "folder":
        kept.mkdir()
    else:
        kept.write_bytes(broken[damage])
    assert copies.source(path) == made
    assert damage == "folder" or kept.read_bytes() == whole


def test_a_copy_keeps_the_colours_of_every_pixel(folder: Path, tmp_path: Path) -> None:
    made = Copies(tmp_path / "kept", SIDE, RULES).source(str(folder / "0.png"))
    assert isinstance(made, bytes)
    assert get_sampling(Image.open(io.BytesIO(made))) == 0  # 4:4:4
    (kept,) = (tmp_path / "kept").iterdir()
    with Image.open(kept) as image:  # whoever looks can open it
        assert image.size == Image.open(io.BytesIO(made)).size


def test_what_is_small_or_deep_has_no_copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies(tmp_path / "kept", SIDE, RULES)
    for _ in range(2):
        for name in ("small.jpg", "deep.png"):
            assert copies.source(str(folder / name)) == str(folder / name)
        monkeypatch.setattr(module, "smaller", None)  # nor is it looked at again


def test_another_photo_under_the_same_name_has_another_copy(folder: Path, tmp_path: Path) -> None:
    copies, path = Copies(tmp_path / "kept", SIDE, RULES), folder / "1.jpg"
    first, status = copies.source(str(path)), path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert copies.source(str(path)) == first
    assert len(list(copies.folder.iterdir())) == 2
    scene(500, 400, 9).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert copies.source(str(path)) not in (first, str(path))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_copy_looks_like_its_photo(folder: Path, tmp_path: Path, channels: int) -> None:
    rules = replace(RULES, channels=channels, mean=RULES.mean[:channels], std=RULES.std[:channels])
    copies = Copies(tmp_path / "kept", SIDE, rules)
    for path in sorted(folder.glob("[0-9].*")):
        photo = decode(path, channels=channels).float()
        copy = decode(copies.source(str(path)), channels=channels).float()
        assert SIDE <= min(copy.shape[1:]) < 2 * SIDE
        times = photo.shape[1] // copy.shape[1] + (photo.shape[1] % copy.shape[1] > 0)
        assert copy.shape[1:] == tuple(-(-side // times) for side in photo.shape[1:])
        beyond = [times * small - large for small, large in zip(copy.shape[1:], photo.shape[1:], strict=True)]
        whole = F.pad(photo[None], (0, beyond[1], 0, beyond[0]), mode="replicate")
        assert (copy - F.avg_pool2d(whole, times)[0]).abs().mean() < 1.7, path.name  # JPEG's own is 1 to 1.2


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "PA", "1", "CMYK"])
def test_whatever_is_large_is_reduced(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"photo.{'jpg' if mode == 'CMYK' else 'tif' if mode == 'PA' else 'png'}"
    image = scene(320, 280).convert("P" if mode == "PA" else mode)
    image.save(path, **({"quality": 95} if mode == "CMYK" else {}))
    copy = decode(smaller(path, 50))
    assert copy.shape[1:] == ((70, 80) if mode == "CMYK" else (56, 64))  # a JPEG by a power of two
    photo = F.avg_pool2d(decode(path).float(), 280 // copy.shape[1])
    assert (copy - photo).abs().mean() < (20 if mode == "1" else 3)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_transparent_colour_does_not_bleed_into_its_neighbours(tmp_path: Path, mode: str) -> None:
    """A disc of 100 in a key of 255 or so, over a background of 100: nothing of the key may be seen."""
    y, x = np.ogrid[:200, :200]
    inside = (y - 100) ** 2 + (x - 100) ** 2 < 70**2
    pixels = np.where(inside, 100, 255).astype(np.uint8)
    image = Image.fromarray(
        pixels
        if mode == "L"
        else np.stack([pixels, np.where(inside, 100, 0), pixels], 2, dtype=np.uint8, casting="unsafe")
    )
    image.save(tmp_path / "key.png", transparency=255 if mode == "L" else (255, 0, 255))
    copy = decode(smaller(tmp_path / "key.png", 40, background=100))
    assert copy.shape[1:] == (40, 40)
    assert (copy.float() - 100).abs().max() <= 2


def test_what_no_jpeg_can_hold_is_decoded_as_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "long.png")
    Image.new("L", (140_000, 130), 7).save(path)
    assert smaller(path, 64) == b""
    assert Copies(tmp_path / "kept", 64, RULES).source(path) == path
    Image.new("L", (131_002, 130), 7).save(path)
    assert smaller(path, 64) == b""
    Image.new("L", (131_000, 130), 7).save(path)
    assert decode(smaller(path, 64)).shape == (3, 65, 65_500)


def test_a_photo_replaced_while_it_is_decoded_has_no_copy_under_its_new_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies, path = Copies(tmp_path / "kept", SIDE, RULES), folder / "1.jpg"

    def slow(source: str, *given: Any, **options: Any) -> bytes:
        made = smaller(source, *given, **options)
        scene(500, 400, 9).save(path)
        return made

    monkeypatch.setattr(module, "smaller", slow)
    before = copies.source(str(path))
    monkeypatch.setattr(module, "smaller", smaller)
    assert copies.source(str(path)) == smaller(path, SIDE) != before


def test_transparency_lies_over_the_background(tmp_path: Path) -> None:
    Image.new("RGBA", (120, 120), (255, 0, 0, 0)).save(tmp_path / "photo.png")
    for background in (0, 200):
        copies = Copies(tmp_path / f"kept-{background}", 40, replace(RULES, background=background))
        copy = decode(copies.source(str(tmp_path / "photo.png")))
        assert (copy.float() - background).abs().max() <= 1


def test_a_photo_that_cannot_be_decoded_is_named(folder: Path, tmp_path: Path) -> None:
    path = folder / "1.jpg"
    path.write_bytes(path.read_bytes()[:3000])
    copies = Copies(tmp_path / "kept", SIDE, RULES)
    with pytest.raises(ImageError, match=r"1\.jpg"):
        copies.source(str(path))
    assert not copies.folder.exists()
    gone = split(folder)
    path.unlink()
    loader = TrainLoader(
        gone, RULES, AugmentConfig(crop="resized"), n_classes=3, mode="photo", batch=N, seed=1, copies=copies
    )
    with pytest.raises(ImageError, match=r"1\.jpg: No such file"):
        list(loader.epoch(0))


def test_copies_that_vanish_are_made_again(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    wanted = pixels(folder, kept)
    shutil.rmtree(kept)
    assert equal(pixels(folder, kept), wanted)
    assert len(list(kept.iterdir())) == N
