"""Every rule of decoding, on files made here: kinds of image, damage, bombs, and mutations of all formats."""

import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from plusx.config import parse_overrides
from plusx.data import decode as decode_again
from plusx.data.decode import FORMATS, MAX_SCANS, decode, decode_crop
from plusx.errors import ConfigError, ImageError

# Outside pytest, which turns warnings to errors, `decode` silences Pillow's.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

MODULE = sys.modules[decode.__module__]
RNG = np.random.default_rng(0)
SCENE = Image.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
NOISE = Image.fromarray(RNG.integers(0, 256, (251, 333, 3), np.uint8))
RAMP = np.linspace(0, 65535, 65536).round().astype(np.uint16).reshape(256, 256)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG of one gray channel whose header says this size."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def as_array(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def test_package_exports_it() -> None:
    assert decode_again is decode


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_gives_pillows_pixels(kind: str, channels: int, mode: str) -> None:
    data = encoded(SCENE.convert(mode), kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = decode(data, channels=channels)
    assert image.dtype == torch.uint8
    assert image.shape == (channels, 48, 64)
    with Image.open(io.BytesIO(data)) as reference:
        wanted = np.asarray(reference.convert("RGB").convert("L" if channels == 1 else "RGB"))
    assert np.abs(as_array(image).squeeze() - wanted.astype(float)).max() <= (1 if channels == 1 else 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_precision(kind: str) -> None:
    image = decode(encoded(Image.fromarray(RAMP), kind), channels=1)
    assert image.dtype == torch.float32
    assert image.mean() == pytest.approx(0.5, abs=0.005)
    assert torch.equal(image[0], torch.from_numpy(RAMP.astype(np.float32) / np.float32(65535)))
    assert len(image.unique()) == 65536
    assert decode(encoded(Image.fromarray(RAMP), kind)).shape == (3, 256, 256)


def test_other_deep_gray() -> None:
    wanted = decode(encoded(Image.fromarray(RAMP), "TIFF"), channels=1)
    assert torch.equal(decode(encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), channels=1), wanted)
    floats = Image.fromarray(RAMP.astype(np.float32) / np.float32(65535))
    assert torch.equal(decode(encoded(floats, "TIFF"), channels=1), wanted)
    white_is_zero = encoded(Image.fromarray(RAMP), "TIFF", tiffinfo={262: 0})
    assert torch.allclose(decode(white_is_zero, channels=1), 1 - wanted)


def twelve_bits(values: np.ndarray) -> bytes:
    """A TIFF (H, W) of 12-bit gray, which Pillow reads and does not write."""
    pairs = values.reshape(-1, 2).astype(int)
    body = b"".join((int(a) << 12 | int(b)).to_bytes(3, "big") for a, b in pairs)
    tags = {256: values.shape[1], 257: values.shape[0], 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 279: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    "data", [twelve_bits(RAMP >> 4), *(encoded(Image.fromarray(RAMP), "TIFF", tiffinfo={262: zero}) for zero in (0, 1))]
)
def test_a_crop_of_deep_gray_is_a_part_of_the_whole(data: bytes) -> None:
    whole = as_array(decode(data, channels=1))
    assert np.ptp(whole) == 1
    assert np.array_equal(decode_crop(data, lambda h, w: (100, 20, 50, 30), 8, channels=1), whole[100:150, 20:50])


@pytest.mark.parametrize(
    "pixels", [np.full((4, 4), 70_000, np.int32), np.full((4, 4), -1, np.int32), np.full((4, 4), 1.5, np.float32)]
)
def test_deep_values_out_of_range_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match="expected 0 to"):
        decode(encoded(Image.fromarray(pixels), "TIFF"))
    with pytest.raises(ImageError, match="expected 0 to 1"):
        decode(encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_orientations_are_upright(kind: str) -> None:
    """Each file stores the scene turned as its EXIF tag says."""
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }
    scene = np.asarray(SCENE)
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    for orientation, turn in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(np.ascontiguousarray(turn(scene))), kind, exif=exif, **options)
        upright = as_array(decode(data)).astype(int)
        assert upright.shape == scene.shape
        assert np.abs(upright - scene).max() <= (6 if kind == "JPEG" else 0), orientation
        crop = decode_crop(data, lambda height, width: (8, 16, 32, 40), 40).numpy().astype(int)
        assert np.array_equal(crop, upright[8:40, 16:56]), orientation


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_an_orientation_in_xmp_is_as_one_in_exif(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    turned = decode(encoded(SCENE, kind, xmp=xmp))
    assert turned.shape == (3, 64, 48)
    assert torch.equal(turned, decode(encoded(SCENE, kind, exif=exif)))


def test_orientation_after_the_pixels_of_a_png() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(SCENE, "PNG")
    body = exif.tobytes().removeprefix(b"Exif\x00\x00")
    late = data[:-12] + chunk(b"eXIf", body) + data[-12:]
    assert decode(late).shape == (3, 64, 48)


def test_damaged_exif_is_as_none() -> None:
    data = encoded(SCENE, "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert decode(data).shape == (3, 48, 64)


def test_transparency_lies_over_the_background() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0], rgba[0, 1], rgba[1, 0], rgba[1, 1] = (200, 0, 0, 255), (200, 0, 0, 0), (200, 0, 0, 128), (9, 9, 9, 0)
    for kind in ("PNG", "WEBP", "TIFF"):
        image = decode(encoded(Image.fromarray(rgba), kind, **({"lossless": True} if kind == "WEBP" else {})))
        assert as_array(image)[0, 0].tolist() == [200, 0, 0]
        assert as_array(image)[0, 1].tolist() == [255, 255, 255]
        assert np.abs(as_array(image)[1, 0].astype(int) - [227, 127, 127]).max() <= 1
        assert decode(encoded(Image.fromarray(rgba), "PNG"), background=0)[0, 1, 1] == 0


def test_palette_gray_and_one_bit() -> None:
    la = Image.merge("LA", [Image.new("L", (3, 3), 10), Image.new("L", (3, 3), 0)])
    assert decode(encoded(la, "PNG"), background=77, channels=1).unique().tolist() == [77]
    palette = SCENE.quantize(16)
    assert np.array_equal(as_array(decode(encoded(palette, "PNG"))), np.asarray(palette.convert("RGB")))
    hole = palette.getpixel((5, 5))
    image = decode(encoded(palette, "PNG", transparency=hole), background=1)
    assert image[:, 5, 5].tolist() == [1, 1, 1]
    assert decode(encoded(SCENE.convert("1"), "PNG"), channels=1).unique().tolist() == [0, 255]
    gray = encoded(Image.fromarray(RAMP[:1]), "PNG", transparency=300)
    assert decode(gray, channels=1, background=255)[0, 0, [0, 255]].tolist() == [0, pytest.approx(255 / 65535)]


def test_cmyk() -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255]]], np.uint8).repeat(8, 0)
    image = as_array(decode(encoded(Image.fromarray(inks.repeat(8, 1), "CMYK"), "TIFF")))
    golden = [[255, 255, 255], [0, 255, 255], [255, 0, 0], [0, 0, 0]]
    assert np.abs(image[0, ::8].astype(int) - golden).max() <= 3
    jpeg = as_array(decode(encoded(Image.fromarray(inks.repeat(8, 1), "CMYK"), "JPEG", quality=100)))
    assert np.abs(jpeg[4, 4::8].astype(int) - golden).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert decode(buffer.getvalue())[:, 4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_cut_files_are_refused(kind: str, tmp_path: Path) -> None:
    data = encoded(SCENE, kind)
    cuts = [int(len(data) * share) for share in (0, 0.01, 0.25, 0.5, 0.99)]
    # A GIF whose pixels are all there has lost nothing with its last two bytes.
    for cut in cuts if kind == "GIF" else [*cuts, len(data) - 2]:
        path = tmp_path / f"{cut}.{kind.lower()}"
        path.write_bytes(data[:cut])
        for least in (None, 1):
            with pytest.raises(ImageError) as caught:
                decode(path, min_side=least)
            assert caught.value.path == str(path)
            assert "BytesIO" not in caught.value.reason


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"<html>", b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF", b"SIMPLE  =                    T" + b" " * 3000],
)
def test_what_is_no_image_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"not an image|empty"):
        decode(path)


