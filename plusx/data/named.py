"""Data sets known by name. Every byte used is checked against a SHA-256 written here, at each load."""

import functools
import gzip
import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plusx.config import DataConfig
from plusx.data import split
from plusx.data.arrays import in_memory
from plusx.data.dataset import Dataset, Split
from plusx.data.download import cache_folder, extract, fetch, locked, progress_bar, verify_sha256
from plusx.errors import DataError
from plusx.text import show

DIGITS_SEED = 0  # of the fixed test split
ROOM_FOR_HEADERS = 1 << 16  # bytes that a gzip file may have over its content
ARCHIVE_LIMIT = 200_000_000  # bytes; the two archives have about 170 million


@dataclass(frozen=True)
class Published:
    """A data set as its authors publish it.

    Arguments:
        folder: name of the folder that holds the files.
        files: file name -> (bytes, SHA-256) of its content; on disk a file may also be gzipped and end in .gz.
        train, test: the files of each split, in order.
        parse: contents of a split's files -> (images (N, C, H, W), labels (N,)).
        url: of the folder, or of the archive.
        archive: SHA-256 of that archive; None when files are published singly, gzipped.
        get: how a person gets it without plusx.
        places: further folders to look in.
    """

    name: str
    folder: str
    files: dict[str, tuple[int, str]]
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: tuple[str, ...]
    parse: Callable[[list[bytes]], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
    url: str
    archive: str | None
    get: str
    places: tuple[str, ...] = ()


def digits(source: str, config: DataConfig) -> Dataset:
    """1,797 handwritten digits, gray 8x8, from scikit-learn: 0..16 becomes 0..255, a fixed fifth is the test split."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = np.rint(loaded.images * (255 / 16)).astype(np.uint8)[:, None]
    whole = in_memory("digits", images, loaded.target.astype(np.int64))
    test = split.choose(whole, 10, 0.2, DIGITS_SEED)
    splits = {"train": whole.take(~test, "train"), "test": whole.take(test, "test")}
    return Dataset("digits", "scikit-learn", tuple("0123456789"), "single", splits, mirror=False, benchmark=True)


def read(spec: Published, source: str, config: DataConfig) -> Dataset:
    """Train and test as published, from `data.root`, the cache, a system package or the network, in this order.

    Raises:
        DataError: not found and not to be downloaded, or a file that is not the published one.
    """
    folder = _find(spec, config.root) or _download(spec, config.root)
    splits: dict[str, Split] = {}
    for name, files in (("train", spec.train), ("test", spec.test)):
        images, labels = spec.parse([_content(_present(folder, file), *spec.files[file]) for file in files])
        splits[name] = in_memory(name, images, labels.astype(np.int64))
    # Of each of these sets a mirrored image keeps its label.
    notes = (f"{spec.name}: read from {show(str(folder))}",)
    return Dataset(spec.name, str(folder), spec.classes, "single", splits, notes, mirror=True, benchmark=True)


def _places(spec: Published, root: str | None) -> list[Path]:
    given = [Path(root), Path(root) / spec.folder] if root else []
    return [*given, cache_folder() / spec.folder, *map(Path, spec.places)]


def _find(spec: Published, root: str | None) -> Path | None:
    """The first folder that has every file; a damaged file there is an error later, not a reason to look on."""
    for place in _places(spec, root):
        if all(_present(place, file).is_file() for file in spec.files):
            return place
    return None


def _present(folder: Path, file: str) -> Path:
    plain = folder / file
    return plain if plain.exists() else folder / f"{file}.gz"


def _content(path: Path, size: int, sha256: str) -> bytes:
    """The file's content, unzipped, once it is proven to be the published one: what is checked is what is used."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"  # no content below starts so
            file.seek(0)
            content = gzip.GzipFile(fileobj=file).read(size + 1) if zipped else file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}", "Delete the file to get it anew.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(f"{path}: its content has the SHA-256 {found}, not {sha256}", "Delete the file to get it anew.")
    return content


def _download(spec: Published, root: str | None) -> Path:
    folder = cache_folder() / spec.folder
    looked = ", ".join(str(place) for place in _places(spec, root))
    hint = f"Looked in {looked}. Without a network: {spec.get}, and name their folder with --set data.root=FOLDER."
    with progress_bar(spec.name) as progress, locked(cache_folder() / f"{spec.folder}.lock", hint):
        if found := _find(spec, root):  # another process brought it
            return found
        if spec.archive is None:
            for file, (size, sha256) in spec.files.items():
                right = functools.partial(_content, size=size, sha256=sha256)
                url, target = f"{spec.url}/{file}.gz", folder / f"{file}.gz"
                fetch(url, target, limit=size + ROOM_FOR_HEADERS, verify=right, hint=hint, progress=progress)
        else:
            target = cache_folder() / os.path.basename(spec.url)
            whole = functools.partial(verify_sha256, expected=spec.archive)
            fetch(spec.url, target, limit=ARCHIVE_LIMIT, verify=whole, hint=hint, progress=progress)
            members = {f"{spec.folder}/{file}": sha256 for file, (_, sha256) in spec.files.items()}
            extract(target, folder, members, limit=sum(size for size, _ in spec.files.values()))
            target.unlink(missing_ok=True)
    return folder


def _parse_idx(contents: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An IDX pair: images after 16 bytes of header, labels after 8."""
    images, labels = (np.frombuffer(bytearray(content), np.uint8) for content in contents)
    return images[16:].reshape(-1, 1, 28, 28), labels[8:]


def _parse_cifar(contents: list[bytes], label_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Records of `label_bytes` labels, the last of them the class, and the planes of 32x32 pixels."""
    records = np.concatenate([np.frombuffer(c, np.uint8).reshape(-1, label_bytes + 3072) for c in contents])
    return records[:, label_bytes:].reshape(-1, 3, 32, 32), records[:, label_bytes - 1]


FASHION_MNIST = Published(
    name="fashion-mnist",
    folder="fashion-mnist",
    # Of the content and not of the .gz files, whose headers differ between publishers.
    files={
        "train-images-idx3-ubyte": (47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        "train-labels-idx1-ubyte": (60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        "t10k-images-idx3-ubyte": (7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        "t10k-labels-idx1-ubyte": (10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    },
    train=("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    test=("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    parse=_parse_idx,
    url="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    archive=None,
    get="on Debian and Ubuntu `apt install dataset-fashion-mnist`; elsewhere bring its four .gz files",
    places=("/usr/share/datasets/fashion-mnist",),
)
CIFAR10 = Published(
    name="cifar10",
    folder="cifar-10-batches-bin",
    files={
        "data_batch_1.bin": (30730000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        "data_batch_2.bin": (30730000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        "data_batch_3.bin": (30730000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        "data_batch_4.bin": (30730000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        "data_batch_5.bin": (30730000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        "test_batch.bin": (30730000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    },
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test=("test_batch.bin",),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    parse=functools.partial(_parse_cifar, label_bytes=1),
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    archive="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    get="bring the six .bin files of the binary version",
)
# As in the archive's fine_label_names.txt, in this order.
CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = Published(
    name="cifar100",
    folder="cifar-100-binary",
    files={
        "train.bin": (153700000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
        "test.bin": (30740000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
    },
    train=("train.bin",),
    test=("test.bin",),
    classes=tuple(CIFAR100_CLASSES.split()),
    parse=functools.partial(_parse_cifar, label_bytes=2),
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    archive="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    get="bring train.bin and test.bin of the binary version",
)
