"""The command line: what each command prints and takes, and how it ends."""

import contextlib
import dataclasses
import functools
import importlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from torch import Tensor, nn

from plusx import cli, doctor
from plusx.data.check import CheckReport
from plusx.errors import PlusxError
from plusx.evaluation import Evaluation
from plusx.result import Run
from tests.commands import ROOT, STEPS, Ran, finish, photos, plusx, start
from tests.data.making import class_folders
from tests.studies.making import use_noise

COMMON = ("--debug", "--json")
FLAGS = {
    "check": ("--set", *COMMON),
    "demo": ("--out", *COMMON),
    "doctor": COMMON,
    "evaluate": ("--split", "--protocol", "--with", "--ignore-extra", "--set", *COMMON),
    "models": COMMON,
    "predict": ("--top", "--out", *COMMON),
    "recipes": ("--fields", *COMMON),
    "study": ("--out", "--budget", "--seeds", "--parallel", "--set", *COMMON),
    "train": (
        *("--out", "--model", "--recipe", "--weights", "--epochs", "--size", "--seed"),
        *("--resume", "--accept-data-change", "--set", *COMMON),
    ),
}
ARGUMENTS = {
    "check": ["data"],
    "doctor": ["run"],
    "evaluate": ["model", "data"],
    "predict": ["model", "paths"],
    "study": ["name"],
    "train": ["data"],
}
RUN_KEYS = {
    *("run", "model_file", "model", "recipe", "epochs", "n_train", "n_val", "best", "final"),
    *("seconds", "images_per_second"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("data") / "pictures", {"a": 6, "b": 6})


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A finished run."""
    assert plusx("train", data, "--out", data.parent / "run", *STEPS).code == 0
    return data.parent / "run"


@pytest.fixture(scope="module")
def _once() -> Iterator[None]:
    """The slow answers are worked out once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        for module, function in (("plusx.models", "table"), ("plusx.doctor", "examine")):
            home = importlib.import_module(module)
            patch.setattr(home, function, functools.cache(getattr(home, function)))
        yield


def value(ran: Ran, code: int = 0) -> Any:
    """The one JSON value on stdout."""
    assert ran.code == code, ran.err
    assert ran.out.count("\n") == 1
    return json.loads(ran.out)


def commands() -> dict[str, Any]:
    found: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    return found


def test_commands_and_flags_are_frozen() -> None:
    flags = {
        name: {option for p in command.params if p.param_type_name == "option" for option in p.opts}
        for name, command in commands().items()
    }
    assert flags == {name: set(words) for name, words in FLAGS.items()}
    arguments = {n: [p.name for p in c.params if p.param_type_name == "argument"] for n, c in commands().items()}
    assert {name: words for name, words in arguments.items() if words} == ARGUMENTS


@pytest.mark.parametrize("name", FLAGS)
def test_at_most_ten_flags_of_its_own_and_set(name: str) -> None:
    assert len(set(FLAGS[name]) - {"--set", *COMMON}) <= 10


@pytest.mark.parametrize("name", FLAGS)
def test_help_is_whole_sentences(name: str) -> None:
    ran = plusx(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert all(flag in ran.out for flag in FLAGS[name])
    line = next(line for line in plusx("--help").out.splitlines() if line.split()[:1] == [name])
    assert line.endswith("."), "cut off in the list of commands"
    assert not line.endswith("...")


def test_help_takes_less_than_half_a_second_of_a_core() -> None:
    """A core that this process has to itself; other tests and other machines of the host use it too."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "plusx", "--help"], capture_output=True, text=True, check=True)
        assert "train" in done.stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_version() -> None:
    import plusx as package

    assert plusx("--version") == Ran(0, f"plusx {package.__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("fly",),
        ("train",),
        ("train", "digits", "--lr", "1"),
        ("train", "digits", "--epochs", "many"),
        ("train", "digits", "more"),
        ("predict", "run"),
        ("predict", "run", "a.png", "--top", "0"),
    ],
)
def test_usage_exits_with_2(words: tuple[str, ...]) -> None:
    ran = plusx(*words)
    assert ran.code == 2
    assert "Usage: plusx" in ran.out + ran.err


def test_json_of_train(data: Path, tmp_path: Path) -> None:
    ran = plusx("train", data, "--out", tmp_path / "run", *STEPS, "--json")
    found = value(ran)
    assert found.keys() >= RUN_KEYS
    assert (found["best"].keys() >= {"epoch", "top1"}, found["final"].keys() >= {"top1", "loss"}) == (True, True)
    assert (found["n_train"], found["n_val"], found["n_test"], found["epochs"]) == (10, 2, 0, 3)
    assert Path(found["model_file"]).is_file()
    assert "engine.device = " in ran.err


def test_json_of_evaluate(data: Path, run: Path) -> None:
    found = value(plusx("evaluate", run, data, "--json"))
    assert found.keys() >= {"n", "top1", "top5", "loss", "ece", "protocol", "per_class"}
    assert [set(row) for row in found["per_class"].values()] == [{"n", "precision", "recall", "f1"}] * 2
    assert 0 <= found["top1"] <= 1
    assert (found["protocol"], found["models"]) == ("1-crop", [f"{run}/model.safetensors"])


@pytest.mark.parametrize("protocol", ["6-view", "10-crop", "multi-scale", "multi-scale=8,12"])
def test_evaluate_averages_views_and_models(data: Path, run: Path, protocol: str) -> None:
    words = ("evaluate", run, data, "--protocol", protocol, "--with", run / "model.safetensors", "--with", run)
    found = value(plusx(*words, "--json"))
    assert (found["protocol"], found["models"]) == (protocol, [f"{run}/model.safetensors"] * 3)
    alone = value(plusx("evaluate", run, data, "--protocol", protocol, "--json"))
    assert (found["n"], found["top1"], found["loss"]) == (2, alone["top1"], pytest.approx(alone["loss"]))
    lines = plusx(*words).out.splitlines()
    assert lines[0].endswith(f", {found['n']} images, {protocol}")
    assert lines[1] == f"mean of 3 models: {', '.join(found['models'])}"


def test_json_of_predict(data: Path, run: Path, tmp_path: Path) -> None:
    good, bad = data / "a" / "0.png", tmp_path / "none.png"
    found = value(plusx("predict", run, good, bad, "--top", 1, "--json"), code=1)
    assert [row["path"] for row in found] == [str(good), str(bad)]
    assert [set(label) for label in found[0]["labels"]] == [{"label", "probability"}]
    assert found[1].keys() == {"path", "error"}


def test_json_of_check(data: Path) -> None:
    found = value(plusx("check", data, "--json"))
    assert found.keys() >= {"n", "classes", "bad", "duplicates", "leaks", "warnings"}
    assert (found["n"], found["bad"]) == (12, [])


@pytest.mark.usefixtures("_once")
@pytest.mark.parametrize(("name", "keys"), [("models", {"name", "params", "macs"}), ("recipes", {"name", "doc"})])
def test_json_of_lists(name: str, keys: set[str]) -> None:
    assert all(row.keys() >= keys for row in value(plusx(name, "--json")))


def test_json_of_fields() -> None:
    rows = value(plusx("recipes", "--fields", "--json"))
    assert {row["field"] for row in rows} >= {"optim.lr", "engine.batch", "data.root"}


@pytest.mark.usefixtures("_once")
def test_json_of_doctor() -> None:
    found = value(plusx("doctor", "--json"))
    assert found.keys() >= {"plusx", "torch", "cpu", "checks"}
    assert all(row["ok"] for row in found["checks"])


def test_doctor_of_a_run_says_which_files_are_whole(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    found = value(plusx("doctor", copy, "--json"))
    assert found["finished"]
    assert [row["state"] for row in found["files"]] == ["whole"] * len(found["files"])
    names = [row["file"] for row in found["files"]]
    assert names == [*sorted(names[:-1], reverse=True), "model.safetensors"]
    assert len(names) > 2
    newest = copy / "checkpoints" / names[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    (copy / "model.safetensors").unlink()
    broken = plusx("doctor", copy, "--json")
    assert broken.code == 1
    states = {row["file"]: row["state"] for row in json.loads(broken.out)["files"]}
    assert states["model.safetensors"] == "missing"
    assert "cut off" in states[newest.name]
    (copy / "result.json").unlink()
    (copy / "failures").mkdir()
    failure = {"rank": 3, "step": 7, "failure": "Traceback\nImageError: a.jpg: cut off\n"}
    (copy / "failures" / "rank-3.json").write_text(json.dumps(failure))
    (copy / "failures" / "rank-4.json").write_text(json.dumps(failure)[:9])
    said = plusx("doctor", copy).out
    assert "not finished" in said
    assert f"{newest.name}  " in said
    assert "cut off or damaged" in said
    assert "rank 3 failed at step 7: ImageError: a.jpg: cut off" in said
    assert "rank-4.json  " in said
    assert "cannot be read" in said
    assert plusx("doctor", tmp_path).code == 1


def test_doctor_reads_all_of_a_model_file(run: Path, tmp_path: Path) -> None:
    model = shutil.copytree(run, tmp_path / "run") / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    broken = plusx("doctor", tmp_path / "run", "--json")
    assert broken.code == 1
    states = {row["file"]: row["state"] for row in json.loads(broken.out)["files"]}
    assert states["model.safetensors"] == "damaged, the weights differ from their SHA-256."


def test_doctor_misses_no_model_file_before_the_first_evaluation(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = value(plusx("doctor", tmp_path, "--json"))
    assert (found["finished"], found["files"], found["failures"]) == (False, [], [])


class Fickle(nn.Module):
    """Answers otherwise where the channels come last."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x), 2), 1.0 + x.is_contiguous())


@pytest.mark.parametrize(
    ("check", "name", "wrong", "words"),
    [
        ("image decoding", "decode", lambda *_, **more: torch.zeros(3, 256, 256, dtype=torch.uint8), "255 of 255"),
        (
            "bf16 convolutions",
            "_timed",
            lambda call: (torch.tensor([1.0 + torch.is_autocast_enabled("cpu")]), 1),
            "100.0%",
        ),
        ("channels_last", "create_model", lambda *_, **more: Fickle(), "logits differ by 5.0e-01"),
    ],
)
def test_a_fast_path_with_other_answers_fails_its_check(
    check: str, name: str, wrong: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, name, wrong)
    row = doctor._run_check(check, doctor.CHECKS[check])
    assert not row["ok"]
    assert row["detail"].startswith("ValueError: ")
    assert words in row["detail"]


def test_what_the_system_refuses_is_one_line() -> None:
    ran = plusx("train", "digits", "--out", "x" * 5000, "--json")
    assert re.fullmatch(r"plusx: x{5000}\S*: File name too long\. --debug shows where\.\n", ran.err)
    assert value(ran, 1)["error"].endswith("File name too long")
    for words in (("recipes", "--json"), ("recipes", "--fields")):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "plusx", *words]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "plusx: No space left on device. --debug shows where.\n")