def test_folders_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    start = time.perf_counter()
    for path in (tmp_path / "folder.jpg", tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(ImageError, match="not a regular file"):
            decode(path)
    with pytest.raises(ImageError, match="No such file"):
        decode(tmp_path / "none.jpg")
    assert time.perf_counter() - start < 1


def test_name_of_bytes_in_errors() -> None:
    with pytest.raises(ImageError, match="upload 3: not an image"):
        decode(b"x", name="upload 3")


def test_only_of_files_plusx_check_could_tell_more(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    for source, hinted in ((b"x", False), (tmp_path / "a.png", True)):
        with pytest.raises(ImageError) as caught:
            decode(source, name="upload")
        assert caught.value.path == "upload"
        assert bool(caught.value.hint) == hinted


def test_size_limit_is_read_from_the_header(tmp_path: Path) -> None:
    assert decode(encoded(SCENE, "PNG"), max_pixels=64 * 48).shape == (3, 48, 64)
    with pytest.raises(ImageError, match="64 x 48 px, more than the 3,071 allowed"):
        decode(encoded(SCENE, "PNG"), max_pixels=64 * 48 - 1)
    sparse = tmp_path / "huge.png"
    with sparse.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageError, match="bytes, more than"):
        decode(sparse)


def test_no_limit_of_ours_lies_above_pillows() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    with pytest.raises(ConfigError, match=r"data\.max_pixels: got 178956971"):
        parse_overrides([f"data.max_pixels={2 * Image.MAX_IMAGE_PIXELS + 1}"])
    assert parse_overrides([f"data.max_pixels={2 * Image.MAX_IMAGE_PIXELS}"])


def test_endless_scans_of_a_progressive_jpeg_are_refused() -> None:
    data = encoded(SCENE, "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="scans"):
        decode(data[:-2] + last * MAX_SCANS + data[-2:])
    comment = b"\xff\xfe\x00\x06\xff\xd9\xff\xd9"  # no end of the image
    with pytest.raises(ImageError, match="scans"):
        decode(data[:-2] + comment + last * MAX_SCANS + data[-2:])
    assert torch.equal(decode(data + last * MAX_SCANS + data[-2:]), decode(data))  # behind the image


BOMBS = """
import io, resource, struct, sys, zlib
from pathlib import Path
import torch
from plusx.data.decode import decode
from plusx.errors import ImageError
from tests.data.test_decode import SCENE, chunk, encoded, png

decode(encoded(SCENE, "PNG")), decode(encoded(SCENE, "WEBP")), decode(encoded(SCENE, "TIFF"))
packed = zlib.compress(bytes(2**20 - 9), 9)
gif = bytearray(encoded(SCENE, "GIF")); gif[6:10] = struct.pack("<HH", 60000, 60000)
bmp = bytearray(encoded(SCENE, "BMP")); bmp[18:26] = struct.pack("<ii", 7000, 7000)
webp = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16382).to_bytes(3, "little") * 2
webp += b"VP8L" + struct.pack("<I", 8) + b"/" + bytes(7)
tags = [(256, 60), (257, 60), (258, 8), (259, 8), (262, 1), (277, 1), (322, 60000), (323, 60000), (324, 400), (325, 9)]
tiff = b"II*\\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in tags)
bombs = {
    "169 Mpx PNG": png(13000, 13000, chunk(b"IDAT", zlib.compress(bytes(13000), 9))),
    "196 Mpx PNG": png(14000, 14000, chunk(b"IDAT", packed)),
    "zTXt": png(8, 8, *[chunk(b"zTXt", b"k\\0\\0" + packed)] * 80),
    "one zTXt": png(8, 8, chunk(b"zTXt", b"k\\0\\0" + zlib.compress(bytes(2**28), 9))),
    "iCCP": png(8, 8, chunk(b"iCCP", b"k\\0\\0" + zlib.compress(bytes(2**28), 9))),
    "GIF": bytes(gif), "BMP": bytes(bmp),
    "WebP": b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp,
    "TIFF tiles": tiff + bytes(4) + bytes(500),
}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, data in bombs.items():
    try:
        decode(data)
        print(name, "was decoded")
    except ImageError as error:
        print(name, "refused:", error.reason, file=sys.stderr)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > 50:
        print(name, "took", grown, "MiB")
        break
"""


def test_bombs_are_refused_in_little_memory() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, timeout=60, cwd=root)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 3), (1, 20_000), (20_000, 1)])
def test_extreme_shapes(width: int, height: int) -> None:
    assert decode(encoded(Image.new("RGB", (width, height), (1, 2, 3)), "PNG")).shape == (3, height, width)


