"""Folders: what is a class, what is an example, what is left out and said."""

import difflib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plusx.data import open_dataset
from plusx.data.dataset import natural_key
from plusx.data.folder import find_images
from plusx.errors import DataError
from plusx.text import show
from tests.data.making import CONFIG, class_folders, picture


def notes(root: Path) -> str:
    return "\n".join(open_dataset(str(root), CONFIG, training=False).notes)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "given", [Image.new("RGB", (4, 4)), np.zeros((3, 4, 4)), np.array(3), b"a.png", bytearray(b"x"), None, 3]
)
def test_what_is_no_path_is_told(given: Any, several: bool) -> None:
    kind = type(given).__name__
    with pytest.raises(DataError, match=rf"got {kind}, expected paths .* model\.preprocess\.load\("):
        find_images(["a.png", given] if several else given)


def test_classes_are_naturally_sorted_names_shared_by_all_splits(tmp_path: Path) -> None:
    class_folders(tmp_path / "Training", {"10": 2, "2": 2, "1": 2})
    class_folders(tmp_path / "valid", {"10": 1}, seed=50)
    class_folders(tmp_path / "testing", {"2": 1, "10": 1}, seed=60)
    dataset = open_dataset(str(tmp_path), CONFIG)
    assert dataset.classes == ("1", "2", "10")
    assert list(dataset.splits) == ["train", "val", "test"]
    assert dataset.splits["val"].targets.tolist() == [2]
    assert dataset.splits["test"].targets.tolist() == [1, 2]
    assert dataset.splits["train"].names[0] == os.path.join("Training", "1", "0.png")
    assert dataset.watched is dataset.splits["val"]
    assert "val has no image of 2 classes: 1, 2" in dataset.notes
    paths = dataset.splits["train"].paths
    assert paths is not None
    assert all(os.path.isfile(p) for p in paths)


def test_creation_order_does_not_matter(tmp_path: Path) -> None:
    one = class_folders(tmp_path / "one", {"a": 5, "b": 5})
    two = class_folders(tmp_path / "two", {"b": 5, "a": 5})
    first, second = (open_dataset(str(root), CONFIG).splits for root in (one, two))
    assert [list(s.names) for s in first.values()] == [list(s.names) for s in second.values()]


def test_nested_files_any_case_and_hidden_ones(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    picture(tmp_path / "a" / "deep" / "er" / "x.JPG")
    picture(tmp_path / "a" / ".hidden" / "x.png")
    picture(tmp_path / "__MACOSX" / "a" / "x.png")
    picture(tmp_path / ".cache" / "x.png")
    for name in ("Thumbs.db", ".DS_Store", "._x.png", "desktop.ini"):
        (tmp_path / "b" / name).write_bytes(b"x")
    dataset = open_dataset(str(tmp_path), CONFIG, training=False)
    assert dataset.classes == ("a", "b")
    assert [Path(n).name for n in dataset.splits["all"].names] == ["0.png", "x.JPG", "0.png"]
    assert dataset.notes == ()


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "list.xml").write_text("x")
    (tmp_path / "b" / "list.XML").write_text("x")
    (tmp_path / "readme").write_text("x")
    picture(tmp_path / "loose.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    text = notes(tmp_path)
    assert "left out: files of type .xml (2)" in text
    assert "left out: files of another type (1)" in text
    assert "left out: images outside a class folder (1)" in text
    assert "left out: broken links, pipes or devices (1)" in text


def test_photos_of_kinds_that_are_not_read_come_first(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 2, "b": 2})
    class_folders(tmp_path / "val", {"a": 2, "b": 0, "bare": 0})
    for name in ("train/a/1.heic", "train/a/list.csv", "val/b/2.HEIC", "val/b/3.CR2", "val/b/list.csv"):
        (tmp_path / name).write_text("x")
    assert notes(tmp_path).splitlines()[:4] == [
        "1 class folder with no other images than photos of a kind that is not read: val/b",
        "left out: photos of a kind that is not read (.cr2): convert them to JPEG (1)",
        "left out: photos of a kind that is not read (.heic): convert them to JPEG (2)",
        "left out: files of type .csv (2)",
    ]
    (tmp_path / "train" / "bare").mkdir()
    (tmp_path / "train" / "bare" / "1.jxl").write_text("x")
    with pytest.raises(
        DataError, match=r"1 class without images: bare; 2 class folders with no .*: train/bare, val/b;"
    ):
        open_dataset(str(tmp_path), CONFIG)


