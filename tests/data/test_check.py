"""Check, scan and manifest: every odd, bad, doubled or leaking image is found, and nothing is changed."""

import errno
import hashlib
import importlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plusx.config import DataConfig
from plusx.data import Dataset, check, facts, manifest, open_dataset, scan
from plusx.data.facts import header
from plusx.errors import DataError, ImageError
from tests.data.making import CONFIG, class_folders, picture


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUSX_CACHE", str(tmp_path_factory.mktemp("cache")))


def spoil(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def fingerprint(root: Path) -> str:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(os.fsencode(p) + p.read_bytes() for p in files)).hexdigest()


def bad(dataset: Dataset) -> dict[str, list[tuple[int, str]]]:
    """The examples of each split that cannot be decoded, as (id, reason)."""
    found = scan.scan(dataset, CONFIG)
    return {
        name: [(i, found[path].reason) for i, path in enumerate(split.paths or ()) if found[path].reason]
        for name, split in dataset.splits.items()
    }


def screened(dataset: Dataset, on_bad_image: str) -> Dataset:
    return scan.screen(dataset, scan.scan(dataset, CONFIG), on_bad_image)


def recorded(dataset: Dataset) -> dict[str, Any]:
    return manifest.build(dataset, scan.scan(dataset, CONFIG))


def test_check_of_good_data_is_silent(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 12, "b": 12})
    before = fingerprint(tmp_path)
    calls: list[tuple[int, int]] = []
    report = check(str(tmp_path), CONFIG, lambda *p: calls.append(p))
    assert (report.n, report.bad, report.duplicates, report.leaks) == (24, [], [], [])
    assert report.classes == {"a": {"train": 10, "val": 2}, "b": {"train": 10, "val": 2}}
    assert report.warnings == []
    assert calls[-1] == (24, 24)
    assert fingerprint(tmp_path) == before
    assert set(json.loads(json.dumps(report.to_dict()))) == {"n", "classes", "bad", "duplicates", "leaks", "warnings"}


def test_check_finds_bad_files_of_every_kind(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 12, "b": 12})
    spoil(tmp_path / "a" / "0.png")
    (tmp_path / "a" / "1.png").write_bytes(b"")
    (tmp_path / "b" / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "b" / "esc\x1b[31m.png").write_bytes(b"x")
    report = check(str(tmp_path), CONFIG)
    assert sorted(row["path"] for row in report.bad) == ["a/0.png", "a/1.png", "b/esc\\x1b[31m.png", "b/text.jpg"]
    assert all(row["reason"] and row["split"] in ("train", "val") for row in report.bad)
    assert not any(warning.startswith("sizes") for warning in report.warnings), "a bad file has none"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_damaged_exif_data_spoils_no_image(tmp_path: Path, kind: str) -> None:
    class_folders(tmp_path, {"a": 2, "b": 2})
    Image.new("RGB", (8, 6)).save(tmp_path / "a" / f"exif.{kind.lower()}", exif=b"Exif\0\0XX*\0")
    assert check(str(tmp_path), CONFIG).bad == []
    assert not any(bad(open_dataset(str(tmp_path), CONFIG)).values())


def test_damage_behind_the_first_frame_spoils_no_image(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b": 2})
    path, frames = tmp_path / "a" / "film.gif", [Image.new("L", (8, 6), level) for level in (0, 99)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    second = path.read_bytes().rfind(b"\x2c\x00\x00")
    path.write_bytes(path.read_bytes()[: second + 3])
    report = check(str(tmp_path), CONFIG)
    assert report.bad == []
    assert "1 image with several frames, of which the first is used" in report.warnings
    assert not any(bad(open_dataset(str(tmp_path), CONFIG)).values())


def test_check_finds_leaks_also_of_encoded_again_images(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 10, "b": 10})
    class_folders(tmp_path / "val", {"a": 10, "b": 10}, seed=100)
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "val/a/copy.png")
    Image.open(tmp_path / "train/b/0.png").save(tmp_path / "val/b/again.bmp")
    shutil.copy(tmp_path / "train/a/1.png", tmp_path / "train/b/wrong.png")
    report = check(str(tmp_path), CONFIG)
    assert report.leaks == [
        {
            "paths": ["train/a/0.png", "val/a/copy.png"],
            "splits": ["train", "val"],
            "labels": ["a", "a"],
            "same": "bytes",
        },
        {
            "paths": ["train/b/0.png", "val/b/again.bmp"],
            "splits": ["train", "val"],
            "labels": ["b", "b"],
            "same": "pixels",
        },
    ]
    assert [d["paths"] for d in report.duplicates if d not in report.leaks] == [["train/a/1.png", "train/b/wrong.png"]]
    assert "1 image under different labels: train/a/1.png" in report.warnings


