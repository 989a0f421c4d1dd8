"""Bad input: a clear error or a counted notice, with nothing lost, made or changed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import plusx as package
from tests.commands import SMALL, STEPS, Ran, contents, plusx
from tests.data.making import class_folders, picture


def pictures(root: Path) -> Path:
    return class_folders(root / "data", {"cat": 5, "dog": 5})


def truncated(root: Path) -> Path:
    """Two classes, and the first half of a JPEG."""
    data = pictures(root)
    whole = picture(data / "cat" / "cut.jpg", size=(60, 60))
    whole.write_bytes(whole.read_bytes()[:900])
    return data


def text_as_jpeg(root: Path) -> Path:
    data = pictures(root)
    (data / "dog" / "notes.jpg").write_text("walk the dog")
    return data


def strange_in_val(root: Path) -> Path:
    class_folders(root / "data" / "train", {"cat": 5, "dog": 5})
    class_folders(root / "data" / "val", {"cat": 2, "fox": 2}, seed=50)
    return root / "data"


def sixteen_bits(root: Path) -> Path:
    """Classes that differ in their gray level, in 16 bits."""
    draw = np.random.default_rng(0)
    for name, level in (("dark", 20_000), ("light", 35_000)):
        (root / "data" / name).mkdir(parents=True)
        for i in range(12):
            pixels = draw.normal(level, 12_000, (20, 20)).clip(0, 65_535).astype(np.uint16)
            Image.fromarray(pixels).save(root / "data" / name / f"{i}.png")
    return root / "data"


DATA: dict[str, tuple[Callable[[Path], Path], Sequence[str]]] = {
    "no such folder": (lambda root: root / "nowhere", ("nowhere: no such folder, file or data set.", "digits")),
    "one class": (
        lambda root: class_folders(root / "data", {"cat": 5}),
        ("data: got one class (cat), expected at least 2.", "plusx check"),
    ),
    "an empty class": (
        lambda root: class_folders(root / "data", {"cat": 5, "dog": 5, "eel": 0}),
        ("data: 1 class without images: eel.", "plusx check"),
    ),
    "no images": (
        lambda root: class_folders(root / "data", {"cat": 0, "dog": 0}),
        ("data: no images found.", "plusx check"),
    ),
    "images without folders": (
        lambda root: picture(root / "data" / "0.png").parent,
        ("data: got 1 image and no class folders.", "Put the images of each class in a folder"),
    ),
    "a truncated JPEG": (
        truncated,
        ("cannot decode 1 of 11 files: cat/cut.jpg (", "truncated", "engine.on_bad_image=skip"),
    ),
    "text named .jpg": (
        text_as_jpeg,
        ("cannot decode 1 of 11 files: dog/notes.jpg (not an image of the kinds JPEG, PNG", "plusx check"),
    ),
    "a class in val that train lacks": (
        strange_in_val,
        ("data: val has images of 1 class that train lacks: fox.", "plusx check"),
    ),
    "one image of each class": (
        lambda root: class_folders(root / "data", {"cat": 1, "dog": 1}),
        ("got a single image of each class, so that none can be held out", "Add images, or a val folder."),
    ),
}
VALUES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "an unknown network": (("--model", "resnet19"), ("model.name: got 'resnet19'", "resnet18 or resnet20?", "models")),
    "another family": (("--model", "vgg16"), ("model.name: got 'vgg16', expected a name that starts with resnet",)),
    "an unknown recipe": (("--recipe", "smal"), ("recipe: got 'smal', expected one of small, photo", "plusx recipes")),
    "no number": (("--set", "optim.lr=abc"), ("optim.lr: got 'abc', expected number.", "recipes --fields")),
    "no field": (("--set", "optim.lrr=1"), ("optim.lrr: no such field, did you mean optim.lr?", "recipes --fields")),
    "no value": (("--set", "optim.lr"), ("'optim.lr': got no value, expected section.field=value.",)),
    "two lengths": (
        ("--epochs", "5", "--set", "schedule.steps=3"),
        ("got 5 epochs and 3 steps, expected one of them",),
    ),
    "no epochs": (("--epochs", "0"), ("schedule.epochs: got 0, expected at least 1 or auto.",)),
    "no size": (("--size", "0"), ("data.size: got 0, expected at least 1 and below 8,193 or auto.",)),
    "a negative seed": (("--seed", "-1"), ("seed: got -1, expected at least 0 and below 9.22337204e+18.",)),
    "no such weights": (("--weights", "none.pt"), ("none.pt: no such file or run folder.", "Give a run folder or")),
    "no such device": (("--set", "engine.device=gpu"), ("engine.device: got 'gpu', expected cpu, cuda",)),
    "a device that is not there": (
        ("--set", "engine.device=cuda:77"),
        ("engine.device: got 'cuda:77': ", "or name one that is, such as cpu."),
    ),
    "two channels": (("--set", "data.channels=2"), ("data.channels: got 2, expected one of 1, 3 or auto.",)),
    "nothing held out": (
        ("--set", "data.val_fraction=0"),
        ("has neither a val nor a test split", "Leave data.val_fraction out."),
    ),
    "two at once": (
        ("--set", "optim.lr=abc", "--set", "engine.bach=3"),
        ("optim.lr: got 'abc'", "engine.bach: no such field, did you mean engine.batch?"),
    ),
}


def refused(root: Path, *words: Any) -> str:
    """The one line of an error that left everything below `root` as it was."""
    before = contents(root)
    ran = plusx(*words)
    assert (ran.code, ran.out) == (1, "")
    *lines, line = ran.err.splitlines()
    assert all(" = " in line or line.startswith("note: ") for line in lines), "nothing but choices and notes before it"
    assert line.startswith("plusx: ")
    assert line[-1] in ".?"
    assert ".." not in line.replace("...", "")
    assert contents(root) == before
    return line


@pytest.mark.parametrize("case", DATA)
def test_data_that_nobody_can_train_on(case: str, tmp_path: Path) -> None:
    make, expected = DATA[case]
    data = make(tmp_path)
    line = refused(tmp_path, "train", data, "--out", tmp_path / "out" / "run", *STEPS)
    assert [text for text in expected if text not in line] == []


@pytest.mark.parametrize("case", VALUES)
def test_values_that_nothing_can_use(case: str, tmp_path: Path) -> None:
    words, expected = VALUES[case]
    line = refused(tmp_path, "train", pictures(tmp_path), "--out", tmp_path / "out" / "run", *words)
    assert [text for text in expected if text not in line] == []


@pytest.mark.parametrize("case", ["a truncated JPEG", "text named .jpg"])
def test_bad_images_are_skipped_on_request_and_counted(case: str, tmp_path: Path) -> None:
    make, (message, *_) = DATA[case]
    data = make(tmp_path)
    before, skip = contents(data), ("--set", "engine.on_bad_image=skip")
    ran = plusx("train", data, "--out", tmp_path / "run", *STEPS, *skip)
    assert ran.code == 0
    assert "note: skipped 1 of 11 files: " + message.split(": ", 1)[1].removesuffix(").") in ran.err
    found = json.loads(plusx("evaluate", tmp_path / "run", data, "--json").out)
    assert any(note.startswith("skipped 1 of 11 files") for note in found["notes"])
    report = json.loads(plusx("check", data, "--json").out)
    assert [(Path(bad["path"]).suffix, report["n"]) for bad in report["bad"]] == [(".jpg", 11)]
    assert contents(data) == before


def test_a_split_of_bad_files_alone_is_an_error(tmp_path: Path) -> None:
    class_folders(tmp_path / "data" / "train", {"cat": 5, "dog": 5})
    (class_folders(tmp_path / "data" / "val", {"cat": 1}, seed=50) / "cat" / "0.png").write_text("x")
    words = ("--out", tmp_path / "out" / "run", *STEPS, "--set", "engine.on_bad_image=skip")
    line = refused(tmp_path, "train", tmp_path / "data", *words)
    assert "data: no file of val can be decoded. `plusx check` lists them" in line


def test_a_class_of_one_image_and_a_film_train_with_a_note(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"cat": 5, "dog": 5, "eel": 1})
    Image.new("L", (8, 6)).save(data / "cat" / "film.gif", save_all=True, append_images=[Image.new("L", (8, 6), 99)])
    ran = plusx("train", data, "--out", tmp_path / "run", *STEPS)
    assert ran.code == 0
    assert "note: 1 class with one training image: eel\n" in ran.err
    assert "note: 1 image with several frames, of which the first is used\n" in ran.err
    assert package.load(tmp_path / "run").classes == ("cat", "dog", "eel")


def test_training_tells_of_images_that_it_is_also_tested_on(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data" / "train", {"cat": 5, "dog": 5}).parent
    class_folders(data / "test", {"cat": 2, "dog": 2}, seed=50)
    (data / "test" / "cat" / "0.png").write_bytes((data / "train" / "dog" / "1.png").read_bytes())
    ran = plusx("train", data, "--out", tmp_path / "run", *STEPS)
    assert ran.code == 0, ran.err
    note = "1 of 4 images of test also in train, byte for byte: its result is too good"
    assert f"note: {note}" in ran.err
    assert note in (tmp_path / "run" / "report.html").read_text()


def test_sixteen_bits_get_the_same_answer_everywhere(tmp_path: Path) -> None:
    data = sixteen_bits(tmp_path)
    before = contents(data)
    words = ("--epochs", 3, "--set", "data.val_fraction=0.5", "--set", "engine.batch=4", *SMALL)
    ran = plusx("train", data, "--out", tmp_path / "run", *words, "--json")
    assert ran.code == 0
    run = json.loads(ran.out)
    held = json.loads((tmp_path / "run" / "manifest.json").read_text())["splits"]["val"]["examples"]
    answers = package.load(tmp_path / "run").predict([data / row[0] for row in held], top=1)
    right = sum(a["labels"][0]["label"] == row[1] for a, row in zip(answers, held, strict=True))
    assert run["best"]["top1"] == package.evaluate(tmp_path / "run", data).top1 == right / len(held)
    assert "12 images with more than 8 bits" not in ran.err
    assert any("more than 8 bits" in warning for warning in json.loads(plusx("check", data, "--json").out)["warnings"])
    assert contents(data) == before


@pytest.mark.parametrize("rate", ["1e20", "3e4"])
def test_a_loss_that_is_not_finite_stops_before_it_is_saved(rate: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = (*SMALL, "--set", f"optim.lr={rate}", "--set", "schedule.warmup=0", "--set", "engine.checkpoint_steps=1")
    ran = plusx("train", "digits", "--out", out, "--epochs", 2, *words)
    assert (ran.code, ran.out) == (1, "")
    last = ran.err.splitlines()[-1]
    assert last.startswith("plusx: step ")
    assert "Lower optim.lr" in last
    assert last.endswith("Lower optim.lr, or set optim.clip_norm=1, in a new --out.")
    assert "Traceback" not in ran.err
    assert not (out / "model.safetensors").exists()
    for path in (out / "checkpoints").glob("*"):
        from plusx.engine import checkpoint, tensorfile

        assert tensorfile.unusable(checkpoint.load(path).tensors) == ""


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"cat": 2, "dog": 2}, ()),  # a batch is 32
        ({"cat": 2, "dog": 2}, ("--set", "engine.batch=1")),
        ({"cat": 4, "dog": 4}, ("--set", "engine.batch=5")),
        ({"cat": 4, "dog": 4}, ("--set", "engine.batch=4", "--set", "engine.accumulate=3")),
        ({"cat": 4, "dog": 4}, ("--set", "engine.batch=100", "--set", "engine.ema=0.9", "--set", "augment.mixup=0.2")),
    ],
)
def test_very_little_data_trains(counts: dict[str, int], words: tuple[str, ...], tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", counts)
    ran = plusx("train", data, "--out", tmp_path / "run", *STEPS, *words, "--json")
    assert ran.code == 0, ran.err
    run = json.loads(ran.out)
    assert run["n_train"] + run["n_val"] == sum(counts.values())
    assert np.isfinite(run["final"]["loss"])
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 2


def test_one_image_of_one_value_is_refused_by_batch_norm(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"cat": 4, "dog": 4})
    words = ("--set", "engine.batch=1", "--set", "model.stem=imagenet", *STEPS)
    ran = plusx("train", data, "--out", tmp_path / "run", *words)
    assert ran.code == 1
    assert "batch norm needs more" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on digits."""
    out = tmp_path_factory.mktemp("digits") / "run"
    assert plusx("train", "digits", "--out", out, *STEPS).code == 0
    return out