def test_links_end_and_stay_inside(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "root", {"a": 2, "b": 2})
    outside = picture(tmp_path / "outside" / "x.png")
    (root / "a" / "loop").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "out").symlink_to(outside.parent)
    (root / "a" / "file.png").symlink_to(outside)
    (root / "a" / "again.png").symlink_to(root / "b" / "0.png")
    (root / "a" / "dangling.png").symlink_to(root / "none.png")
    (root / "b" / "more").symlink_to(root / "a")
    dataset = open_dataset(str(root), CONFIG, training=False)
    assert [n for n in dataset.splits["all"].names if n.startswith("a")] == ["a/0.png", "a/1.png", "a/again.png"]
    text = "\n".join(dataset.notes)
    assert "left out: links that leave the folder (4)" in text  # both classes reach the two of a/
    assert "left out: links to a folder already read (4)" in text
    assert "left out: broken links, pipes or devices (2)" in text


def test_a_real_name_wins_over_a_link(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a/deep": 2, "b": 2})
    for name in ("again", "later"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "a" / "deep")
    dataset = open_dataset(str(tmp_path), CONFIG, training=False)
    assert list(dataset.splits["all"].names)[:2] == ["a/deep/0.png", "a/deep/1.png"]
    assert "left out: links to a folder already read (2)" in dataset.notes


def test_a_link_to_itself_is_a_broken_one(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 2, "b": 2})
    for link in ("train/a/self.jpg", "train/b/self", "train/self", "self"):
        (tmp_path / link).symlink_to(Path(link).name)
    dataset = open_dataset(str(tmp_path), CONFIG, training=False)
    assert dataset.splits["train"].counts(2).tolist() == [2, 2]
    assert "left out: broken links, pipes or devices (1)" in dataset.notes
    assert "left out: files of another type (3)" in dataset.notes
    assert len(find_images(tmp_path, lambda _: None)) == 4


def test_a_folder_above_what_a_link_means(tmp_path: Path) -> None:
    class_folders(tmp_path / "far", {"a": 1, "b": 1})
    (tmp_path / "link").symlink_to(tmp_path / "far" / "a")
    (tmp_path / "again").symlink_to(tmp_path / "far")
    assert open_dataset(f"{tmp_path}/link/..", CONFIG, training=False).root == f"{tmp_path}/far"
    assert open_dataset(f"{tmp_path}/far/../again/", CONFIG, training=False).root == f"{tmp_path}/again"


def test_a_glob_gives_each_file_once(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b/c": 2})
    found = [os.path.relpath(path, tmp_path) for path in find_images(f"{tmp_path}/**")]
    assert found == ["a/0.png", "a/1.png", "b/c/0.png", "b/c/1.png"]
    assert len(find_images([f"{tmp_path}/a/0.png"] * 2)) == 2  # what the user names twice
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "2.png").symlink_to("0.png")
    found = [os.path.relpath(path, tmp_path) for path in find_images(f"{tmp_path}/**/*.png")]
    assert found == ["a/0.png", "a/1.png", "a/2.png", "b/c/0.png", "b/c/1.png"]
    for name in ("today", "latest"):  # two ways to one folder are no loop
        (tmp_path / name).symlink_to("a")
    assert [os.path.relpath(path, tmp_path) for path in find_images(f"{tmp_path}/[tl]*/0.png")] == [
        "latest/0.png",
        "today/0.png",
    ]


def test_a_class_that_is_a_link_to_elsewhere_is_an_error_and_not_a_loss(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "root", {"a": 2, "b": 2})
    (root / "c").symlink_to(class_folders(tmp_path / "elsewhere", {"c": 2}) / "c")
    with pytest.raises(DataError, match=r"1 class without images: c.*links that leave the folder .1."):
        open_dataset(str(root), CONFIG)


def test_folder_called_test_that_holds_images_is_a_class(tmp_path: Path) -> None:
    class_folders(tmp_path, {"test": 3, "quiz": 3})
    assert open_dataset(str(tmp_path), CONFIG).classes == ("quiz", "test")