def test_check_warns_of_what_is_odd(tmp_path: Path) -> None:
    class_folders(tmp_path, {"many": 60, "few": 5, "one": 1})
    ramp = np.linspace(0, 65535, 48, dtype=np.uint16).reshape(6, 8)
    Image.fromarray(ramp).save(tmp_path / "many" / "deep.png")
    Image.new("CMYK", (8, 6)).save(tmp_path / "many" / "print.jpg")
    Image.new("RGBA", (8, 6), (1, 2, 3, 4)).save(tmp_path / "many" / "clear.png")
    Image.new("P", (8, 6), 1).save(tmp_path / "many" / "hole.png", transparency=0)
    Image.new("RGB", (8, 6), (1, 2, 3)).save(tmp_path / "many" / "key.png", transparency=(0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "many" / "plain.png", 77).unlink()
    Image.new("RGB", (50, 40), (9, 9, 9)).save(tmp_path / "many" / "turned.jpg", exif=exif)
    frames = [Image.new("L", (8, 6), level) for level in (0, 99)]
    frames[0].save(tmp_path / "many" / "film.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "many" / "notes.txt").write_text("x")
    warnings = "\n".join(check(str(tmp_path), CONFIG).warnings)
    for expected in (
        "1 class with one training image: one",
        "2 classes with fewer than 10 training images: few (4), one (1)",
        "uneven classes: many has 54 training images, one 1",
        "1 image with more than 8 bits a channel",
        "1 image with CMYK colours",
        "3 images with transparency",
        "1 image with a rotation in EXIF",
        "1 image with several frames, of which the first is used",
        "sizes from 8x6 to 40x50 px",
        "left out: files of type .txt (1)",
    ):
        assert expected in warnings


def test_check_reports_what_training_refuses(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 3, "bare": 0})
    report = check(str(tmp_path), CONFIG)
    assert "1 class without images: bare" in report.warnings
    assert "1 class with fewer than 10 training images: a (3)" in report.warnings
    assert report.classes == {"a": {"all": 3}, "bare": {"all": 0}}


@pytest.mark.parametrize("n", [9, 10])
def test_classes_are_uneven_from_ten_times_on(tmp_path: Path, n: int) -> None:
    report = check(str(class_folders(tmp_path, {"many": n, "one": 1})), DataConfig(val_fraction=0.0))
    told = f"uneven classes: many has {n} training images, one 1; train with --set optim.class_weights=balanced"
    assert any(warning.startswith(told) for warning in report.warnings) == (n == 10)


def test_check_of_images_without_any_label(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.zeros((5, 2)))
    report = check(str(tmp_path / "a.npz"), CONFIG)
    labels = "any number of labels an image: 0 of 5 images have more than one"
    assert report.warnings == [labels, "2 classes without images: 0, 1"]
    assert report.classes == {"0": {"all": 0}, "1": {"all": 0}}


def test_check_of_tables_and_arrays(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    (tmp_path / "t.csv").write_text("path,label\nx.png,a|b\nx.png,a\ngone.png,b\n")
    report = check(str(tmp_path / "t.csv"), CONFIG)
    assert [b["path"] for b in report.bad] == ["gone.png"]
    assert "1 of 3 files do not exist: gone.png" in report.warnings
    assert sorted(report.duplicates[0]["labels"]) == [["a"], ["a", "b"]]
    images = np.zeros((4, 5, 5), np.uint8)
    images[1], images[2] = 1, 2
    np.savez(tmp_path / "a.npz", x_train=images[:3], y_train=[0, 1, 1], x_val=images[3:], y_val=[0])
    assert check(str(tmp_path / "a.npz"), CONFIG).leaks[0]["paths"] == ["train/0", "val/0"]


def test_bad_files_are_refused_or_skipped_before_training(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 10, "b": 10})
    good = open_dataset(str(tmp_path), CONFIG)
    assert screened(good, "error") is good
    for name in ("a/0.png", "a/5.png", "b/3.png"):
        spoil(tmp_path / name)
    before = fingerprint(tmp_path)
    found = {(good.splits[s].names[i], bool(reason)) for s, rows in bad(good).items() for i, reason in rows}
    assert found == {("a/0.png", True), ("a/5.png", True), ("b/3.png", True)}
    with pytest.raises(DataError, match=r"cannot decode 3 of 20 files: .*a/0\.png \(.*on_bad_image=skip"):
        screened(good, "error")
    left = screened(good, "skip")
    assert sum(map(len, left.splits.values())) == 17
    assert left.notes[-1].startswith("skipped 3 of 20 files: ")
    names = {n for s in left.splits.values() for n in s.names}
    assert not names & {"a/0.png", "a/5.png", "b/3.png"}
    assert fingerprint(tmp_path) == before
    for i in range(10):
        (tmp_path / "b" / f"{i}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 class without images: b|that train lacks: b"):
        screened(good, "skip")


@pytest.mark.parametrize(("n", "end"), [(5, ")"), (6, "); and 1 more")])
def test_five_bad_files_are_named(tmp_path: Path, n: int, end: str) -> None:
    class_folders(tmp_path, {"a": 10, "b": 10})
    for i in range(n):
        spoil(tmp_path / "a" / f"{i}.png")
    assert screened(open_dataset(str(tmp_path), CONFIG), "skip").notes[-1].endswith(end)


def test_scan_counts_films_and_no_photos_with_a_preview(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 5, "b": 5})
    assert scan.frame_notes(scan.scan(open_dataset(str(tmp_path), CONFIG), CONFIG)) == ()
    picture = Image.open(tmp_path / "a" / "0.png")
    kinds = {"film.gif": "GIF", "film.webp": "WEBP", "pages.tif": "TIFF", "film.png": "PNG", "camera.jpg": "MPO"}
    for name, kind in kinds.items():
        picture.save(tmp_path / "b" / name, kind, save_all=True, append_images=[Image.new("RGB", (8, 6))])
    dataset = open_dataset(str(tmp_path), CONFIG)
    for _ in range(2):  # also as it is remembered
        told = scan.frame_notes(scan.scan(dataset, CONFIG))
        assert told == ("4 images with several frames, of which the first is used",)
    assert told[0] in check(str(tmp_path), CONFIG).warnings


