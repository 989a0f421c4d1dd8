"""Arrays: keys, shapes, labels; and pickles are never opened."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plusx.config import DataConfig
from plusx.data import Dataset, open_dataset
from plusx.errors import DataError
from tests.data.making import CONFIG

GRAY = np.arange(6 * 5 * 4, dtype=np.uint8).reshape(6, 5, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def opened(tmp_path: Path, **arrays: Any) -> Dataset:
    np.savez(tmp_path / "a.npz", **arrays)
    return open_dataset(str(tmp_path / "a.npz"), CONFIG, training=False)


def test_shapes(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
    for images, channels in ((GRAY, 1), (GRAY[..., None], 1), (colour, 3), (colour.transpose(0, 3, 1, 2), 3)):
        found = opened(tmp_path, images=images, labels=LABELS).splits["all"].images
        assert found is not None
        assert found.shape == (6, channels, 5, 4)
        assert found.flags.c_contiguous
    assert (found == colour.transpose(0, 3, 1, 2)).all()
    either = opened(tmp_path, images=colour[:, :3], labels=LABELS).splits["all"].images  # (6, 3, 4, 3)
    assert either is not None
    assert np.array_equal(either, colour[:, :3].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("style", ["{role}_{split}", "{split}_{role}"])
def test_splits(tmp_path: Path, style: str) -> None:
    for x, y in (("x", "y"), ("images", "labels")):
        arrays = {}
        for split in ("train", "test"):
            arrays |= {style.format(role=x, split=split): GRAY, style.format(role=y, split=split): LABELS[:, None]}
        np.savez(tmp_path / "a.npz", **arrays)
        dataset = open_dataset(str(tmp_path / "a.npz"), DataConfig(val_fraction=0.5))
        assert {n: len(s) for n, s in dataset.splits.items()} == {"train": 3, "val": 3, "test": 6}
        assert list(dataset.splits["test"].names[:2]) == ["test/0", "test/1"]


def test_labels(tmp_path: Path) -> None:
    assert opened(tmp_path, x=GRAY, y=LABELS * 5 + 1).classes == ("1", "6", "11")
    assert opened(tmp_path, x=GRAY, y=np.array(list("bacbac"))).splits["all"].targets.tolist() == [1, 0, 2, 1, 0, 2]
    assert opened(tmp_path, x=GRAY, y=np.array([b"b", b"\xff"] * 3)).classes == ("\\xff", "b")
    named = opened(tmp_path, x=GRAY, y=LABELS, class_names=np.array(["z", "a", "m", "never"]))
    assert named.classes == ("z", "a", "m", "never")
    assert named.splits["all"].targets.tolist() == LABELS.tolist()
    assert opened(tmp_path, x=GRAY, y=LABELS, classes=np.array([b"z", b"a", b"m"])).classes == ("z", "a", "m")
    pair = opened(tmp_path, x=GRAY, y=LABELS > 0, classes=np.array(["no", "a"]))
    assert pair.classes == ("no", "a")
    assert pair.splits["all"].targets.tolist() == [0, 1, 1, 0, 1, 1]
    multi = opened(tmp_path, x=GRAY, y=np.eye(3)[LABELS])
    assert (multi.task, multi.splits["all"].targets.dtype, multi.classes) == ("multi", np.float32, ("0", "1", "2"))


def test_labels_that_are_names_are_the_classes(tmp_path: Path) -> None:
    found = opened(tmp_path, x=GRAY, y=np.array(list("bacbac")))
    assert found.classes == ("a", "b", "c")
    assert found.splits["all"].targets.tolist() == [1, 0, 2, 1, 0, 2]
    found = opened(tmp_path, x=GRAY, y=np.array(list("bacbac")), classes=np.array(list("cxab")))
    assert found.classes == ("c", "a", "b")
    assert found.splits["all"].targets.tolist() == [2, 1, 0, 2, 1, 0]


def test_extra_arrays_are_said(tmp_path: Path) -> None:
    assert opened(tmp_path, x=GRAY, y=LABELS, foo=LABELS).notes == ("left out: 1 array not used: foo",)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GRAY / 255, "y": LABELS}, "got float64, expected uint8"),
        ({"x": GRAY[0], "y": LABELS}, "got the shape (5, 4), expected (N, H, W)"),
        ({"x": np.zeros((6, 5, 4, 7), np.uint8), "y": LABELS}, "got the shape (6, 5, 4, 7)"),
        ({"x": np.zeros((6, 0, 4), np.uint8), "y": LABELS}, "got the shape (6, 1, 0, 4), expected (N, H, W)"),
        ({"x": GRAY}, "got the arrays x, expected images and labels of each split"),
        ({"x": GRAY, "images": GRAY, "y": LABELS}, "got two arrays of all images"),
        ({"x": GRAY, "y": LABELS, "labels": LABELS}, "got two arrays of all labels"),
        ({"x": GRAY, "y": LABELS, "x_train": GRAY, "y_train": LABELS}, "expected images and labels of each split"),
        ({"x": GRAY, "y": LABELS[:5]}, "all has 6 images and 5 labels"),
        ({"x": GRAY[:5], "y": LABELS}, "all has 5 images and 6 labels"),
        ({"x": GRAY, "y": LABELS * 0.5}, "got labels float64 (6,), expected integers or text"),
        ({"x": GRAY, "y": np.full((6, 2), 2)}, "got labels int64 (6, 2)"),
        ({"x": GRAY, "y": np.array(1)}, "got labels int64 (), expected integers or text"),
        ({"x": GRAY, "y": LABELS[:, None, None]}, "got labels int64 (6, 1, 1), expected integers or text"),
        ({"x": GRAY, "y": np.array(["", "b"] * 3)}, "got an empty class name"),
        ({"x": GRAY, "y": LABELS, "classes": np.array(["a", "", "c"])}, "got an empty class name"),
        (
            {"x": GRAY, "y": LABELS, "classes": np.array(["a", "b"])},
            "got 2, expected one of the 2 of the array classes",
        ),
        ({"x": GRAY, "y": LABELS - 1, "classes": np.array(["a", "b", "c"])}, "got -1, expected one of the 3"),
        (
            {"x_train": GRAY, "y_train": LABELS, "x_test": GRAY[..., None].repeat(3, 3), "y_test": LABELS},
            "got gray and colour splits",
        ),
        ({"x": GRAY, "y": LABELS, "classes": np.array(["a", "b", "a"])}, "the same class name twice"),
        ({"x": GRAY, "y": LABELS > 0, "classes": np.array(["a"])}, "got True, expected one of the 1 "),
        ({"x": GRAY, "y": np.array(list("bacbac")), "classes": np.array(["a", "b"])}, "got c, expected"),
        ({"x": GRAY, "y": LABELS, "classes": LABELS[:3], "class_names": LABELS[:3]}, "got two arrays of class names"),
        ({"x": GRAY, "y": np.eye(3)[LABELS], "classes": np.array(["a"])}, "got 1 class names for 3 columns"),
        ({"x": GRAY, "y": np.eye(3)[LABELS], "classes": np.array(list("abcd"))}, "got 4 class names for 3 columns"),
        (
            {"x_train": GRAY, "y_train": np.eye(3)[LABELS], "x_test": GRAY, "y_test": np.eye(4)[LABELS]},
            "got labels float64 (6, 3), float64 (6, 4)",
        ),
        ({"x": np.zeros((0, 5, 4), np.uint8), "y": LABELS[:0]}, "no images found"),
        ({"x": GRAY, "y": np.zeros(6, int)}, "got one class (0)"),
    ],
)
def test_clear_errors(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=re.escape(message)):
        open_dataset(str(tmp_path / "a.npz"), CONFIG)


class Canary:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([Canary(tmp_path / "fired")], dtype=object), y=LABELS)
    with pytest.raises(DataError, match="pickled objects are never read"):
        open_dataset(str(tmp_path / "a.npz"), CONFIG)
    np.array([Canary(tmp_path / "fired")], dtype=object).dump(tmp_path / "b.npz")
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        open_dataset(str(tmp_path / "b.npz"), CONFIG)
    assert not (tmp_path / "fired").exists()


def test_damaged_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", x=GRAY, y=LABELS)
    good = (tmp_path / "good.npz").read_bytes()
    np.save(tmp_path / "single.npy", GRAY)
    hostile = (
        np.lib.format.magic(1, 0)
        + b"\x76\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1"
        + b"0" * 17
        + b",), }"
    )
    np.savez_compressed(tmp_path / "packed.npz", x=GRAY, y=LABELS)
    packed = (tmp_path / "packed.npz").read_bytes()
    at = packed.index(b"x.npy") + len(b"x.npy")
    garbled = packed[: at + 20] + b"\xff" * 40 + packed[at + 60 :]  # behind 20 bytes of header
    encrypted = good.replace(b"PK\x01\x02\x2d\x03\x2d\x00\x00", b"PK\x01\x02\x2d\x03\x2d\x00\x01")
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as raw:
        raw.writestr("x", b"no array")
    more = (garbled, encrypted, (tmp_path / "raw.npz").read_bytes(), (tmp_path / "single.npy").read_bytes())
    for data in (b"", b"x" * 100, good[: len(good) // 2], hostile.ljust(200), *more):
        (tmp_path / "bad.npz").write_bytes(data)
        with pytest.raises(DataError, match=r"cannot be read as \.npz"):
            open_dataset(str(tmp_path / "bad.npz"), CONFIG)