def test_min_side_shrinks_a_jpeg_and_nothing_else() -> None:
    photo = SCENE.resize((640, 480))
    assert decode(encoded(photo, "JPEG"), min_side=60).shape == (3, 60, 80)
    assert decode(encoded(photo, "JPEG"), min_side=61).shape == (3, 120, 160)
    assert decode(encoded(photo, "JPEG"), min_side=481).shape == (3, 480, 640)
    assert decode(encoded(photo, "PNG"), min_side=60).shape == (3, 480, 640)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("L", 3), ("RGB", 1), ("CMYK", 3)])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
def test_a_crop_is_a_part_of_the_whole(mode: str, channels: int, options: dict[str, Any]) -> None:
    """Training gets Pillow's pixels, at every scale, though it reads no further than the crop."""
    data = encoded(NOISE, "JPEG", quality=90, **options) if mode == "RGB" else encoded(NOISE.convert(mode), "JPEG")
    height, width = NOISE.height, NOISE.width
    for scale in (1, 2, 4, 8):
        whole = as_array(decode(data, channels=channels, min_side=height // scale))
        assert abs(whole.shape[0] - height / scale) <= 1
        for top, high in ((0, height), (0, 48), (16, 57), (96, 120), (88, height - 88)):
            least = min(high, width) // scale
            crop = decode_crop(data, lambda h, w, top=top, high=high: (top, 0, high, w), least, channels=channels)  # type: ignore[misc]
            first, last = (round(y * whole.shape[0] / height) for y in (top, top + high))
            assert np.array_equal(crop, whole[first:last])
    crop = decode_crop(data, lambda h, w: (32, 40, 200, 240), 200, channels=channels)
    assert np.array_equal(crop, as_array(decode(data, channels=channels))[32:232, 40:280])
    assert decode_crop(data, lambda h, w: (51, 93, 200, 240), 50, channels=channels).shape == (50, 61, channels)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the fast reader gave pixels, for each file."""
    seen: list[bool] = []
    real = MODULE._quick_jpeg

    def counted(*given: Any) -> Tensor | None:
        found = real(*given)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(MODULE, "_quick_jpeg", counted)
    return seen


def slowly(work: Callable[[], Tensor]) -> Tensor | str:
    """What Pillow alone gives: pixels, or why not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "_quick_jpeg", lambda *_: None)
        return outcome(work)


def outcome(work: Callable[[], Tensor]) -> Tensor | str:
    try:
        return work()
    except ImageError as error:
        return error.reason


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"restart_marker_rows": 1}]
)
def test_the_fast_reader_gives_pillows_pixels(mode: str, turn: int, options: dict[str, Any], fast: list[bool]) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(NOISE.convert(mode), "JPEG", exif=exif, **(options if mode == "RGB" else {}))
    channels = 3 if mode == "RGB" else 1

    def whole(min_side: int | None) -> Tensor:
        return decode(data, channels=channels, min_side=min_side)

    def part(box: tuple[int, int, int, int], least: int) -> Tensor:
        return decode_crop(data, lambda height, width: box, least, channels=channels)

    tries = [partial(whole, min_side) for min_side in (None, 120, 60, 31)]
    boxes = ((0, 0, 240, 240), (11, 70, 120, 131), (100, 5, 100, 200))
    tries += [partial(part, box, least) for box in boxes for least in (120, 60, 30, 15)]
    for work in tries:
        assert torch.equal(work(), slowly(work))
    assert fast == [True] * len(tries if turn == 1 else boxes * 4)