def test_scan_reads_a_file_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, {"a": 5, "b": 5})
    dataset = open_dataset(str(tmp_path), CONFIG)
    first = scan.scan(dataset, CONFIG)
    read: list[str] = []
    real = scan.read_file
    monkeypatch.setattr(scan, "read_file", lambda path, most: read.append(path) or real(path, most))
    assert scan.scan(dataset, CONFIG) == first
    assert read == []
    spoil(tmp_path / "a" / "0.png")
    assert sum(map(len, bad(dataset).values())) == 1
    assert read == [str(tmp_path / "a" / "0.png")]
    (tmp_path / "a" / "1.png").unlink()
    assert sum(map(len, bad(dataset).values())) == 2
    read.clear()
    scan.scan(dataset, DataConfig(max_pixels=10))
    assert len(read) == 9  # other limits, other findings
    for store in Path(os.environ["PLUSX_CACHE"]).rglob("*.parquet"):
        store.write_bytes(b"PAR1 damaged")
    assert sum(map(len, bad(dataset).values())) == 2
    monkeypatch.setenv("PLUSX_CACHE", "/proc/nowhere")
    assert sum(map(len, bad(dataset).values())) == 2


def test_files_that_change_places_are_other_files(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 5, "b": 5})
    pair = [tmp_path / "a" / "0.png", tmp_path / "b" / "0.png"]
    for k, path in enumerate(pair):
        Image.new("RGB", (8, 8), (k, 0, 0)).save(path.with_suffix(".bmp"))
        path.unlink()
        path.with_suffix(".bmp").rename(path)
        os.utime(path, (1e9, 1e9))  # as an archive leaves them
    dataset = open_dataset(str(tmp_path), CONFIG)
    first = scan.scan(dataset, CONFIG)
    pair[0].rename(tmp_path / "aside")
    pair[1].rename(pair[0])
    (tmp_path / "aside").rename(pair[1])
    second = scan.scan(dataset, CONFIG)
    assert second[str(pair[0])].sha256 == first[str(pair[1])].sha256 != first[str(pair[0])].sha256


