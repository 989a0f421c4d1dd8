"""The evaluation transform: its bits do not depend on layout, threads or company; its values are torchvision's."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from plusx.data.transforms import Preprocess, as_channels, eval_batch
from plusx.errors import ConfigError, ImageError
from tests.data.test_decode import RAMP, SCENE, encoded

RULES = Preprocess(size=24, resize=28, fit="crop", channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
GRAY = replace(RULES, channels=1, mean=(0.5,), std=(0.25,))


def random_image(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(height).integers(0, 256, (channels, height, width), np.uint8))


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 40), (24, 24), (28, 28), (9, 13), (500, 800)])
def test_it_is_torchvisions_tensor_transform(height: int, width: int) -> None:
    image = random_image(height, width)
    reference = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize(28, antialias=True),
            v2.CenterCrop(24),
            v2.Normalize(RULES.mean, RULES.std),
        ]
    )
    out = RULES(image)
    assert out.shape == (3, 24, 24)
    assert out.dtype == torch.float32
    if (height - width) % 2 == 0:  # where the crop's odd pixel goes is a convention
        assert torch.allclose(out, reference(image), atol=1e-5)


def test_bands_change_no_bit() -> None:
    image = random_image(2100, 800)
    whole = F.interpolate(image[None].float().div(255), (73, 28), mode="bilinear", antialias=True)[0]
    assert torch.equal(RULES.square(image), whole[:, 24:48, 2:26])


def test_layout_and_threads_change_no_bit() -> None:
    image = random_image(300, 400)
    wanted = RULES(image)
    assert torch.equal(RULES(image.permute(1, 2, 0).contiguous().permute(2, 0, 1)), wanted)
    try:
        torch.set_num_threads(4)
        assert torch.equal(RULES(image), wanted)
    finally:
        torch.set_num_threads(1)


def test_normalising_many_is_normalising_each() -> None:
    images = torch.rand(37, 3, 24, 24)
    together = RULES.normalize(images)
    assert all(torch.equal(RULES.normalize(image), row) for image, row in zip(images, together, strict=True))


def test_pad_keeps_all_and_fills_with_the_background() -> None:
    image = torch.full((3, 20, 40), 51, dtype=torch.uint8)
    out = replace(RULES, fit="pad", background=255).square(image)
    assert out.shape == (3, 24, 24)
    assert out[:, :6].unique().tolist() == [1.0]
    assert torch.allclose(out[:, 6:18], torch.tensor(0.2))
    assert out[:, 18:].unique().tolist() == [1.0]
    tall = replace(RULES, fit="pad", background=255).square(image.transpose(1, 2))
    assert torch.allclose(tall, out.transpose(1, 2))


def test_stretch_keeps_all() -> None:
    image = torch.cat([torch.zeros(3, 20, 20), torch.ones(3, 20, 20)], 2)
    out = replace(RULES, fit="stretch").square(image)
    assert out.shape == (3, 24, 24)
    assert out.mean().item() == pytest.approx(0.5)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (3, 3), (2, 200_000)])
def test_extreme_shapes(fit: str, shape: tuple[int, int]) -> None:
    rules = replace(RULES, size=224, resize=256, fit=fit)
    out = rules(torch.full((3, *shape), 100, dtype=torch.uint8))
    assert out.shape == (3, 224, 224)
    assert out.isfinite().all()
    if fit != "pad":
        assert torch.allclose(out, rules.normalize(torch.full((3, 1, 1), 100 / 255)), atol=1e-4)


def test_channels_are_converted() -> None:
    gray = random_image(30, 30, 1)
    assert torch.equal(RULES.square(gray)[2], GRAY.square(gray)[0])
    colour = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 30, 30)
    assert torch.allclose(GRAY.square(colour), torch.tensor(0.299))
    assert torch.equal(as_channels(colour // 100, 1), torch.ones(1, 30, 30, dtype=torch.uint8))  # 0.598


def test_load_reads_paths_and_bytes_alike(tmp_path: pytest.TempPathFactory) -> None:
    data = encoded(SCENE, "JPEG")
    path = tmp_path / "scene.jpg"  # type: ignore[operator]
    path.write_bytes(data)
    assert torch.equal(RULES.load(path), RULES.load(data))
    assert torch.equal(RULES.load(str(path)), RULES.load(data))


def test_decoding_follows_the_rules() -> None:
    clear = encoded(Image.new("RGBA", (40, 30)), "PNG")
    for level in (0, 200, 255):
        wanted = RULES.normalize(torch.full((3, 24, 24), level / 255))
        assert torch.allclose(replace(RULES, background=level).load(clear), wanted, atol=1e-5)
    with pytest.raises(ImageError, match="more than the 1,199 allowed"):
        replace(RULES, max_pixels=1199).load(clear)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((300, 400, 3), np.uint8), r"uint8 \(300, 400, 3\), expected uint8 \(1 or 3, H, W\)"),
        (np.zeros((4, 9, 9), np.uint8), "expected uint8"),
        (np.zeros((9, 9), np.uint8), "expected uint8"),
        (np.zeros((3, 0, 9), np.uint8), "expected uint8"),
        (np.zeros((3, 9, 9)), r"float64 \(3, 9, 9\)"),
        (None, "got NoneType, expected a path"),
        (3, "got int"),
    ],
)
def test_what_is_no_image_is_refused_in_words(source: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        RULES.load(source)
    assert not caught.value.hint, "there is no file that `plusx check` could find"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.rand(3, 9, 9) * 255, r"got values from [\d.]+ to 2\d\d"),
        (torch.full((3, 9, 9), float("nan")), "got values from nan to nan"),
        (torch.full((3, 9, 9), -0.01), r"got values from -0\.01 to -0\.01, expected a tensor, uint8 or float32"),
        (torch.zeros(3, 9, 9, dtype=torch.float64), r"got a tensor of torch\.float64 \(3, 9, 9\)"),
        (torch.zeros(3, 9, 9, dtype=torch.int16), r"got a tensor of torch\.int16"),
        (torch.zeros(3, 9, 9, dtype=torch.bool), r"got a tensor of torch\.bool"),
        (random_image(9, 9).permute(1, 2, 0), r"\(9, 9, 3\), expected .* of shape \(1 or 3, H, W\)"),
        (random_image(9, 9, 4), r"\(4, 9, 9\)"),
        (random_image(9, 9)[0], r"\(9, 9\)"),
        (random_image(9, 9)[None], r"\(1, 3, 9, 9\)"),
        (random_image(9, 9)[:, :0], r"\(3, 0, 9\)"),
        (random_image(9, 9).numpy(), "got ndarray, expected a tensor"),
    ],
)
def test_what_is_no_tensor_of_an_image_is_refused(image: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        RULES(image)
    assert not caught.value.hint
    assert RULES(torch.tensor([-1e-6, 1 + 1e-6]).expand(1, 9, 2)).shape == (3, 24, 24), "as a resize may leave them"


def test_arrays_and_bytes_of_every_kind_are_read(tmp_path: Path) -> None:
    pixels = np.arange(3 * 40 * 50, dtype=np.uint8).reshape(3, 40, 50)
    wanted = RULES.load(pixels)
    pixels.flags.writeable = False
    assert torch.equal(RULES.load(pixels), wanted)
    assert torch.equal(RULES.load(pixels[:, :, ::-1]), RULES.load(pixels[:, :, ::-1].copy()))
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert all(torch.equal(RULES.load(kind(data)), wanted) for kind in (bytes, bytearray, memoryview))


def test_deep_images_keep_their_precision() -> None:
    rules = replace(GRAY, size=256, resize=256, mean=(0.0,), std=(1.0,))
    out = rules.load(encoded(Image.fromarray(RAMP), "PNG"))
    assert torch.equal(out[0], torch.from_numpy(RAMP.astype(np.float32) / np.float32(65535)))


def test_it_travels_as_json() -> None:
    centred = RULES.centred(torch.rand(3, 24, 24))
    for rules in (RULES, centred):
        assert Preprocess.from_dict(json.loads(json.dumps(rules.to_dict()))) == rules
    assert "mean_image" not in RULES.to_dict(), "as before there were any"
    back = Preprocess.from_dict(centred.to_dict())
    assert torch.equal(back(random_image(30, 40)), centred(random_image(30, 40)))
    with pytest.raises(ConfigError, match="expected"):
        Preprocess.from_dict({"size": 3})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"fit": "squash"}, "fit"),
        ({"resize": 20}, "at least data.size"),
        ({"channels": 2}, "channels"),
        ({"mean": (0.5,)}, "mean"),
        ({"std": (0.0, 1.0, 1.0)}, r"std: got \(0.0, 1.0, 1.0\), expected 1e-09 to 1e\+09"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "mean: got"),
        ({"resize": 9000}, "data.resize: got 9000, expected a whole number from 1 to 8192"),
        ({"size": 8.0}, "data.size: got 8.0"),
        ({"background": 256}, "data.background: got 256, expected a whole number from 0 to 255"),
        ({"max_pixels": 10**12}, "data.max_pixels: got 1000000000000"),
        ({"mean_image": 3}, r"mean_image: expected base64 of float32 \(3, 24, 24\)"),
        ({"mean_image": ("AAAA",)}, "expected base64"),
        ({"mean_image": ""}, "expected base64"),
        ({"mean_image": "AAAA"}, "expected base64"),
        ({"mean_image": "ä" * 9216}, "expected base64"),
        ({"mean_image": "A" * 9216 + "\n"}, "expected base64"),
        ({"mean_image": "A" * 9216, "size": 25}, "expected base64"),
        ({"mean_image": base64.b64encode(b"\0\0\x80\x7f" * 1728).decode()}, "NaN or infinity"),
        ({"mean_image": base64.b64encode(b"\0\0\xc0\xff" * 1728).decode()}, "NaN or infinity"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        replace(RULES, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "images"), [(8, 128), (112, 128), (224, 32), (448, 8), (8192, 1)])
def test_batches_of_evaluation_fit_into_memory(size: int, images: int) -> None:
    assert eval_batch(size) == images