def test_what_a_damaged_jpeg_gives_is_what_pillow_gives(fast: list[bool]) -> None:
    """Pixels or an error: the fast reader takes no file that Pillow would refuse, or read otherwise."""
    rng, files = random.Random(1), [data for data in seeds() if data[:2] == b"\xff\xd8"]
    files += [encoded(NOISE.resize((90, 70)), "JPEG", **options) for options in ({}, {"restart_marker_blocks": 3})]
    kinds = []
    for _ in range(3_000):
        data, channels, min_side = mutated(rng.choice(files), files, rng), rng.choice([1, 3]), rng.choice([None, 4, 30])
        given = {"channels": channels, "min_side": min_side, "max_pixels": 10**6}
        found, wanted = (way(partial(decode, data, **given)) for way in (outcome, slowly))
        assert found == wanted if isinstance(wanted, str) else torch.equal(found, wanted)
        kinds.append(isinstance(wanted, str))
    assert 300 < sum(kinds) < 2_700
    assert sum(fast) > 100


def test_a_jpeg_is_read_down_to_the_crop() -> None:
    data = encoded(NOISE, "JPEG")
    damaged = data[: len(data) * 3 // 4] + bytes(len(data) // 4 - 2) + data[-2:]
    above = lambda h, w: (0, 8, 100, 100)  # noqa: E731
    assert torch.equal(decode_crop(damaged, above, 100), decode_crop(data, above, 100))
    below = lambda h, w: (150, 8, 100, 100)  # noqa: E731
    assert not torch.equal(decode_crop(damaged, below, 100), decode_crop(data, below, 100))


def test_a_photo_with_a_preview_behind_it_is_read_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras write such JPEGs; Pillow calls them MPO."""
    file = io.BytesIO()
    NOISE.save(file, "MPO", quality=90, save_all=True, append_images=[NOISE.resize((40, 30))])
    calls: list[int] = []
    real = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *given, **rules: calls.append(1) or real(*given, **rules))
    crop = decode_crop(file.getvalue(), lambda h, w: (32, 40, 100, 120), 100)
    assert torch.equal(crop, decode(file.getvalue()).permute(1, 2, 0)[32:132, 40:160])
    assert calls, "Pillow is several times slower"


def test_bytes_stay_as_they_are_and_what_the_fast_reader_refuses_pillow_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(NOISE, "JPEG")
    (tmp_path / "noise.jpg").write_bytes(data)
    top = lambda h, w: (0, 8, 100, 100)  # noqa: E731
    before = hashlib.sha256(data).digest()
    crop = decode_crop(data, top, 100)
    assert hashlib.sha256(data).digest() == before
    assert torch.equal(decode_crop(tmp_path / "noise.jpg", top, 100), crop)

    seen = []

    def refuse(data: memoryview, *_: object, **__: object) -> None:
        seen.append(bytes(data))
        raise ValueError

    monkeypatch.setattr(simplejpeg, "decode_jpeg", refuse)
    assert torch.equal(decode_crop(data, top, 100), crop)
    assert torch.equal(decode_crop(tmp_path / "noise.jpg", top, 100), crop)
    assert len(seen) == 2
    assert data not in seen  # it was asked for fewer rows
    assert hashlib.sha256(data).digest() == before


def test_a_crop_of_a_damaged_jpeg_is_an_image_error() -> None:
    data = encoded(SCENE, "JPEG")
    with pytest.raises(ImageError):
        decode_crop(data[: len(data) // 2], lambda height, width: (0, 0, 48, 64), 48)
    with pytest.raises(ImageError):  # also where it is whole as far as the crop
        decode_crop(data[: len(data) * 9 // 10], lambda height, width: (0, 0, 8, 8), 8)


def seeds() -> list[bytes]:
    """Files of every format and many kinds, small."""
    small = SCENE.resize((20, 15))
    found = []
    for mode in ("RGB", "L", "1", "P"):
        for kind in FORMATS:
            if (kind, mode) != ("JPEG", "P"):
                found.append(encoded(small.convert(mode), kind))
    found += [encoded(small.convert("RGBA"), kind) for kind in ("PNG", "WEBP", "TIFF", "GIF")]
    found += [encoded(small, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits")]
    found += [encoded(Image.fromarray(RAMP[:9, :9]), kind) for kind in ("PNG", "TIFF")]
    found += [encoded(small.convert("CMYK"), "JPEG"), encoded(small, "JPEG", progressive=True)]
    exif = Image.Exif()
    exif[0x0112] = 6
    return [*found, encoded(small, "JPEG", exif=exif), encoded(small, "PNG", exif=exif)]


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Bits flipped, bytes of the header set, cut, spliced with another file, or a length overwritten."""
    body, way = bytearray(data), rng.randrange(5)
    if way == 0:
        for _ in range(rng.randrange(1, 8)):
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    elif way == 1:
        for _ in range(rng.randrange(1, 6)):
            body[rng.randrange(min(len(body), 200))] = rng.choice([0, 127, 128, 255])
    elif way == 2:
        del body[rng.randrange(len(body)) :]
    elif way == 3:
        other = rng.choice(others)
        body[rng.randrange(len(body)) :] = other[rng.randrange(len(other)) :]
    else:
        at = rng.randrange(len(body) - 4)
        body[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
    return bytes(body)


def test_only_image_errors_leave_mutated_files() -> None:
    rng, files = random.Random(0), seeds()
    refused = 0
    for _ in range(20_000):
        data = mutated(rng.choice(files), files, rng)
        start = time.perf_counter()
        try:
            image = decode(data, max_pixels=10**6, min_side=rng.choice([None, 4]))
            assert image.shape[0] == 3
            decode_crop(data, lambda height, width: (0, 0, height, width), 4, max_pixels=10**6)
        except ImageError:
            refused += 1
        assert time.perf_counter() - start < 2
    assert 6_000 < refused < 19_000