def test_an_interrupted_scan_keeps_what_an_earlier_one_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, {"a": 15, "b": 15})
    dataset = open_dataset(str(tmp_path), CONFIG)
    first = scan.scan(dataset, CONFIG)
    real = os.stat

    def interrupted(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("/7.png"):
            raise KeyboardInterrupt
        return real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scan.scan(dataset, CONFIG)
    monkeypatch.setattr(scan, "read_file", lambda *_: pytest.fail("read again"))
    assert scan.scan(dataset, CONFIG) == first


@pytest.mark.parametrize(
    ("broken", "trouble"),
    [
        ("read_file", OSError(errno.EACCES, "denied")),
        ("read_file", MemoryError()),
        ("decode", OSError(errno.EIO, "disk")),
        ("decode", MemoryError()),
    ],
)
def test_trouble_that_passes_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, trouble: Exception
) -> None:
    dataset = open_dataset(str(class_folders(tmp_path, {"a": 2, "b": 2})), CONFIG)

    def fail(*_: Any, **__: Any) -> None:
        raise trouble if broken == "read_file" else ImageError("a.png", "no") from trouble

    with monkeypatch.context() as patch:
        patch.setattr(scan, broken, fail)
        assert sum(map(len, bad(dataset).values())) == 4
    assert not any(bad(dataset).values())
    spoil(tmp_path / "a" / "0.png")
    assert sum(map(len, bad(dataset).values())) == 1
    monkeypatch.setattr(scan, "read_file", lambda *_: pytest.fail("read again"))
    assert sum(map(len, bad(dataset).values())) == 1


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b": 2})
    with (tmp_path / "a" / "0.png").open("wb") as file:
        file.truncate(2**40)
    start = time.perf_counter()
    found = scan.scan(open_dataset(str(tmp_path), CONFIG), CONFIG).values()
    (reason,) = (finding.reason for finding in found if finding.reason)
    assert reason.startswith("1,099,511,627,776 bytes, more than the ")
    assert time.perf_counter() - start < 5


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "t.csv").write_text("path,label\nx.png,a\npipe.png,b\n")
    dataset = open_dataset(str(tmp_path / "t.csv"), CONFIG, training=False)
    assert bad(dataset) == {"all": [(1, "not a regular file")]}


def test_manifest_names_every_example_and_sees_every_change(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "one", {"a": 5, "b": 5, os.fsdecode(b"c\xff"): 5})
    old = recorded(open_dataset(str(root), CONFIG))
    assert json.loads(json.dumps(old)) == old
    assert {name: split["n"] for name, split in old["splits"].items()} == {"train": 12, "val": 3}
    name, label, size, digest = old["splits"]["train"]["examples"][0]
    data = (root / name).read_bytes()
    assert (label, size, digest) == ("a", len(data), hashlib.sha256(data).hexdigest())
    moved = shutil.move(root, tmp_path / "two")
    same = recorded(open_dataset(str(moved), CONFIG))
    assert same["hash"] == old["hash"]
    assert not any(manifest.compare(old, same))
    picture(moved / "a" / "new.png", 99)
    (moved / "b" / "1.png").unlink()
    stamp = (moved / "a" / "2.png").stat()
    picture(moved / "a" / "2.png", 98)
    os.utime(moved / "a" / "2.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    new = recorded(open_dataset(str(moved), CONFIG))
    changes = manifest.compare(old, new)
    assert (changes.added, changes.removed) == (["a/new.png"], ["b/1.png"])
    assert "a/2.png" in changes.changed
    assert "added: a/new.png; removed: b/1.png; changed: " in str(changes)
    assert new["hash"] != old["hash"]


def test_manifest_of_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 5, 5), np.uint8)
    manifests = []
    for change, label in ((0, 0), (1, 0), (0, 1)):
        images[0, 0, 0] ^= change
        np.savez(
            tmp_path / "a.npz", x_train=images, y_train=[label, 1, *[0, 1] * 3], x_val=images[2:], y_val=[0, 1] * 3
        )
        manifests.append(recorded(open_dataset(str(tmp_path / "a.npz"), CONFIG)))
    assert manifests[0]["splits"]["train"]["n"] == 8
    assert manifest.compare(*manifests[:2]) == manifest.compare(*manifests[1:]) == ([], [], ["train"])


def test_an_example_that_moves_to_another_split_has_changed() -> None:
    old, new = ({"splits": {name: {"examples": [["a.png", "a", 9, "0a"]]}}} for name in ("train", "val"))
    assert manifest.compare(old, new) == ([], [], ["a.png"])


def test_an_example_with_another_label_has_changed() -> None:
    old, new = ({"splits": {"train": {"examples": [["a.png", label, 9, "0a"]]}}} for label in ("a", "b"))
    assert manifest.compare(old, new) == ([], [], ["a.png"])


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["a", "b", "c"], "added c; removed none"),
        (["b"], "added none; removed a"),
        (["b", "c"], "added c; removed a"),
        (["b", "a"], "added none; removed none"),
    ],
)
def test_a_change_of_classes_is_never_accepted(classes: list[str], words: str) -> None:
    old, new = ({"classes": names, "splits": {}, "hash": ""} for names in (["a", "b"], classes))
    with pytest.raises(DataError, match=f"the classes of the data changed: {words}."):
        manifest.accepted(old, new)