EVALUATION: dict[str, tuple[Sequence[str], str]] = {
    "no such split": (("digits", "--split", "vall"), "--split: got 'vall', the data has train, test. Choose one"),
    "no such protocol": (("digits", "--protocol", "2-crop"), "--protocol: got '2-crop', expected one of 1-crop, "),
    "a fixed field": (("digits", "--set", "optim.lr=1"), "--set optim.lr: evaluating takes data.root"),
    "no share": (
        ("digits", "--set", "data.val_fraction=3"),
        "data.val_fraction: got 3.0, expected at least 0 and below",
    ),
    "no choice": (("digits", "--set", "engine.on_bad_image=foo"), "got 'foo', expected one of error, skip"),
    "other classes": (
        ("{data}",),
        "the data has nothing but 2 classes that the model does not know: cat, dog. Give data",
    ),
    "no such data": (("nowhere",), "nowhere: no such folder, file or data set."),
}


def test_checking_refuses_what_only_training_uses(tmp_path: Path) -> None:
    expected = (
        "--set optim.lr: checking takes data.root, data.val_fraction, data.split_seed, data.max_pixels, data.back"
    )
    assert expected in refused(tmp_path, "check", "digits", "--set", "optim.lr=1")


@pytest.mark.parametrize("case", EVALUATION)
def test_evaluation_refuses(case: str, run: Path, tmp_path: Path) -> None:
    words, expected = EVALUATION[case]
    data = pictures(tmp_path)
    assert expected in refused(tmp_path, "evaluate", run, *(word.format(data=data) for word in words))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.safetensors", None, "no such file or run folder. Give a run folder"),
        ("model.pt", b"PK\x03\x04" + bytes(100), "not a safetensors file. Others can run code and are not opened;"),
        ("model.safetensors", b"", "the file is empty."),
        ("model.safetensors", b"hello, I am a text file", "not a safetensors file."),
    ],
)
def test_what_is_no_model_is_refused(name: str, content: bytes | None, expected: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for command in ("evaluate", "predict"):
        assert expected in refused(tmp_path, command, tmp_path / name, "digits")


def test_prediction_answers_the_rest(run: Path, tmp_path: Path) -> None:
    data = text_as_jpeg(tmp_path)
    (data / "dog" / "list.txt").write_text("x")
    before = contents(tmp_path)
    ran = plusx("predict", run, data)
    assert ran.code == 1
    assert len(ran.out.splitlines()) == 10
    assert ran.err.splitlines() == [
        "note: left out: files of type .txt (1)",
        f"{data}/dog/notes.jpg: not an image of the kinds JPEG, PNG, WEBP, BMP, GIF, TIFF",
        "plusx: 1 of 11 files could not be read; the others are answered.",
    ]
    assert contents(tmp_path) == before


def test_check_refuses_what_training_does(tmp_path: Path) -> None:
    line = refused(tmp_path, "check", pictures(tmp_path), "--set", "data.val_fraction=3")
    assert "data.val_fraction: got 3.0, expected at least 0 and below 1 or auto" in line


def test_nothing_to_predict(run: Path, tmp_path: Path) -> None:
    line = refused(tmp_path, "predict", run, tmp_path)
    assert line == "plusx: No image files found. Give files, folders that hold images, or quoted globs."
    assert plusx("predict", run, tmp_path / "a:cat:.png") == Ran(
        1, "", f"{tmp_path}/a:cat:.png: No such file or directory\nplusx: 1 of 1 file could not be read.\n"
    )
