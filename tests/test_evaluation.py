"""Evaluation: exact, by names, on the examples that were held out, with the answers that predict gives."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from plusx import evaluation, modelfile
from plusx.config import DataConfig
from plusx.data import manifest, open_dataset
from plusx.data.download import file_sha256
from plusx.data.scan import scan
from plusx.data.transforms import Preprocess
from plusx.errors import ConfigError, DataError, ImageError, ModelFileError, PlusxError
from plusx.evaluation import Evaluation, evaluate
from plusx.models import create_model
from plusx.prediction import predict
from tests.commands import plusx

CLASSES = ["cat", "dog", "emu", "fox", "gnu", "hen"]
RULES = Preprocess(size=8, resize=9, fit="crop", channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


def pictures(root: Path, classes: list[str] = CLASSES, n: int = 12, seed: int = 0) -> Path:
    """Class folders of noisy pictures of several sizes."""
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        draw = np.random.default_rng([seed, *name.encode()])
        for i in range(n):
            pixels = draw.integers(0, 256, (9 + i % 3, 9 + k % 4, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def model(folder: Path, classes: list[str] = CLASSES, name: str = "resnet8", **changes: Any) -> Path:
    """A model file with random weights, beside nothing."""
    torch.manual_seed(1)
    network = create_model(name, len(classes), **({"width": 8} if name == "resnet8" else {"size": 8}))
    with torch.no_grad():  # spread the answers over the classes
        network.get_parameter("fc.weight").mul_(20)
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "classes": classes,
        "task": "single",
        "preprocess": RULES,
        "metrics": {},
        "recipe": "small",
        "config": {"data": {"split_seed": 5, "val_fraction": 0.25}},
        "manifest_hash": "",
    }
    modelfile.save(folder / "model.safetensors", network, **{**values, **changes})
    return folder


def counted(answers: list[dict[str, Any]]) -> float:
    """The share of files whose first label is their folder's name."""
    return float(np.mean([a["labels"][0]["label"] == Path(a["path"]).parent.name for a in answers]))