def test_accepted_changes_are_all_recorded() -> None:
    def state(*names: str) -> dict[str, Any]:
        rows = [[name, "a", 9, "0a"] for name in names]
        return {"classes": ["a"], "splits": {"train": {"examples": rows}}, "hash": "".join(names)}

    last = manifest.accepted(manifest.accepted(state("a"), state("a", "b")), state("b"))
    assert last["accepted"] == [
        {"from": "a", "to": "ab", "change": "+1 -0 ~0"},
        {"from": "ab", "to": "b", "change": "+0 -1 ~0"},
    ]


def test_facts(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / ("a" if i % 2 else "b") / f"{i}.png", i, (30 + i, 20), "L")
    found = facts(open_dataset(str(tmp_path), CONFIG))
    assert (found.n_train, found.n_val, found.n_classes, found.channels, found.files) == (16, 4, 2, 1, True)
    assert (found.height, found.mirror, found.benchmark) == (20, None, False)
    assert 35 <= found.width <= 45
    picture(tmp_path / "a" / "colour.png", 50)
    assert facts(open_dataset(str(tmp_path), DataConfig(val_fraction=0.0))).channels == 3
    digits = facts(open_dataset("digits", CONFIG))
    assert (digits.width, digits.height, digits.channels, digits.mirror, digits.files) == (8, 8, 1, False, False)
    for path in tmp_path.rglob("*.png"):
        path.write_text("x")
    with pytest.raises(DataError, match="none of the files looked at can be read"):
        facts(open_dataset(str(tmp_path), CONFIG))


def test_one_image_in_colour_outside_the_sample_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        picture(tmp_path / ("a" if i < 10 else "b") / f"{i}.png", i, (8, 8), "RGB" if i == 7 else "L")
    dataset = open_dataset(str(tmp_path), DataConfig(val_fraction=0.0))
    monkeypatch.setattr(importlib.import_module("plusx.data.facts"), "SAMPLE", 2)
    assert facts(dataset).channels == 3
    (tmp_path / "a" / "7.png").write_bytes(b"x")
    assert facts(dataset).channels == 1


def test_facts_look_at_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        picture(tmp_path / ("a" if i < 10 else "b") / f"{i}.png", i, (10, 8) if i < 10 else (40, 10))
    monkeypatch.setattr(importlib.import_module("plusx.data.facts"), "SAMPLE", 2)
    found = facts(open_dataset(str(tmp_path), DataConfig(val_fraction=0.0)))
    assert (found.width, found.height, found.aspect) == (25, 9, (1.25 + 4) / 2)


def test_facts_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((6, 5, 4, 3), np.uint8), y=[0, 1] * 3)
    found = facts(open_dataset(str(tmp_path / "a.npz"), CONFIG))
    assert (found.height, found.width, found.aspect, found.channels) == (5, 4, 1.25, 3)


def test_portraits_are_as_long_as_landscapes(tmp_path: Path) -> None:
    for name, size in (("a", (10, 40)), ("b", (40, 10)), ("c", (10, 40))):
        picture(tmp_path / name / "0.png", 0, size)
    found = facts(open_dataset(str(tmp_path), DataConfig(val_fraction=0.0)))
    assert (found.width, found.height, found.aspect) == (10, 40, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_only_what_lies_on_its_side_swaps_its_sides(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (50, 40)).save(tmp_path / "x.jpg", exif=exif)
    found = header(str(tmp_path / "x.jpg"))
    assert (found.height, found.width) == tuple(scan.decode(str(tmp_path / "x.jpg")).shape[1:])
    assert found.turned == (orientation > 1)


def test_facts_turn_sizes_as_decode_does(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for k, suffix in enumerate(("jpg", "png", "webp", "tif")):
        for name in "ab":
            (tmp_path / suffix / name).mkdir(parents=True)
            Image.new("RGB", (50, 40), (k, 9, 9)).save(tmp_path / suffix / name / f"x.{suffix}", exif=exif)
        dataset = open_dataset(str(tmp_path / suffix), DataConfig(val_fraction=0.0))
        paths = dataset.splits["train"].paths
        assert paths is not None
        shape = scan.decode(paths[0]).shape
        found = facts(dataset)
        assert (found.height, found.width) == tuple(shape[1:]) == (50, 40), suffix
