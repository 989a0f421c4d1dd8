"""Named sets: found in order, every byte checked, offline a clear error."""

import dataclasses
import functools
import gzip
import hashlib
import tarfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from plusx.config import DataConfig
from plusx.data import named, open_dataset, part
from plusx.data.named import CIFAR10, CIFAR100, FASHION_MNIST, Published, digits, read
from plusx.data.part import halved
from plusx.data.sources import SOURCES
from plusx.errors import DataError
from tests.data.making import CONFIG
from tests.serving import Quiet, serving


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLUSX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PLUSX_OFFLINE", "1")
    return tmp_path / "cache"


def published(spec: Published, contents: dict[str, bytes], **changes: object) -> Published:
    """The same set with other content."""
    files = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items()}
    return dataclasses.replace(spec, files=files, places=(), **changes)  # type: ignore[arg-type]


def cifar(label_bytes: int, n: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 10, (n, label_bytes + 3072), np.uint8).tobytes()


SMALL100 = published(CIFAR100, {"train.bin": cifar(2, 6, 0), "test.bin": cifar(2, 3, 1)})


def write(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def test_digits() -> None:
    dataset = open_dataset("digits", CONFIG)
    assert {name: len(s) for name, s in dataset.splits.items()} == {"train": 1438, "test": 359}
    assert (dataset.classes, dataset.mirror, dataset.benchmark) == (tuple("0123456789"), False, True)
    images = dataset.splits["train"].images
    assert images is not None
    assert (images.shape[1:], images.dtype, images.min(), images.max()) == ((1, 8, 8), np.uint8, 0, 255)
    assert np.unique(images).tolist() == [round(level * 255 / 16) for level in range(17)]
    assert not set(dataset.splits["train"].names) & set(dataset.splits["test"].names)
    share = dataset.splits["test"].counts(10) / dataset.splits["train"].counts(10)
    assert np.allclose(share, 0.25, atol=0.01)
    assert list(digits("digits", DataConfig(split_seed=9)).splits["test"].names) == list(dataset.splits["test"].names)


def test_cifar_records_become_planes(tmp_path: Path) -> None:
    contents = {name: cifar(1, 2, i) for i, name in enumerate(CIFAR10.files)}
    write(tmp_path / "cifar-10-batches-bin", contents)
    dataset = read(published(CIFAR10, contents), "cifar10", DataConfig(root=str(tmp_path)))
    train = dataset.splits["train"]
    assert train.images is not None
    assert (len(train), train.images.shape[1:]) == (10, (3, 32, 32))
    record = np.frombuffer(contents["data_batch_2.bin"], np.uint8)[3073:]
    assert train.targets[3] == record[0]
    assert (train.images[3].ravel() == record[1:]).all()
    coarse_and_fine = np.frombuffer(cifar(2, 6, 0), np.uint8).reshape(6, -1)
    write(tmp_path, {"train.bin": cifar(2, 6, 0), "test.bin": cifar(2, 3, 1)})
    found = read(SMALL100, "cifar100", DataConfig(root=str(tmp_path)))
    assert found.splits["train"].targets.tolist() == coarse_and_fine[:, 1].tolist()


def test_the_part_of_cifar10_is_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {name: cifar(1, 3, i) for i, name in enumerate(CIFAR10.files)}
    write(tmp_path, contents)
    monkeypatch.setattr(named, "CIFAR10", published(CIFAR10, contents))
    monkeypatch.setattr(part, "TRAIN", 4), monkeypatch.setattr(part, "TEST", 2)
    config = DataConfig(root=str(tmp_path))
    whole, found = read(named.CIFAR10, "cifar10", config), SOURCES["cifar10-part"]("cifar10-part", config)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 4, "test": 2}
    assert (found.name, found.classes, found.benchmark) == ("cifar10-part", CIFAR10.classes, True)
    images, large = found.splits["train"].images, whole.splits["train"].images
    assert images is not None
    assert large is not None
    assert (images == halved(large[:4])).all()
    assert (found.splits["train"].targets == whole.splits["train"].targets[:4]).all()


def test_halved_images_are_means_of_four_pixels() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    assert halved(image).tolist() == [[[[2, 4], [10, 12]]]]  # 2.5, 4.5, 10.5, 12.5: halves to even


def test_idx_zipped_or_not(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28 * 28), np.uint8)
    contents = {
        name: b"\0" * 16 + pixels.tobytes() if "images" in name else b"\0" * 8 + bytes([0, 1, 2])
        for name in FASHION_MNIST.files
    }
    spec = published(FASHION_MNIST, contents)
    write(tmp_path / "plain", contents)
    write(tmp_path / "zipped", {f"{name}.gz": gzip.compress(data) for name, data in contents.items()})
    for place in ("plain", "zipped"):
        dataset = read(spec, "fashion-mnist", DataConfig(root=str(tmp_path / place)))
        images = dataset.splits["test"].images
        assert images is not None
        assert (images.reshape(3, -1) == pixels).all()
        assert dataset.splits["test"].targets.tolist() == [0, 1, 2]
        assert dataset.notes == (f"fashion-mnist: read from {tmp_path / place}",)


