"""Predicting: every file answered or reported, the bits of evaluation, and tables that harm nobody."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from plusx import prediction
from plusx.data.folder import find_images
from plusx.data.transforms import Preprocess
from plusx.engine import Metrics
from plusx.engine.infer import predict_logits
from plusx.errors import ModelFileError, PlusxError
from plusx.modelfile import Answer, Classifier, Images
from plusx.models import create_model
from plusx.prediction import predict, write, writer

RULES = Preprocess(size=8, resize=8, fit="crop", channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
CLASSES = ("=1+1", "-dog", "@emu", 'a,b\n"c"', "zebra")


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    module = create_model("resnet8", len(CLASSES), width=4).eval()
    return Classifier(module, CLASSES, RULES, "single")


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)).save(path)
    return path


def test_folders_globs_and_files_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "a/3.JPG", ".hidden.png", ".git/4.png", "a/.5.png", "b/1.webp"):
        picture(tmp_path / name)
    found = [os.path.relpath(p, tmp_path) for p in find_images(tmp_path)]
    assert found == ["2.png", "10.png", "a/3.JPG", "b/1.webp"]
    (tmp_path / "notes.txt").write_text("no image")
    found = find_images([f"{tmp_path}/*.png", f"{tmp_path}/notes.txt", f"{tmp_path}/a/**/3.*", f"{tmp_path}/none*"])
    assert [os.path.relpath(p, tmp_path) for p in found] == ["2.png", "10.png", "notes.txt", "a/3.JPG", "none*"]
    (tmp_path / "[x].png").write_bytes((tmp_path / "2.png").read_bytes())
    assert find_images(tmp_path / "[x].png") == [str(tmp_path / "[x].png")]


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    for name in ("empty", "texts/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "texts" / "deep" / "notes.txt").write_text("no image")
    notes: list[str] = []
    folders = [tmp_path / name for name in ("a", "empty", "texts")]
    assert find_images(folders, notes.append) == [str(tmp_path / "a" / "1.png")]
    assert notes == ["left out: files of type .txt (1)", f"no images in {folders[1]}, {folders[2]}"]
    assert find_images(folders[1:], notes.append) == []
    assert notes[2:] == notes[:1], "that there is none at all is an error of whoever asks"


def test_a_folder_of_links_to_files_elsewhere_is_answered(tmp_path: Path) -> None:
    """A store of files, with folders that link to some of them, is a usual layout."""
    picture(tmp_path / "store" / "1.png")
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "cat.png").symlink_to(tmp_path / "store" / "1.png")
    notes: list[str] = []
    assert find_images(tmp_path / "chosen", notes.append) == [str(tmp_path / "chosen" / "cat.png")]
    assert notes == []


def test_what_is_left_out_of_folders_is_told(
    tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "in" / "a" / "1.png").rename(tmp_path / "in" / "a" / "1.jfif")
    picture(tmp_path / "more" / "2.png")
    for name in ("1.heic", "2.HEIC", "3.txt"):
        (tmp_path / "in" / name).write_text("x")
    for link, target in (("in/loop", "in"), ("in/out", "more"), ("in/b", "in/a"), ("link", "in")):
        (tmp_path / link).symlink_to(tmp_path / target)
    (tmp_path / "in" / "locked").mkdir()
    real = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    notes: list[str] = []
    answers = predict(classifier, tmp_path / "link", note=notes.append)
    assert [answer["path"] for answer in answers] == [str(tmp_path / "link" / "a" / "1.jfif")]
    assert notes == [
        "left out: photos of a kind that is not read (.heic): convert them to JPEG (2)",
        "left out: files of type .txt (1)",
        f"left out: folder {tmp_path}/in/locked that cannot be read (1)",
        "left out: links that leave the folder (1)",
        "left out: links to a folder already read (2)",
    ]
    (tmp_path / "more" / "4.pdf").write_text("x")
    with pytest.warns(UserWarning, match=r"left out: files of type \.pdf \(1\)"):
        classifier.predict(tmp_path / "more")


def test_a_bad_file_is_reported_and_the_rest_answered(tmp_path: Path, classifier: Classifier) -> None:
    (tmp_path / "0.png").write_text("<html>")
    for i in range(1, 9):
        picture(tmp_path / f"{i}.png", i)
    (tmp_path / "5.png").write_bytes((tmp_path / "4.png").read_bytes()[:100])
    os.remove(tmp_path / "8.png")
    os.mkfifo(tmp_path / "8.png")
    files = [*sorted(map(str, tmp_path.iterdir())), str(tmp_path / "none.png")]
    for batch in (1, 3, 100):
        answers = list(classifier.answers(files, top=2, batch=batch))
        assert [a["path"] for a in answers] == files
        assert [Path(a["path"]).stem for a in answers if "error" in a] == ["0", "5", "8", "none"]
        assert all(len(a["labels"]) == 2 for a in answers if "labels" in a)
        assert not any(a["path"] in a["error"] for a in answers if "error" in a)
    assert all("error" in a for a in classifier.predict([tmp_path / "none.png", tmp_path / "0.png"]))


def test_answers_are_the_logits_of_evaluation(tmp_path: Path, classifier: Classifier) -> None:
    files = [str(picture(tmp_path / f"{i}.png", i)) for i in range(9)]
    batches = [Images(torch.stack([RULES.load(f) for f in files]), torch.zeros(9, dtype=torch.long), torch.arange(9))]
    ((logits, _, _),) = predict_logits(classifier.module, batches)
    for answer, row in zip(predict(classifier, files, top=5), logits.double().softmax(1).float(), strict=True):
        assert {x["label"]: x["probability"] for x in answer["labels"]} == dict(zip(CLASSES, row.tolist(), strict=True))
        shares = [x["probability"] for x in answer["labels"]]
        assert shares == sorted(shares, reverse=True)


def test_pixels_in_memory_go_the_way_that_the_error_names(tmp_path: Path, classifier: Classifier) -> None:
    path = picture(tmp_path / "1.png")
    pixels = np.asarray(Image.open(path)).transpose(2, 0, 1)
    for ask in (predict, Classifier.predict):
        with pytest.raises(PlusxError, match="got ndarray, expected paths") as caught:
            ask(classifier, pixels)  # type: ignore[operator]
    model, images = classifier, [classifier.preprocess.load(x) for x in (pixels, path.read_bytes())]
    assert "model.labels(model.module(torch.stack(images).to(model.device)))" in caught.value.hint
    answers = model.labels(model.module(torch.stack(images).to(model.device)))
    assert answers[0] == answers[1]
    assert [x["label"] for x in answers[0]] == [x["label"] for x in predict(model, path)[0]["labels"]]


def test_order_is_that_of_the_logits_even_where_probabilities_round(classifier: Classifier) -> None:
    (labels,) = classifier.labels(torch.tensor([[-200.0, -199.0, 60.0, -300.0, 59.0]]), top=9)
    assert [x["label"] for x in labels] == [CLASSES[k] for k in (2, 4, 1, 0, 3)]
    (labels,) = classifier.labels(torch.zeros(1, 5), top=1)
    assert labels[0]["label"] == CLASSES[0]  # of equals the first, as in the metrics


def test_temperature_and_several_labels(classifier: Classifier) -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0, 0.5, 4.0]])
    warm = Classifier(classifier.module, CLASSES, RULES, "single", {"temperature": 2.0})
    assert torch.equal(warm.probabilities(logits), (logits.double() / 2).softmax(1).float())
    multi = Classifier(classifier.module, CLASSES, RULES, "multi")
    assert torch.equal(multi.probabilities(logits), logits.double().sigmoid().float())


def test_a_temperature_changes_no_answer(classifier: Classifier) -> None:
    low = 10 * torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    logits = torch.stack([low, torch.nextafter(low, torch.tensor(99.0))], 1)  # float32 that divides to the same number
    warm = Classifier(classifier.module, CLASSES, RULES, "single", {"temperature": 0.73})
    metrics = Metrics("single", 2)
    metrics.update(warm.calibrated(logits), torch.ones(10_000, dtype=torch.int64))
    assert metrics.top1 == 1


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_one_answer_that_is_not_finite_is_told(value: float, classifier: Classifier) -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = value
    for task in ("single", "multi"):
        with pytest.raises(ModelFileError, match="the model's answers are not finite numbers"):
            Classifier(classifier.module, CLASSES, RULES, task).labels(logits)


def test_progress_and_mistakes_of_the_user(tmp_path: Path, classifier: Classifier) -> None:
    told: list[tuple[int, int]] = []
    predict(classifier, [picture(tmp_path / "1.png"), tmp_path / "2.png"], progress=lambda *x: told.append(x))
    assert told == [(1, 2), (2, 2)]
    for top in (0, -1, None, 1.5):
        for ask in (predict, Classifier.predict):
            with pytest.raises(PlusxError, match=f"top: got {top}, expected a whole number, at least 1"):
                ask(classifier, tmp_path, top=top)  # type: ignore[operator]
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlusxError, match="No image files found"):
        predict(classifier, tmp_path / "empty")


ANSWERS = [
    {
        "path": "=cmd|' /C calc'!A0.png",
        "labels": [{"label": "=1+1", "probability": 0.75}, {"label": "b", "probability": 1e-9}],
    },
    {"path": 'ok,\n"x".png', "labels": [{"label": "\tx", "probability": 1.0}]},
    {"path": "\udcff.png", "error": "-cannot"},
]


def test_csv_harms_no_spreadsheet_and_reads_back(tmp_path: Path) -> None:
    told: list[str] = []
    write(ANSWERS, tmp_path / "a.csv", told.append)
    kept = "an apostrophe keeps a spreadsheet from running 4 texts; .jsonl and .parquet have them as they are"
    assert told == [f"{tmp_path}/a.csv: {kept}"]
    raw = (tmp_path / "a.csv").read_bytes()
    assert raw.count(b"\r\n") == 4
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "error", "label_1", "probability_1", "label_2", "probability_2"]
    assert rows[1] == ["'=cmd|' /C calc'!A0.png", "", "'=1+1", "0.75", "b", "1e-09"]
    assert rows[2] == ['ok,\n"x".png', "", "'\tx", "1.0", "", ""]
    assert rows[3] == ["\\udcff.png", "'-cannot", "", "", "", ""]
    assert not any(cell[:1] in tuple("=+-@\t\r") for row in rows for cell in row if cell)


@pytest.mark.parametrize("start", "=+-@\t\r")
def test_no_cell_starts_as_a_formula(start: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="from running 1 text;"):
        write([{"path": f"{start}x", "error": "e"}], tmp_path / "a.csv")
    write([{"path": f"{start}x", "error": "e"}], tmp_path / "a.jsonl")  # where nothing is changed, nothing is told
    assert f"'{start}x".encode() in (tmp_path / "a.csv").read_bytes()


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    write([{"path": "a", "labels": [{"label": "x", "probability": -0.5}]}], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "a,,x,-0.5"


def test_json_lines_and_parquet_hold_the_answers(tmp_path: Path) -> None:
    write(ANSWERS, tmp_path / "a.jsonl")
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == ANSWERS
    write([*ANSWERS, {"path": "b.png", "labels": [{"label": "\udcfe", "probability": 1.0}]}], tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [r["path"] for r in rows] == [ANSWERS[0]["path"], ANSWERS[1]["path"], "\\udcff.png", "b.png"]
    assert rows[3]["labels"] == [{"label": "\\udcfe", "probability": 1.0}]
    assert rows[0]["labels"] == ANSWERS[0]["labels"]
    assert rows[2]["error"] == "-cannot"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "a.parquet"]


def test_no_answers_are_a_header(tmp_path: Path) -> None:
    write([], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines() == ["path,error"]


def test_a_disk_that_fills_up_leaves_the_table_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(ANSWERS, tmp_path / "a.csv", str)
    before = (tmp_path / "a.csv").read_bytes()

    def half(answers: Sequence[Answer], path: Path) -> None:
        path.write_bytes(before[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prediction, "_write_csv", half)
    with pytest.raises(PlusxError, match="cannot be written: No space left on device"):
        write(ANSWERS[:1], tmp_path / "a.csv")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.csv", before)]


def test_a_folder_that_nobody_may_write_to_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(PlusxError, match=r"a\.csv: its folder cannot be written to"):
        writer(tmp_path / "a.csv")


def test_a_table_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(PlusxError, match=r"got the suffix '\.xls', expected one of \.csv, \.jsonl, \.parquet"):
        write(ANSWERS, tmp_path / "a.xls")
    with pytest.raises(PlusxError, match="its folder does not exist"):
        write(ANSWERS, tmp_path / "none" / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(PlusxError, match="a folder, expected a file"):
        writer(tmp_path / "b.csv")
    with pytest.raises(PlusxError, match="cannot be written: File name too long"):
        write(ANSWERS, tmp_path / f"{'a' * 300}.csv")