def test_numbers_are_those_of_predict(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data" / "test"), model(tmp_path / "run")
    result = evaluate(run, data.parent, batch=7)
    answers = predict(run, data, top=6)
    assert (result.n, result.split, result.protocol, result.notes) == (72, "test", "1-crop", ())
    assert result.top1 == counted(answers)
    assert 0 < result.top1 < 1
    truth = [CLASSES.index(Path(a["path"]).parent.name) for a in answers]
    told = [CLASSES.index(a["labels"][0]["label"]) for a in answers]
    matrix = np.zeros((6, 6), int)
    np.add.at(matrix, (truth, told), 1)
    assert np.array_equal(result.confusion, matrix)
    for k, name in enumerate(CLASSES):
        row = result.per_class[name]
        assert row["n"] == 12
        assert row["recall"] == matrix[k, k] / 12
        assert row["precision"] == matrix[k, k] / max(matrix[:, k].sum(), 1)
    right = [
        next(x["probability"] for x in a["labels"] if x["label"] == CLASSES[t])
        for a, t in zip(answers, truth, strict=True)
    ]
    assert result.loss == pytest.approx(float(-np.log(right).mean()), rel=1e-4)
    first = [
        np.mean([CLASSES[t] in [x["label"] for x in a["labels"][:5]] for a, t in zip(answers, truth, strict=True)])
    ]
    assert result.top5 == first[0]


def test_the_loss_is_of_calibrated_probabilities(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data" / "test"), model(tmp_path / "run", temperature=3.0)
    shares = [
        next(x["probability"] for x in answer["labels"] if x["label"] == Path(answer["path"]).parent.name)
        for answer in predict(run, data, top=6)
    ]
    assert evaluate(run, data.parent).loss == pytest.approx(float(-np.log(shares).mean()), rel=1e-4)


def test_the_batch_changes_no_count(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data" / "test", n=4), model(tmp_path / "run")
    results = [evaluate(run, data.parent, batch=batch) for batch in (1, 5, 100)]
    assert len({r.top1 for r in results}) == len({r.top5 for r in results}) == 1


def test_mistakes_are_those_of_all_batches(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data" / "test", n=4), model(tmp_path / "run")
    whole, parts = (evaluate(run, data.parent, batch=batch).mistakes for batch in (100, 5))
    assert len(whole) > 5
    assert {(m.name, m.predicted) for m in parts} == {(m.name, m.predicted) for m in whole}


def test_mistakes_are_the_surest_wrong_answers(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data" / "test"), model(tmp_path / "run")
    result = evaluate(run, data.parent)
    wrong = [a for a in predict(run, data) if a["labels"][0]["label"] != Path(a["path"]).parent.name]
    wrong.sort(key=lambda a: -a["labels"][0]["probability"])
    assert [m.probability for m in result.mistakes] == pytest.approx(
        [a["labels"][0]["probability"] for a in wrong[:24]]
    )
    assert result.mistakes[0].source == wrong[0]["path"]
    assert result.mistakes[0].true == Path(wrong[0]["path"]).parent.name
    assert result.mistakes[0].predicted == wrong[0]["labels"][0]["label"]
    assert result.mistakes[0].name == str(Path(wrong[0]["path"]).relative_to(data.parent))


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    """The model's order is another than the folders'; a class without images is left out with a note."""
    order = ["hen", "zebra", "fox", "cat", "gnu", "emu", "dog"]
    data, run = pictures(tmp_path / "data" / "test"), model(tmp_path / "run", order)
    whole = evaluate(run, data.parent)
    assert whole.top1 == counted(predict(run, data))
    assert list(whole.per_class) == order
    assert whole.notes[-1] == "test has no image of 1 class: zebra"
    shutil.rmtree(data / "dog")
    part = evaluate(run, data.parent)
    assert part.n == 60
    assert part.per_class["cat"]["recall"] == whole.per_class["cat"]["recall"]
    assert part.notes[-1] == "test has no image of 2 classes: zebra, dog"


def test_classes_that_only_the_split_lacks_are_told_once_and_as_the_splits(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run")
    for path in sorted((data / "emu").iterdir())[1:]:  # one image is not held out
        path.unlink()
    notes = evaluate(run, open_dataset(str(data), DataConfig(val_fraction=0.25))).notes
    assert [note for note in notes if "emu" in note] == [
        "1 class with one training image: emu",
        "val has no image of 1 class: emu",
    ]
    shutil.rmtree(data / "emu")
    assert evaluate(run, data, split="all").notes[-1] == "the data has no image of 1 class: emu"


def test_the_commonest_class_is_what_answering_without_looking_is_right_in(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run")
    (data / CLASSES[1] / "0.png").unlink()
    shutil.rmtree(data / CLASSES[2])
    found = evaluate(run, data, split="all")
    name, share = found.commonest
    counts = {name: row["n"] for name, row in found.per_class.items()}
    assert (counts[name], share) == (max(counts.values()), max(counts.values()) / found.n)
    assert name not in CLASSES[1:3]
    assert f"always answering {name} would be right in {100 * share:.2f} %\n" in plusx("evaluate", run, data).out


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    for given in (None, [tmp_path], 3):
        with pytest.raises(ModelFileError, match=f"got a {type(given).__name__}, expected a run or a path"):
            evaluate(given, "digits")  # type: ignore[arg-type]


def test_a_class_that_other_splits_have_images_of_is_told_too(tmp_path: Path) -> None:
    data, run = tmp_path / "data", model(tmp_path / "run")
    for name in ("train", "val", "test"):
        pictures(data / name, n=1)
    shutil.rmtree(data / "test" / "dog")
    assert evaluate(run, data).notes == ("test has no image of 1 class: dog",)


def test_a_class_that_the_model_does_not_know_is_an_error(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data" / "test", [*CLASSES, "yak"]), model(tmp_path / "run")
    with pytest.raises(DataError, match="1 class that the model does not know: yak; the model has 6: cat"):
        evaluate(run, data.parent)


def test_images_of_other_classes_are_left_out_on_request_and_counted(tmp_path: Path) -> None:
    known, run = pictures(tmp_path / "known" / "test"), model(tmp_path / "run")
    more = pictures(tmp_path / "more" / "test", [*CLASSES, "yak", "Zebra"])
    wanted, found = evaluate(run, known.parent), evaluate(run, more.parent, ignore_extra=True)
    assert (found.n, found.top1, found.loss) == (wanted.n, wanted.top1, wanted.loss)
    assert "left out are 24 images of 2 classes that the model does not know: Zebra, yak" in found.notes
    alone = pictures(tmp_path / "alone" / "test", ["yak", "zebra"])
    with pytest.raises(DataError, match="nothing but 2 classes that the model does not know"):
        evaluate(run, alone.parent, ignore_extra=True)


def test_the_runs_own_split_is_made_again(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    config = DataConfig(split_seed=5, val_fraction=0.25)
    recorded = open_dataset(str(data), config)
    run = model(tmp_path / "run", manifest_hash=manifest.build(recorded, scan(recorded, config))["hash"])
    result = evaluate(run, data)
    assert (result.split, result.n) == ("val", 18)
    assert result.notes == ("val: 18 images of 72 held out of train, 25% of each class, rounded, at least one, seed 5",)
    held = recorded.splits["val"]
    assert held.paths is not None
    assert result.top1 == counted(predict(run, list(held.paths)))
    assert evaluate(run, data, split="train").n == 54
    assert evaluate(run, data, split="all").n == 72
    assert evaluate(run, shutil.move(data, tmp_path / "moved")).notes == result.notes


def test_other_data_without_splits_is_evaluated_whole(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    result = evaluate(run, data)
    assert (result.split, result.n) == ("all", 72)
    assert "not the run's own data" in result.notes[-1]
    shutil.rmtree(data / "cat")
    for name in CLASSES[2:]:
        shutil.rmtree(data / name)
    result = evaluate(run, data)  # one class is enough to be counted
    assert result.n == 12
    assert any("not the run's own data" in note for note in result.notes)


def test_the_runs_own_data_that_has_changed_keeps_its_training_examples_out(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    (run / "manifest.json").write_text(json.dumps({"root": str(data), "name": "data", "hash": "0" * 64, "splits": {}}))
    result = evaluate(run, data)
    assert (result.split, result.n) == ("val", 18)
    assert "not the examples that the run recorded" in result.notes[-1]
    assert evaluate(run, data, overrides=["data.val_fraction=0.5"]).n == 36
    (data / "new").mkdir()  # a class without images, which cannot be trained on
    with pytest.raises(DataError, match=r"the split of the run cannot be made again: .*new") as caught:
        evaluate(run, data)
    assert "--split all" in caught.value.hint
    assert evaluate(run, data, split="all").n == 72


def test_a_split_of_other_data_that_cannot_be_made_is_told_where_it_is_asked_for(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    (data / "new").mkdir()  # a class without images, which cannot be trained on
    assert evaluate(run, data).n == 72
    with pytest.raises(DataError, match=r"the split of the run cannot be made again: .*new"):
        evaluate(run, data, split="val")


def test_another_table_beside_that_of_the_run_is_other_data(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    rows = [f"{p.parent.name}/{p.name},{p.parent.name}" for p in sorted(data.rglob("*.png"))]
    for name, chosen in (("train", rows[::2]), ("week1", rows[1::2])):
        (data / f"{name}.csv").write_text("\n".join(["path,label", *chosen]))
    own = {"root": str(data), "name": "train", "hash": "0" * 64, "splits": {}}
    (run / "manifest.json").write_text(json.dumps(own))
    assert evaluate(run, data / "train.csv").split == "val"
    other = evaluate(run, data / "week1.csv")
    assert (other.split, other.n) == ("all", 36)


def test_a_record_of_other_data_is_not_believed(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    rows = [["x", "cat", path.stat().st_size, file_sha256(path)] for path in data.rglob("*.png")]
    for digits, trained in (("0", True), ("1", False)):
        record = {"hash": digits * 64, "splits": {"train": {"examples": rows}}}
        (run / "manifest.json").write_text(json.dumps(record))
        assert any("was trained on" in note for note in evaluate(run, data, split="all").notes) is trained
    record |= {"accepted": [{"from": "0" * 64}]}  # the data that the model was trained on before
    (run / "manifest.json").write_text(json.dumps(record))
    assert any("was trained on" in note for note in evaluate(run, data, split="all").notes)


def test_a_split_that_data_of_one_split_lacks_is_told(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run")
    rows = [f"{path.relative_to(data)},{path.parent.name},test" for path in data.rglob("*.png")]
    (data / "week.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(DataError, match="--split: got 'val', the data has test"):
        evaluate(run, data / "week.csv", split="val")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"splits": {"val": {"examples": [{"path": "a.png"}]}}}'])
def test_what_is_no_manifest_is_none(text: str, tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    (run / "manifest.json").write_text(text)
    assert evaluate(run, data).n == 72


def test_a_split_of_other_data_is_its_own_whatever_its_files_are_called(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    held = {"splits": {"val": {"examples": [[str(p.relative_to(data)), "cat", 1, ""] for p in data.rglob("*.png")]}}}
    (run / "manifest.json").write_text(json.dumps({"root": "elsewhere", "hash": "0" * 64, **held}))
    assert evaluate(run, data, split="val").n < 72 / 2


def test_what_the_user_sets_comes_before_what_the_run_recorded(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    assert evaluate(run, data, split="val").n == 18
    assert evaluate(run, data, split="val", overrides=["data.val_fraction=0.5"]).n == 36


def test_the_folder_of_an_unfinished_run_is_told(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    (run / "config.json").write_text("{}")
    assert f"{run}: the run is not finished" in evaluate(run, data).notes
    other = model(tmp_path / "other", manifest_hash="0" * 64)
    assert f"{run}: the run is not finished" in evaluate(other, data, others=[run]).notes
    with pytest.warns(UserWarning, match="the run is not finished"):
        predict(run, data)
    (run / "result.json").write_text("{}")
    assert not any("not finished" in note for note in evaluate(run, data).notes)


def test_one_model_and_one_change_may_stand_alone(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    assert evaluate(run, data, others=str(run)).models == (str(run / "model.safetensors"),) * 2
    with pytest.raises(ConfigError, match=r"--set optim\.lr: evaluating takes"):
        evaluate(run, data, overrides="optim.lr=1")


def test_the_test_split_comes_first_and_then_val(tmp_path: Path) -> None:
    run, data = model(tmp_path / "run"), tmp_path / "data"
    for name in ("train", "val", "test"):
        pictures(data / name, n=1)
    assert evaluate(run, data).split == "test"
    assert evaluate(run, data, split="val").split == "val"
    shutil.rmtree(data / "test")
    assert evaluate(run, data).split == "val"


def test_splits_that_can_be_asked_for_are_told(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), model(tmp_path / "run", manifest_hash="0" * 64)
    with pytest.raises(DataError, match="--split: got 'test', the data has train, val, all"):
        evaluate(run, data, split="test")


def test_several_labels_for_a_model_of_one_are_told_before_unknown_classes(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.eye(4, dtype=np.int64)
    np.savez(tmp_path / "d.npz", x_test=images, y_test=labels, classes=["w", "x", "y", "z"])
    with pytest.raises(DataError, match="the data is multi-label"):
        evaluate(model(tmp_path / "run"), tmp_path / "d.npz")


def test_arrays_and_several_labels(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (40, 8, 8, 3), np.uint8), draw.integers(0, 2, (40, 3))
    np.savez(tmp_path / "d.npz", x_test=images, y_test=labels, x_train=images, y_train=labels, classes=["b", "a", "c"])
    run = model(tmp_path / "run", ["a", "b", "c"], task="multi")
    result = evaluate(run, tmp_path / "d.npz")
    classifier = modelfile.load(run)
    x = torch.stack([RULES(torch.from_numpy(i).permute(2, 0, 1)) for i in images])
    with torch.inference_mode():
        logits = classifier.module(x)
    yes, truth = (logits > 0).numpy(), labels[:, [1, 0, 2]] > 0
    assert result.top1 == (yes == truth).all(1).mean()
    assert result.per_class["a"]["recall"] == (yes & truth)[:, 0].sum() / truth[:, 0].sum()
    assert result.confusion is None
    wrong = np.abs(logits.sigmoid().numpy() - truth) * (yes != truth)
    assert result.mistakes[0].probability == pytest.approx(wrong.max())
    i, k = np.unravel_index(wrong.argmax(), wrong.shape)
    surest, label = result.mistakes[0], "abc"[k]
    wanted = (label, f"not {label}") if truth[i, k] else (f"not {label}", label)
    assert (surest.true, surest.predicted) == wanted
    assert {m.true.startswith("not ") for m in result.mistakes} == {True, False}
    assert isinstance(result.mistakes[0].source, np.ndarray)
    with pytest.raises(DataError, match="the model answers single-label, the data is multi-label"):
        evaluate(model(tmp_path / "single", ["a", "b", "c"]), tmp_path / "d.npz")


def test_one_label_an_image_is_one_of_several(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "one.npz", x=images, y=np.array(["c", "b"] * 6))
    np.savez(tmp_path / "several.npz", x=images, y=np.array([[0, 1], [1, 0]] * 6), classes=["b", "c"])
    run = model(tmp_path / "run", ["a", "b", "c"], task="multi")
    one, several = evaluate(run, tmp_path / "one.npz"), evaluate(run, tmp_path / "several.npz")
    assert (one.top1, one.loss, one.per_class) == (several.top1, several.loss, several.per_class)
    assert "the data gives each image one label: every other label of the model counts as absent" in one.notes


def test_labels_that_the_model_does_not_know_are_ignored_on_request_and_told(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    labels = np.array([[0, 1, 0], [1, 0, 1]] * 6)
    np.savez(tmp_path / "more.npz", x=images, y=labels, classes=["a", "b", "c"])
    np.savez(tmp_path / "known.npz", x=images, y=labels[:, :2], classes=["a", "b"])
    run = model(tmp_path / "run", ["a", "b"], task="multi")
    more, known = evaluate(run, tmp_path / "more.npz", ignore_extra=True), evaluate(run, tmp_path / "known.npz")
    assert (more.n, more.top1, more.loss) == (12, known.top1, known.loss)
    assert "ignored are the labels of 1 class that the model does not know: c" in more.notes


def test_bad_files_stop_or_are_skipped_with_a_note(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data" / "test"), model(tmp_path / "run")
    (data / "cat" / "3.png").write_text("<html>")
    with pytest.raises(ImageError, match=r"cat/3\.png"):
        evaluate(run, data.parent)
    result = evaluate(run, data.parent, overrides=["engine.on_bad_image=skip"])
    assert result.n == 71
    assert "skipped 1 of 72" in result.notes[-1]
    skipping = model(tmp_path / "skipping", config={"engine": {"on_bad_image": "skip"}})
    assert evaluate(skipping, data.parent).n == 71  # as the run did
    with pytest.raises(ImageError, match=r"cat/3\.png"):
        evaluate(skipping, data.parent, overrides=["engine.on_bad_image=error"])


def test_processes_suit_this_machine_and_not_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures(tmp_path / "data" / "test", n=1)
    run = model(tmp_path / "run", config={"data": {"workers": 99}})
    view, asked = evaluation.viewed, []
    monkeypatch.setattr(evaluation, "viewed", lambda *given: (asked.append(given[-1]), view(*given[:-1], 0))[1])
    evaluate(run, data.parent)
    evaluate(run, data.parent, overrides=["data.workers=3"])
    assert asked == [None, 3]


def test_a_split_without_images_is_not_there(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array(["cat", "dog"] * 2)
    arrays = {"x_val": images, "y_val": labels, "x_test": images[:0], "y_test": labels[:0]}
    np.savez(tmp_path / "d.npz", **arrays)
    run = model(tmp_path / "run")
    found = evaluate(run, tmp_path / "d.npz")
    assert (found.split, found.n) == ("val", 4)
    assert "left out: 1 split without images: test" in found.notes
    with pytest.raises(DataError, match="--split: got 'test', the data has val"):
        evaluate(run, tmp_path / "d.npz", split="test")
    np.savez(tmp_path / "none.npz", x=images[:0], y=labels[:0])
    with pytest.raises(DataError, match="no images found"):
        evaluate(run, tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "11-crop"}, "--protocol: got '11-crop', expected one of 1-crop"),
        ({"split": "val2"}, "--split: got 'val2', the data has"),
        ({"overrides": ["data.size=4"]}, "--set data.size: evaluating takes data.root"),
    ],
)
def test_mistakes_of_the_user(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    data, run = pictures(tmp_path / "data" / "test", n=2), model(tmp_path / "run")
    shutil.copytree(data, tmp_path / "data" / "train")
    with pytest.raises((ConfigError, DataError)) as error:
        evaluate(run, data.parent, **options)
    assert words in str(error.value)
    with pytest.raises(PlusxError):
        evaluate(run, tmp_path / "nothing")


def test_models_that_answer_different_questions_are_not_averaged(tmp_path: Path) -> None:
    """Told before the data is opened."""
    run, other = model(tmp_path / "run"), model(tmp_path / "other", ["yak", *CLASSES[2:]])
    with pytest.raises(ModelFileError) as error:
        evaluate(run, "nothing", others=[run, other])
    assert str(error.value) == (
        f"{other}/model.safetensors: cannot be averaged with {run}/model.safetensors: it lacks 2 classes: cat, dog; "
        "it adds 1 class: yak. Average models of the same classes, in any order."
    )
    multi = model(tmp_path / "multi", task="multi")
    with pytest.raises(ModelFileError, match="it is multi-label, the other single-label"):
        evaluate(run, "nothing", others=[multi])
    with pytest.raises(ModelFileError, match="no such file or run folder"):
        evaluate(run, "nothing", others=[tmp_path / "none"])


def test_a_fully_connected_network_takes_crops_and_no_scales(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data" / "test", n=2), model(tmp_path / "run")
    flat = model(tmp_path / "flat", name="resmlp-1x4")
    for models in ((flat,), (run, flat)):
        with pytest.raises(
            ConfigError, match=r"got 'multi-scale=8', but .*flat.* is fully connected: it takes one size"
        ):
            evaluate(models[0], "nothing", protocol="multi-scale=8", others=models[1:])
    assert evaluate(flat, data.parent, protocol="10-crop", others=[run]).n == 12


def test_a_fully_connected_network_is_known_in_a_wrapper(tmp_path: Path) -> None:
    flat = modelfile.load(model(tmp_path / "flat", name="resmlp-1x4"))
    wrapped = dataclasses.replace(flat, module=nn.DataParallel(flat.module))
    with pytest.raises(ConfigError, match="is fully connected: it takes one size"):
        evaluate(wrapped, "nothing", protocol="multi-scale=8")


def test_what_makes_a_result_doubtful_is_noted(tmp_path: Path) -> None:
    digits = model(tmp_path / "digits", list("0123456789"))
    assert evaluate(digits, "digits").notes == ()
    (note,) = evaluate(digits, "digits", protocol="10-crop").notes
    assert note.startswith("10-crop mirrors images")
    data = pictures(tmp_path / "data" / "val", n=2)
    run, twin = model(tmp_path / "run", manifest_hash="1"), model(tmp_path / "twin", manifest_hash="1")
    other = model(tmp_path / "other", manifest_hash="2")
    assert not any("different examples" in note for note in evaluate(run, data.parent, others=[twin]).notes)
    assert not any("mirrors" in note for note in evaluate(run, data.parent, protocol="10-crop").notes)  # nobody knows
    assert "the models were trained on different examples" in evaluate(run, data.parent, others=[other]).notes[-1]
    shutil.move(data, data.with_name("test"))
    assert evaluate(run, data.parent, others=[other]).notes == ()


def test_json_is_plain(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data" / "test", n=2), model(tmp_path / "run")
    told: list[tuple[int, int]] = []
    result: Evaluation = evaluate(run, data.parent, progress=lambda *x: told.append(x))
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {"n", "top1", "top5", "loss", "ece", "protocol", "models", "split", "per_class", "notes"} <= plain.keys()
    assert told[-1] == (12, 12)