@pytest.mark.skipif(not Path(FASHION_MNIST.places[0]).exists(), reason="needs the package dataset-fashion-mnist")
def test_the_systems_fashion_mnist() -> None:
    dataset = open_dataset("fashion-mnist", CONFIG)
    assert all(s.images is not None and s.images.flags.writeable for s in dataset.splits.values())  # else torch warns
    assert {name: s.counts(10).tolist() for name, s in dataset.splits.items()} == {
        "train": [6000] * 10,
        "test": [1000] * 10,
    }


def test_search_order(tmp_path: Path, cache: Path) -> None:
    contents = {"train.bin": cifar(2, 6, 0), "test.bin": cifar(2, 3, 1)}
    for i, place in enumerate(
        (tmp_path / "system", cache / "cifar-100-binary", tmp_path / "root" / "cifar-100-binary")
    ):
        write(place, contents)
        spec = dataclasses.replace(SMALL100, places=(str(tmp_path / "system"),))
        found = read(spec, "cifar100", DataConfig(root=str(tmp_path / "root")))
        assert found.root == str(place), i


def test_a_damaged_file_is_an_error_at_each_load(cache: Path) -> None:
    write(cache / "cifar-100-binary", {"train.bin": cifar(2, 6, 0), "test.bin": cifar(2, 3, 1)})
    read(SMALL100, "cifar100", CONFIG)
    for data in (
        cifar(2, 6, 5),
        cifar(2, 6, 0) + b"x",
        cifar(2, 6, 0)[:-1],
        b"",
        b"\x1f\x8b",
        b"\x1f\x8b\x08" + b"x" * 99,
    ):
        write(cache / "cifar-100-binary", {"train.bin": data})
        with pytest.raises(
            DataError, match=r"train\.bin: (its content has the SHA-256|cannot be read).*Delete the file"
        ):
            read(SMALL100, "cifar100", CONFIG)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    write(tmp_path, {"train.bin": gzip.compress(bytes(50_000_000)), "test.bin": cifar(2, 3, 1)})
    with pytest.raises(DataError, match="its content has the SHA-256"):
        read(SMALL100, "cifar100", DataConfig(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        (FASHION_MNIST, "apt install dataset-fashion-mnist"),
        (CIFAR10, "six .bin files"),
        (CIFAR100, "train.bin and test.bin"),
    ],
)
def test_offline_says_where_it_looked_and_what_to_do(spec: Published, advice: str, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match="PLUSX_OFFLINE") as caught:
        read(dataclasses.replace(spec, places=("/nowhere",)), spec.name, DataConfig(root=str(tmp_path)))
    for text in (advice, str(tmp_path), str(cache), "/nowhere", "--set data.root=FOLDER"):
        assert text in caught.value.hint


class Folder(Quiet, SimpleHTTPRequestHandler):
    """The files of a folder."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(Folder, directory=str(tmp_path / "served"))
    with serving(handler) as address:
        yield address


def test_download_of_an_archive(server: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLUSX_OFFLINE")
    write(tmp_path / "cifar-100-binary", {"train.bin": cifar(2, 6, 0), "test.bin": cifar(2, 3, 1)})
    (tmp_path / "served").mkdir()
    source = tmp_path / "served" / "set.tar.gz"
    with tarfile.open(source, "w:gz") as tar:
        tar.add(tmp_path / "cifar-100-binary", "cifar-100-binary")
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    spec = dataclasses.replace(SMALL100, url=f"{server}/set.tar.gz", archive=sha256)
    for _ in "download", "cache":
        assert len(read(spec, "cifar100", CONFIG).splits["train"]) == 6
        source.unlink(missing_ok=True)
    assert sorted(p.name for p in cache.rglob("*.bin")) == ["test.bin", "train.bin"]
    assert not list(cache.rglob("*.tar.gz"))
    assert not list(cache.rglob("*.tmp"))


def test_download_of_single_files(server: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLUSX_OFFLINE")
    contents = {"train.bin": cifar(2, 6, 0), "test.bin": cifar(2, 3, 1)}
    write(tmp_path / "served", {f"{name}.gz": gzip.compress(data) for name, data in contents.items()})
    spec = dataclasses.replace(SMALL100, url=server, archive=None)
    assert len(read(spec, "cifar100", CONFIG).splits["test"]) == 3
    (cache / "cifar-100-binary" / "test.bin.gz").unlink()
    write(tmp_path / "served", {"test.bin.gz": gzip.compress(cifar(2, 3, 7))})
    with pytest.raises(DataError, match="its content has the SHA-256"):
        read(spec, "cifar100", CONFIG)
    assert not (cache / "cifar-100-binary" / "test.bin.gz").exists()