@pytest.mark.parametrize("terminal", [False, True])
def test_where_nobody_reads_the_exit_code_stays(terminal: bool) -> None:
    code = """
from plusx import cli
from plusx.errors import PlusxError
@cli.command
def stopped(debug: cli.Debug = False):
    error = PlusxError("stopped by SIGTERM.")
    error.exit_code = 143
    raise error
cli.app(["stopped"], prog_name="plusx")
"""
    ours, theirs = os.openpty() if terminal else os.pipe()
    os.close(ours)  # as `2>&1 | tee` that was ended, or a window that was closed
    done = subprocess.run([sys.executable, "-c", code], stdout=theirs, stderr=theirs, check=False)
    os.close(theirs)
    assert done.returncode == 143


def test_json_of_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_noise(monkeypatch)
    words = ("study", "mlp", "--out", tmp_path, "--seeds", 1, "--set", "schedule.steps=2", "--set", "engine.batch=16")
    found = value(plusx(*words, "--json"))
    assert found.keys() >= {"claim", "holds", "table", "claims", "verdict"}
    assert (found["holds"], len(found["table"])) == (None, 8)
    said = plusx(*words).out
    assert "not decided at this budget" in said
    assert said.rstrip().endswith(f"Open {tmp_path}/index.html")


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plusx import demo

    monkeypatch.setattr(demo, "train", functools.partial(demo.train, model="resnet8", overrides=("model.width=8",)))
    monkeypatch.setattr(demo, "EPOCHS", 1)
    found = value(plusx("demo", "--out", tmp_path / "demo", "--json"))
    assert found.keys() >= {*RUN_KEYS, "test", "predictions"}
    assert found["test"]["n"] == 359
    assert len(found["predictions"]) == 10
    again = plusx("demo", "--out", tmp_path / "demo")
    assert again.code == 0
    assert "finished before, nothing to do" in again.out
    assert f"plusx predict {tmp_path}/demo/run" in again.out