def test_folders_beside_splits_are_said(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 2, "b": 2})
    class_folders(tmp_path, {"test": 2, "annotations": 0}, seed=9)
    text = notes(tmp_path)
    assert "left out: folder annotations beside the splits, with all that is in it" in text
    assert "left out: folder test beside the splits, with all that is in it" in text


def test_a_split_without_images_is_as_none_and_said(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 5, "b": 5})
    class_folders(tmp_path, {"val/a": 0, "val/b": 0, "test/a": 0})
    found = open_dataset(str(tmp_path), CONFIG)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 8, "val": 2}
    assert "left out: 2 splits without images: val, test" in found.notes
    assert list(open_dataset(str(tmp_path), CONFIG, training=False).splits) == ["train"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: class_folders(r, {"only": 3}), "got one class (only), expected at least 2"),
        (lambda r: class_folders(r, {"a": 3, "b": 3, "bare": 0}), "1 class without images: bare"),
        (lambda r: r.mkdir(), "no images found"),
        (lambda r: picture(r / "x.png"), "got 1 image and no class folders"),
        (lambda r: class_folders(r, {"val/a": 3, "val/b": 3}), "got val, expected a train split"),
        (
            lambda r: class_folders(r, {"train/a": 1, "training/a": 1}),
            "got train and training, which both mean train",
        ),
        (
            lambda r: class_folders(r, {"train/a": 2, "train/b": 2, "val/c": 1, "val/a": 1}),
            "val has images of 1 class that train lacks: c",
        ),
    ],
)
def test_unfit_for_training(tmp_path: Path, make: object, message: str) -> None:
    root = tmp_path / "root"
    make(root)  # type: ignore[operator]
    with pytest.raises(DataError, match=re.escape(message)):
        open_dataset(str(root), CONFIG)


def test_no_such_folder_names_close_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "photos", {"a": 1})
    with pytest.raises(DataError, match=r"no such folder.*Did you mean .*photos"):
        open_dataset(str(tmp_path / "photo"), CONFIG)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=rf"expands no ~ in quotes; give {re.escape(str(tmp_path))}/photos\."):
        open_dataset("~/photos", CONFIG)
    with pytest.raises(DataError, match=r"Did you mean fashion-mnist"):
        open_dataset("fashon-mnist", CONFIG)
    with pytest.raises(DataError, match=r"expected a folder or a file that ends in .csv.*Unpack an archive"):
        open_dataset(str(picture(tmp_path / "x.png")), CONFIG)


def test_close_names_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, {"cats": 1, "dogs": 1, "mice": 1})
    real, calls = difflib.get_close_matches, []
    monkeypatch.setattr(difflib, "get_close_matches", lambda *given: calls.append(given) or real(*given))
    with pytest.raises(DataError, match=r"Did you mean .*dogs\?"):
        open_dataset(str(tmp_path / "dgs"), CONFIG)
    assert len(calls) == 2  # beside it, and of data sets


def test_hostile_names_do_not_crash_and_are_shown_harmless(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path)
    for i, name in enumerate([b"a\n\x1b[31m", b"b\xff", b"-c", "d😀".encode(), b"<img onerror=x>", b"e" * 255]):
        os.mkdir(os.path.join(raw, name))
        picture(tmp_path / "source.png", seed=i)
        os.rename(tmp_path / "source.png", os.path.join(raw, name, b"x\xfe\n.png"))
    dataset = open_dataset(str(tmp_path), CONFIG, training=False)
    assert len(dataset.classes) == 6
    assert r"a\n\x1b[31m/x\udcfe\n.png" in map(show, dataset.splits["all"].names)
    os.mkdir(os.path.join(raw, b"z\x1b]0;pwned\x07\xff"))
    with pytest.raises(DataError) as caught:
        open_dataset(str(tmp_path), CONFIG)
    assert str(caught.value).isprintable()
    assert "\\x1b]0;pwned" in str(caught.value)


def test_natural_key_takes_any_digits() -> None:
    names = ["x10", "x2", "x" + "9" * 5000, "x02", "X1", "2", "10", "²", ""]
    assert sorted(names, key=natural_key)[:3] == ["", "2", "10"]
    assert sorted(["x10", "x2", "x02"], key=natural_key) == ["x02", "x2", "x10"]


def test_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    real = os.scandir

    def refuse(path: str) -> object:
        if os.path.basename(path) == "b":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"b: cannot be read: Permission denied"):
        open_dataset(str(tmp_path), CONFIG)