@pytest.mark.parametrize(
    "words",
    [("train", "nowhere"), ("evaluate", "nowhere", "digits"), ("predict", "nowhere", "a"), ("check", "nowhere")],
)
def test_json_of_an_error(words: tuple[str, ...]) -> None:
    ran = plusx(*words, "--json")
    found = value(ran, code=1)
    assert found.keys() == {"error", "hint"}
    assert found["hint"]
    assert ran.err.startswith("plusx: nowhere")


def test_json_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Nothing else reaches stdout, from whatever library or worker."""
    data = photos(tmp_path / "photos", 4)
    words = ("--recipe", "photo", "--size", 32, "--set", "data.workers=1", *STEPS)
    found = value(finish(start("train", data, "--out", tmp_path / "run", *words, "--json")))
    assert found["model"] == "resnet8"


def test_a_reader_that_stops_reading_ends_it_in_silence() -> None:
    process = start("recipes")
    assert process.stdout is not None
    process.stdout.close()
    assert finish(process) == Ran(1, "", "")


def test_text_of_train_names_what_comes_next(data: Path, tmp_path: Path) -> None:
    ran = plusx("train", data, "--out", tmp_path / "my run", *STEPS)
    assert f"Next: plusx predict '{tmp_path}/my run' FILES" in ran.out
    assert "resnet8, 3 epochs on 10 images" in ran.out
    assert "error" in ran.out


@pytest.mark.usefixtures("_once")
def test_text_of_the_others(data: Path, run: Path, tmp_path: Path) -> None:
    assert "top-1" in plusx("evaluate", run, data).out
    assert plusx("predict", run, data / "a").out.count(" %") == 12
    assert "12 examples, 2 classes" in plusx("check", data).out
    assert "1 example, 1 class\n" in plusx("check", class_folders(tmp_path, {"a": 1})).out
    assert "269,722" in plusx("models").out
    assert "photo-finetune" in plusx("recipes").out
    assert "optim.lr" in plusx("recipes", "--fields").out
    assert "libjpeg" in plusx("doctor").out


def test_text_of_train_has_the_last_epoch_and_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    numbers: dict[str, Any] = {"epochs": 3, "n_train": 10, "n_val": 8, "n_test": 0, "images_per_second": 5.0}
    words = {"model": "resnet8", "recipe": "small", "watched": "val", "selected": "best"}
    best, final = {"epoch": 2, "top1": 0.75}, {"top1": 0.625, "loss": 1.0}
    run = Run(folder=Path("run"), best=best, final=final, seconds=61.4, **numbers, **words)
    cli._print_run(run)
    cli._print_run(dataclasses.replace(run, selected="last", already_finished=True))
    first, last = "resnet8, 3 epochs on 10 images: ", "val: top-1 62.50 %, error 37.50 %, last epoch"
    assert capsys.readouterr().out.splitlines() == [
        *(f"{first}took 61 s", last, "val: top-1 75.00 % at epoch 2, the weights kept in run/model.safetensors"),
        *(f"{first}finished before, nothing to do", last, "Model file: run/model.safetensors"),
        "Its data was not looked at again: to train on what has changed, give another --out.",
    ]


def test_text_of_evaluate_has_every_figure_in_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"n": 1200, "precision": 0.5, "recall": 0.25, "f1": 1 / 3}, {"n": 0, "precision": 0, "recall": 0, "f1": 0}]
    numbers = {"n": 1200, "top1": 0.25, "top5": 0.875, "loss": 1.5, "ece": 0.125}
    about: dict[str, Any] = {"models": ("m",), "split": "val", "task": "single", "protocol": "1-crop"}
    found = {"per_class": dict(zip("ab", rows, strict=True)), "confusion": None, "mistakes": (), "notes": ("one",)}
    cli._print_evaluation(Evaluation(**numbers, **about, **found))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "val: top-1 25.00 %, error 75.00 %, top-5 87.50 %, loss 1.5000, calibration error 12.50 %, "
        "1,200 images, 1-crop",
        "always answering a would be right in 100.00 %",
        "note: one",
    ]
    assert [line.split() for line in lines[3:]] == [
        ["class", "n", "precision", "recall", "F1"],
        ["a", "1,200", *("50.00", "%"), *("25.00", "%"), *("33.33", "%")],
        ["b", "0", "-", "-", "-"],
    ]


def test_text_of_check_counts_warnings_too(capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"path": "b.png", "split": "val", "reason": "cut off"}
    cli._print_check(CheckReport(3, {"a": {"train": 2, "val": 1}}, [bad], [], [], ["odd"]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["3", "examples,", "1", "class"],
        ["class", "train", "val"],
        ["a", "2", "1"],
    ]
    assert lines[3:] == ["bad: b.png: cut off", "warning: odd", "2 findings; nothing was changed."]


def test_text_of_study_has_every_figure_in_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"arm": "a", "measure": "m", "n": 3, "mean": 9.5, "std": 0.25, "paper": 8.75, "difference": 0.75}
    claims = ({"claim": "It is.", "verdict": "holds", "reason": "p"},)
    told: dict[str, Any] = {"claim": "C.", "verdict": "holds", "overrides": ("engine.batch=4",), "budget": "quick"}
    cli._print_study(SimpleNamespace(**told, claims=claims, table=(row,), diverged=()))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["C. Holds.", "changed from the quick budget: engine.batch=4", "  holds: It is. (p)"]
    assert lines[3].split() == ["arm", "measure", "n", "mean", "std", "minus", "the", "paper's"]
    assert lines[4].split() == ["a", "m", "3", "9.5", "0.25", "+0.75"]


def test_one_failed_check_of_the_machine_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [{"check": name, "ok": ok, "detail": "so"} for name, ok in (("a", True), ("b", False))]
    monkeypatch.setattr("plusx.doctor.examine", lambda: {"plusx": "1", "checks": checks})
    ran = plusx("doctor")
    assert ran.code == 1
    assert [line.split() for line in ran.out.splitlines()[-2:]] == [["a", "ok", "so"], ["b", "failed", "so"]]
    assert ran.err == "plusx: a self-check failed; re-install the versions in constraints.txt.\n"


def test_every_flag_reaches_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def note(*_: Any, **options: Any) -> None:
        options.pop("progress", None)
        asked.append(options)
        raise PlusxError("enough")

    for place in ("run.train", "evaluation.evaluate", "studies.study.study"):
        module, _, function = f"plusx.{place}".rpartition(".")
        monkeypatch.setattr(importlib.import_module(module), function, note)
    train = {"model": "m", "recipe": "r", "weights": "w", "epochs": 3, "size": 8, "seed": 5}
    flags = [word for name, value in train.items() for word in (f"--{name}", value)]
    changed, out = ("--set", "a.b=1"), Path("o")
    plusx("train", "d", "--out", out, *flags, "--resume", "--accept-data-change", *changed)
    evaluated = ("--split", "val", "--protocol", "6-view", "--with", "x", "--ignore-extra")
    plusx("evaluate", "m", "d", *evaluated, *changed)
    plusx("study", "mlp", "--out", out, "--budget", "paper", "--seeds", 2, "--parallel", 4, *changed)
    given = {"overrides": ["a.b=1"]}
    assert asked == [
        {"out": out, **train, "resume": True, "accept_data_change": True, **given},
        {"split": "val", "protocol": "6-view", "others": ["x"], "ignore_extra": True, **given},
        {"out": out, "budget": "paper", "seeds": 2, "parallel": 4, **given},
    ]


def test_predict_writes_a_file(data: Path, run: Path, tmp_path: Path) -> None:
    ran = plusx("predict", run, data, "--out", tmp_path / "labels.csv")
    assert (ran.code, ran.out) == (0, f"12 rows written to {tmp_path}/labels.csv\n")
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 13


def test_predict_refuses_a_suffix_before_the_work(run: Path) -> None:
    ran = plusx("predict", run, "nothing.png", "--out", "labels.txt")
    assert ran == Ran(1, "", "plusx: labels.txt: got the suffix '.txt', expected one of .csv, .jsonl, .parquet.\n")
    said = plusx("predict", run, "nothing.png", "--out", "o.json").err
    assert said.endswith(".parquet. For JSON, name a .jsonl file, or print one value with --json.\n")


def test_predict_refuses_a_folder_that_is_not_there_before_the_work(run: Path, tmp_path: Path) -> None:
    ran = plusx("predict", run, tmp_path / "none.png", "--out", tmp_path / "new" / "labels.csv")
    reason = "its folder does not exist. Make the folder, or choose another --out."
    assert ran == Ran(1, "", f"plusx: {tmp_path}/new/labels.csv: {reason}\n")


def test_names_cannot_steer_the_terminal(run: Path) -> None:
    ran = plusx("predict", run, "a\x1b[31m[bold].png")
    assert "a\\x1b[31m[bold].png: " in ran.err
    assert "\x1b" not in ran.err
    joined = "👨\u200d👩\u200d👧"
    assert f"{joined}\\u202e.png: " in plusx("predict", run, f"{joined}\u202e.png").err


def test_names_cannot_forge_lines(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a\\nb.png: No such file" in plusx("predict", run, "a\nb.png").err
    name = "cat\nbad: forged"
    forged = class_folders(tmp_path / "data", {name: 2, "b\nforged": 2})
    begun = shutil.copytree(run, tmp_path / "run\nforged")
    (begun / "result.json").unlink()
    for words in (("check", forged), ("predict", begun, forged), ("evaluate", run, data, "--with", begun)):
        ran = plusx(*words)
        assert not re.search("^(bad: )?forged", ran.out + ran.err, re.MULTILINE)
    out = tmp_path / "x\nforged.csv"
    assert plusx("predict", run, forged, "--out", out).out == f"4 rows written to {tmp_path}/x\\nforged.csv\n"
    cli._print_predictions([{"path": "1.png", "labels": [{"label": name, "probability": 1.0}]}])
    cli._print_table(("class",), [(name,)])
    cli._note(name)
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("cat\\nbad: forged") == 3


def test_check_prints_the_first_of_many_equal_images(capsys: pytest.CaptureFixture[str]) -> None:
    class Group(dict[str, Any]):
        def __eq__(self, other: object) -> bool:
            raise AssertionError("each with each takes minutes for 100,000")

        __hash__ = None  # type: ignore[assignment]

    pairs = [("val" if i < 23 else "train", i) for i in reversed(range(45))]
    equal = [Group(paths=[f"{i}a", f"{i}b"], splits=["train", split], same="bytes") for split, i in pairs]
    cli._print_check(
        CheckReport(90, {}, [], list(equal), [group for group in equal if group["splits"][1] == "val"], [])
    )
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines[0] == "leak (same bytes): 22a, 22b"
    assert lines[19:22] == [
        "leak (same bytes): 3a, 3b",
        "3 more leaks: --json lists all",
        "duplicate (same bytes): 44a, 44b",
    ]
    assert lines[41:] == ["2 more duplicates: --json lists all", "45 findings; nothing was changed."]


def test_json_without_a_stdout_goes_nowhere(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contextlib, "redirect_stdout", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(sys, "stdout", None)  # as `>&-` leaves it
    assert plusx("doctor", run, "--json") == Ran(0, "", "")


@pytest.mark.parametrize(("rank", "tells"), [(0, True), (1, False)])
def test_only_training_runs_in_several_processes(rank: int, tells: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": str(rank)}.items():
        monkeypatch.setenv(name, value)
    ran = plusx("models", "--json")
    assert ran.code == 1
    told = "plusx: torchrun started 2 processes, and `plusx models` is for one. Only `plusx train` runs in several; "
    assert ran.err == (f"{told}start this one without torchrun.\n" if tells else "")
    assert len(ran.out.splitlines()) == tells
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert plusx("models", "--json").code == 0


@pytest.mark.parametrize(("rank", "told"), [("0", "plusx: stopped by Ctrl-C.\n"), ("1", "")])
def test_one_process_of_several_tells_of_a_stop(rank: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("plusx.run.train", stop)
    monkeypatch.setenv("RANK", rank)
    assert plusx("train", "digits") == Ran(130, "", told)


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in plusx("train", "nowhere", "--debug").err


@pytest.mark.parametrize(
    ("message", "hint", "text"),
    [("a: got 1", "Do b.", "a: got 1. Do b."), ("Why?", "Do b.", "Why? Do b."), ("a: got 1.", "", "a: got 1.")],
)
def test_messages_are_a_sentence_and_an_action(message: str, hint: str, text: str) -> None:
    assert str(PlusxError(message, hint)) == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_our_characters(encoding: str) -> None:
    command = [sys.executable, "-m", "plusx", "recipes", "--fields"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"cpu, cuda, cuda:1, \\u2026" in done.stdout


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=["nothing", "a count", "a policy"],
)
def test_waiting_threads_are_told_to_sleep_unless_the_user_said_otherwise(given: dict[str, str], spins: str) -> None:
    kept = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, plusx; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True)
    assert done.stdout == spins + "\n"


def test_training_and_answering_do_without_the_compiler(tmp_path: Path) -> None:
    code = (
        "import sys; from plusx.cli import app\n"
        "for words in (['train', 'digits', '--out', 'r', *sys.argv[1:]], ['evaluate', 'r', 'digits']):\n"
        "    app(words, standalone_mode=False)\n"
        "    assert 'torch._dynamo' not in sys.modules, f'{words} imported it, which takes seconds'\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *STEPS], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
