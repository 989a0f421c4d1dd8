"""Runs: one command starts, continues and finishes one; nothing else gets into its folder."""

import errno
import fcntl
import html
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter, namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import plusx as package
from plusx import config as configs
from plusx import initial
from plusx import prepare as preparing
from plusx.claim import claimed
from plusx.config import DataConfig, Facts
from plusx.data import Dataset, EvalLoader, Preprocess, Split, copies, decode, open_dataset, scan, statistics
from plusx.data.names import Names
from plusx.data.sources import SOURCES
from plusx.engine import Log, Stopped, fit_temperature, predict_logits
from plusx.errors import DataError, ModelFileError, PlusxError
from plusx.evaluation import Evaluation, evaluate
from plusx.finish import too_few
from plusx.modelfile import load
from plusx.models.names import FAMILIES, NetworkPlan
from plusx.models.pooled import PooledResNet
from plusx.plan import Request, write_json
from plusx.prepare import plain_preprocess
from plusx.recipes import RECIPES, choose
from plusx.result import Run
from plusx.run import default_folder, train
from tests.commands import SMALL, STEPS, Ran, begin, contents, end, photos, plusx
from tests.data.making import class_folders, picture
from tests.forks import Fork

LONG = ("--epochs", "4", *SMALL)  # 180 steps: a second or more after the first evaluation
PHOTO = (
    "--size",
    "32",
    "--recipe",
    "photo",
    "--epochs",
    "2",
    "--set",
    "data.val_fraction=0.4",
    "--set",
    "engine.batch=4",
    *SMALL,
)
OVERRIDES = ("model.width=8", "engine.precision=fp32", "engine.threads=1", "schedule.steps=3")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model file of LONG on digits, never interrupted."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert plusx("train", "digits", "--out", out, *LONG).code == 0
    return (out / "model.safetensors").read_bytes()


def model_file(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def interrupted(out: Path, number: int) -> Ran:
    """LONG on digits in a process of its own, stopped by a signal soon after its first evaluation."""
    process = begin(out.parent, "train", "digits", "--out", out, *LONG)
    await_line(process, "epoch 1/4")
    process.send(number)
    return end(process)


def await_line(process: Fork, words: str) -> None:
    """Until the process has written a line that begins so."""
    while f"\n{words}" not in process.said()[1]:
        assert process.alive(), process.told()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_stopped_run_continues_to_the_same_bits(
    number: int, code: int, name: str, tmp_path: Path, undisturbed: bytes
) -> None:
    ran = interrupted(tmp_path / "run", number)
    assert ran.code == code, ran.err
    assert f"plusx: stopped by {name} after step " in ran.err
    assert "of 180. The same command continues it.\n" in ran.err
    assert (ran.out, "Traceback" in ran.err) == ("", False)
    assert not (tmp_path / "run" / "result.json").exists()
    ran = plusx("train", "digits", "--out", tmp_path / "run", *LONG)
    assert ran.code == 0
    assert "continuing after step" in ran.err
    assert model_file(tmp_path / "run") == undisturbed
    assert [row["epoch"] for row in rows(tmp_path / "run") if row["split"] == "test"] == [1, 2, 3, 4]


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing beyond it fails as on a full one."""
    out, words = tmp_path / "run", (*SMALL, "--set", "schedule.steps=60")

    def limited(size: int) -> Ran:
        return end(begin(tmp_path, "train", "digits", "--out", out, *words, file_size=size))

    ran = limited(1000)  # less than the record of the run needs
    assert ran.code == 1
    assert f"plusx: {out}/config.json: cannot be written: File too large. Check the disk and its space." in ran.err
    assert not out.exists()
    ran = limited(30_000)  # less than a checkpoint needs
    assert ran.code == 1
    assert f"plusx: {out}/" in ran.err
    assert "cannot be written" in ran.err
    assert "Traceback" not in ran.err
    assert [p.name for p in (out / "checkpoints").iterdir()] == []
    for folder in (out, tmp_path / "straight"):
        assert plusx("train", "digits", "--out", folder, *words).code == 0
    assert model_file(out) == model_file(tmp_path / "straight")


def test_no_room_is_told_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    ran = plusx("train", "digits", "--out", tmp_path / "run", *STEPS)
    assert ran.code == 1
    assert "disk full, needs" in ran.err
    assert "Free some space and retry." in ran.err
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_ctrl_c_reaches_the_workers_too(tmp_path: Path) -> None:
    """A terminal sends the signal to every process of the command; only one of them answers."""
    data = photos(tmp_path / "photos")
    words = (*PHOTO, "--epochs", 200, "--set", "data.workers=2")
    process = begin(tmp_path, "train", data, "--out", tmp_path / "run", *words)
    await_line(process, "epoch 1/200")
    process.send(signal.SIGINT, group=True)
    ran = end(process)
    assert (ran.code, ran.out) == (130, "")
    assert "plusx: stopped by Ctrl-C after step " in ran.err
    assert "Traceback" not in ran.err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")],
)
def test_a_signal_before_anything_is_decided_leaves_nothing(number: int, code: int, name: str, tmp_path: Path) -> None:
    process = begin(tmp_path, "train", "digits", "--size", 16, "--out", tmp_path / "a" / "run", "--json")
    while not (tmp_path / "a" / "run" / "lock").exists():
        time.sleep(0.001)
    process.send(number)
    ran = end(process)
    assert (ran.code, ran.err) == (code, f"plusx: stopped by {name}.\n")
    assert json.loads(ran.out) == {"error": f"stopped by {name}.", "hint": ""}
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("size", "reason"), [(8, "too few for bfloat16"), (16, "as fast as float32|this CPU has no bfloat16")]
)
def test_tiny_networks_stay_in_float32_and_others_are_tried(size: int, reason: str, tmp_path: Path) -> None:
    words = ("--size", size, "--set", "schedule.steps=2", "--out", tmp_path / "run")
    said = plusx("train", "digits", *words).err
    line = next(line for line in said.splitlines() if line.startswith("engine.precision = "))
    assert re.search(reason, line)
    assert size == 16 or line.startswith("engine.precision = fp32")


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    command = ("train", "digits", "--out", tmp_path / "run", *STEPS)
    first = plusx(*command, "--json")
    before = contents(tmp_path / "run")
    again = plusx(*command)
    assert again.code == 0
    assert "finished before, nothing to do" in again.out
    assert again.err == ""
    found = json.loads(plusx(*command, "--resume", "--json").out)
    assert found["already_finished"]
    assert {**found, "already_finished": False} == json.loads(first.out)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])], ids=["gone", "cut"]
)
def test_a_finished_run_without_its_model_file_is_told(damage: Any, tmp_path: Path) -> None:
    command = ("train", "digits", "--out", tmp_path / "run", *STEPS)
    assert plusx(*command).code == 0
    damage(tmp_path / "run" / "model.safetensors")
    said = plusx(*command)
    assert said.code == 1
    assert "is finished, but its model file cannot be used" in said.err
    assert "another --out" in said.err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"half"), "model.safetensors: not a safetensors file"),
        (Path.unlink, "model.safetensors: cannot be read: No such file or directory"),
    ],
    ids=["half", "gone"],
)
def test_an_unfinished_run_without_its_model_file_ends_with_one(damage: Any, said: str, tmp_path: Path) -> None:
    """The weights of its best evaluation are gone: the last one is made again, and kept."""
    data = class_folders(tmp_path / "data", {"a": 6, "b": 6})
    command = ("train", data, "--out", tmp_path / "run", *SMALL, "--set", "schedule.steps=3")
    assert plusx(*command).code == 0
    (tmp_path / "run" / "result.json").unlink()
    damage(tmp_path / "run" / "model.safetensors")
    ran = plusx(*command)
    assert ran.code == 0, ran.err
    assert said in ran.err
    package.load(tmp_path / "run")


def test_a_model_file_that_the_disk_does_not_give_is_not_taken_for_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = class_folders(tmp_path / "data", {"a": 6, "b": 6}), tmp_path / "run"
    train(str(data), model="resnet8", out=out, overrides=OVERRIDES)
    (out / "result.json").unlink()
    before = contents(out / "checkpoints"), model_file(out)

    def fail(path: Path) -> None:
        raise ModelFileError(f"{path}: cannot be read: Input/output error.") from OSError(errno.EIO, "")

    monkeypatch.setattr("plusx.modelfile.read", fail)
    with pytest.raises(ModelFileError, match="Input/output error"):
        train(str(data), model="resnet8", out=out, overrides=OVERRIDES)
    assert (contents(out / "checkpoints"), model_file(out)) == before


@pytest.mark.parametrize("finished", [True, False])
def test_another_command_is_told_what_differs(finished: bool, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert plusx("train", "digits", "--out", out, *STEPS).code == 0
    if not finished:
        (out / "result.json").unlink()
    before = contents(out)
    ran = plusx("train", "digits", "--out", out, *STEPS, "--seed", 3, "--set", "optim.lr=0.2")
    assert ran.code == 1
    assert ran.err.startswith(f"plusx: {out} holds a run of another command: ")
    assert ": seed was 0, now 3; optim.lr was not given, now 0.2. " in ran.err
    assert ran.err.endswith("Repeat that command to continue it, name another folder with --out, or delete this one.\n")
    assert contents(out) == before


def test_the_same_command_in_other_words_is_the_same_run(tmp_path: Path) -> None:
    command = ("train", "digits", "--out", tmp_path, *SMALL, "--epochs", 1)
    assert plusx(*command, "--set", "optim.lr=0.1", "--set", "engine.batch=256").code == 0
    wanted = model_file(tmp_path)
    words = ("engine.batch=256", "optim.lr=0.10", "schedule.epochs=1", "model.name=resnet8")
    again = (
        "train",
        "digits",
        "--out",
        tmp_path,
        *SMALL[2:],
        "--seed",
        0,
        *(w for one in words for w in ("--set", one)),
    )
    assert "finished before" in plusx(*again).out
    unfinished(tmp_path)
    ran = plusx(*again)
    assert (ran.code, model_file(tmp_path)) == (0, wanted), ran.err
    assert "otherwise than before" not in ran.err


def test_a_run_of_before_goes_on_where_a_later_value_counted(tmp_path: Path) -> None:
    command = ("train", "digits", "--out", tmp_path, *STEPS)
    assert plusx(*command).code == 0
    record = unfinished(tmp_path)
    record["request"]["overrides"].insert(0, "schedule.steps=9")
    (tmp_path / "config.json").write_text(json.dumps(record))
    ran = plusx(*command)
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "resnet19"), "model.name: got 'resnet19'"),
        (("--recipe", "smal"), "recipe: got 'smal'"),
        (("--epochs", 0), "schedule.epochs: got 0"),
        (("--size", 0), "data.size: got 0"),
        (("--seed", -1), "seed: got -1"),
        (("--weights", "missing.pth"), "missing.pth: no such file"),
        (("--weights", "imagenet", "--model", "resnet20"), "--weights imagenet: got the network resnet20, there are"),
        (("--weights", "imagenet-v2", "--model", "resnet18"), "--weights imagenet-v2: resnet18 has imagenet, imagenet"),
        (("--set", "engine.device=cuda:77"), "engine.device: got 'cuda:77': "),
        (("--set", "engine.device=gpu"), "engine.device: got 'gpu', expected cpu, cuda"),
        (("--set", "data.channels=2"), "data.channels: got 2, expected one of 1, 3 or auto"),
        (("--set", "optim.lr=0.1", "--set", "optim.lr=0.2"), "optim.lr: got 0.1 and 0.2, expected one value"),
    ],
)
def test_what_needs_no_data_is_told_before_they_are_opened(
    words: tuple[Any, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = plusx("train", "no-such-data", "--out", "run", *words)
    assert ran.code == 1
    assert ran.err.startswith(f"plusx: {said}")
    assert contents(tmp_path) == {}


def unfinished(folder: Path) -> dict[str, Any]:
    """Makes a finished run one whose last evaluation is to be made, and returns its record."""
    (folder / "result.json").unlink()
    record: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return record


def test_how_a_run_is_computed_may_change_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("train", "digits", *STEPS, "--set", "data.workers=1")
    assert plusx(*command).code == 0
    before = unfinished(tmp_path / "runs" / "digits")
    asked = ("data.workers=0", "engine.checkpoint_steps=2", "engine.on_bad_image=skip")
    changed = (*command[:-2], *(word for one in asked for word in ("--set", one)))
    ran = plusx(*changed)
    assert ran.code == 0, ran.err
    note = "data.workers was 1, now 0; engine.checkpoint_steps was None, now 2; engine.on_bad_image was error, now skip"
    assert f"note: the run goes on otherwise than before: {note}\n" in ran.err
    record = json.loads((tmp_path / "runs" / "digits" / "config.json").read_text())
    assert record["config"]["data"]["workers"] == 0
    assert record["config"]["optim"] == before["config"]["optim"]
    assert note in (tmp_path / "runs" / "digits" / "report.html").read_text()
    assert "finished before" in plusx(*command).out  # that decides nothing about the end
    unfinished(tmp_path / "runs" / "digits")
    again = plusx("train", "digits", *STEPS)  # what is left out stays
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "runs" / "digits" / "config.json").read_text())["config"] == record["config"]


def test_other_versions_are_told_when_a_run_goes_on(tmp_path: Path) -> None:
    command = ("train", "digits", "--out", tmp_path, *STEPS)
    assert plusx(*command).code == 0
    record = unfinished(tmp_path)
    record["versions"] |= {"torch": "1.0", "cpu": "Z80", "date": "1999-01-01"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    told = plusx(*command).err
    assert "note: the run goes on otherwise than before: torch was 1.0, now " in told
    assert "; cpu was Z80, now " in told
    versions = json.loads((tmp_path / "config.json").read_text())["versions"]
    assert (versions["torch"], versions["date"]) == (metadata.version("torch"), "1999-01-01")


def test_a_device_that_is_gone_is_told_before_a_run_goes_on(tmp_path: Path) -> None:
    command = ("train", "digits", "--out", tmp_path, *STEPS)
    assert plusx(*command).code == 0
    record = unfinished(tmp_path)
    record["config"]["engine"]["device"] = "cuda"
    (tmp_path / "config.json").write_text(json.dumps(record))
    ran = plusx(*command)
    assert ran.code == 1
    assert "plusx: engine.device: got 'cuda': " in ran.err
    assert ran.err.endswith("or name one that is, such as cpu.\n")
    ran = plusx(*command, "--set", "engine.device=cpu")
    assert ran.code == 0, ran.err
    assert "engine.device was cuda, now cpu" in ran.err


def test_a_run_goes_on_where_its_data_lie_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = class_folders(tmp_path / "data", {"a": 6, "b": 6})
    assert plusx("train", "data", "--out", "run", *STEPS).code == 0
    assert "finished before" in plusx("train", data, "--out", "run", *STEPS).out
    unfinished(tmp_path / "run")
    other = class_folders(tmp_path / "other", {"a": 6, "b": 7})
    before = contents(tmp_path / "run")
    ran = plusx("train", other, "--out", "run", *STEPS, "--accept-data-change")
    assert ran.code == 1
    assert f"run holds a run of another command: data was 'data', now '{other}'" in ran.err
    assert {**contents(tmp_path / "run"), "log.txt": ""} == {**before, "log.txt": ""}
    data.rename(tmp_path / "moved")
    ran = plusx("train", "moved", "--out", "run", *STEPS)
    assert ran.code == 0, ran.err
    assert "note: the run goes on otherwise than before: data was 'data', now 'moved'\n" in ran.err
    assert "finished before" in plusx("train", "moved", "--out", "run", *STEPS).out
    assert "data was 'moved', now 'data'" in plusx("train", "data", "--out", "run", *STEPS).err


@pytest.mark.parametrize("rows", [slice(None, None, -1), slice(0, 11)])
def test_examples_in_another_order_or_number_are_other_data(rows: slice, tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 5, "b": 5})
    lines = [f"{name}/{i}.png,{name},{split}" for name in "ab" for i, split in enumerate(["train"] * 4 + ["val"])]
    lines.append(lines[0])  # twice
    table = tmp_path / "data" / "t.csv"
    command = ("train", table, "--out", tmp_path / "run", *STEPS)
    table.write_text("\n".join(["path,label,split", *lines]))
    assert plusx(*command).code == 0
    (tmp_path / "run" / "result.json").unlink()
    changed = lines[::-1] if rows.step else lines[:-1]
    table.write_text("\n".join(["path,label,split", *changed]))
    assert sorted(data.iterdir())
    ran = plusx(*command)
    assert ran.code == 1
    assert "changed since the run began: the same examples, in another order or number. " in ran.err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 99}', '{"format": 1, "request": {}}'])
def test_a_damaged_record_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    ran = plusx("train", "digits", "--out", tmp_path, *STEPS)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"plusx: {tmp_path}/config.json: ")
    assert (tmp_path / "config.json").read_text() == text


def test_the_record_of_a_later_version_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"format": 99}')
    ran = plusx("train", "digits", "--out", tmp_path, *STEPS)
    assert ran == Ran(1, "", f"plusx: {tmp_path}/config.json: format 99, this version reads 1. Use another --out.\n")


def test_a_disk_that_fills_up_leaves_the_record_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "config.json", {"format": 1})
    before = contents(tmp_path)

    def half(path: Path, text: str) -> None:
        path.write_bytes(text[:3].encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(package.PlusxError, match=r"config\.json: cannot be written: No space left on device"):
        write_json(tmp_path / "config.json", {"format": 1, "facts": {}})
    assert contents(tmp_path) == before


def test_resume_needs_a_run_and_not_a_folder_alone(tmp_path: Path) -> None:
    ran = plusx("train", "digits", "--out", tmp_path, "--resume", *STEPS)
    assert ran == Ran(
        1, "", f"plusx: --resume: {tmp_path} holds no run of this command. Leave --resume out to start one.\n"
    )
    assert contents(tmp_path) == {}


def test_resume_needs_a_run(tmp_path: Path) -> None:
    ran = plusx("train", "digits", "--out", tmp_path / "run", "--resume")
    assert ran == Ran(
        1, "", f"plusx: --resume: {tmp_path}/run holds no run of this command. Leave --resume out to start one.\n"
    )
    assert not (tmp_path / "run").exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with claimed(tmp_path / "run"):
        ran = plusx("train", "digits", "--out", tmp_path / "run", *STEPS)
    assert ran.code == 1
    assert ran.err.startswith(f"plusx: {tmp_path}/run is in use by process {os.getpid()} on ")
    assert ran.err.endswith("Wait for it, or name another one with --out.\n")


def test_a_child_that_outlives_its_parent_does_not_keep_the_folder(tmp_path: Path) -> None:
    """Decoding processes are forked, and live for a moment after their parent was killed."""
    ours, theirs = multiprocessing.Pipe()
    with claimed(tmp_path / "run"):
        (tmp_path / "run" / "config.json").touch()
        child = multiprocessing.get_context("fork").Process(target=lambda: (theirs.send(None), theirs.recv()))
        child.start()
        ours.recv()
    try:
        with claimed(tmp_path / "run"):
            assert child.is_alive()
    finally:
        ours.send(None)
        child.join(10)
    assert child.exitcode == 0


def test_a_lock_whose_owner_died_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("process 1 on elsewhere")
    assert plusx("train", "digits", "--out", tmp_path, *STEPS).code == 0


def test_a_lock_names_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("process 1 on elsewhere, long ago")
    with claimed(tmp_path):
        assert re.fullmatch(rf"process {os.getpid()} on \S+", (tmp_path / "lock").read_text())


def test_a_lock_that_was_just_removed_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the lock and taking it, its owner may end and remove it."""
    take = fcntl.flock

    def late(file: Any, how: int) -> None:
        (tmp_path / "lock").unlink()
        take(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(package.PlusxError, match="in use by another process"), claimed(tmp_path):
        pass


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(package.PlusxError, match="locks no files: Function not implemented"), claimed(tmp_path):
        pass


def test_a_run_whose_data_cannot_be_recorded_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plusx.prepare.write_json", lambda *_, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("digits", model="resnet8", out=tmp_path / "run", overrides=OVERRIDES)
    assert contents(tmp_path) == {}


def test_what_ends_before_a_decision_leaves_no_folder(tmp_path: Path) -> None:
    with claimed(tmp_path / "a" / "run"):
        (tmp_path / "a" / "run" / "manifest.json").touch()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["manifest.json", "lock", ".DS_Store"])
def test_what_a_run_that_decided_nothing_left_is_no_run(left: str, tmp_path: Path) -> None:
    (tmp_path / left).touch()
    with claimed(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()


def test_a_log_beside_a_lock_is_of_a_run_that_decided_nothing(tmp_path: Path) -> None:
    """kill -9 while images are read leaves both; a log alone is somebody's own."""
    for name in ("lock", "log.txt"):
        (tmp_path / name).touch()
    with claimed(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "log.txt").write_text("dear")
    with pytest.raises(PlusxError, match=r"holds no run but log\.txt"), claimed(tmp_path):
        pass
    assert (tmp_path / "log.txt").read_text() == "dear"


def test_what_a_hint_advises_works_in_the_folder_that_plusx_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path / "photos", {"a": 5, "b": 5})
    (tmp_path / "photos" / "a" / "broken.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    words = ("train", "photos", "--size", 8, *STEPS)
    failed = plusx(*words)
    assert (failed.code, "run folder: runs/photos\n" in failed.err) == (1, True)
    assert not Path("runs").exists()
    ran = plusx(*words, "--set", "engine.on_bad_image=skip")
    assert (ran.code, "run folder: runs/photos\n" in ran.err) == (0, True)
    again = plusx(*words, "--set", "engine.on_bad_image=skip")
    assert again.out.endswith(
        "Its data was not looked at again: to train on what has changed, give another --out.\n"
        "Open runs/photos/report.html\nNext: plusx predict runs/photos FILES…\n"
    )
    assert "looked at" not in ran.out


def test_data_that_changed_is_told(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 6, "b": 6})
    command = ("train", data, "--out", tmp_path / "run", *STEPS)
    assert plusx(*command).code == 0
    (tmp_path / "run" / "result.json").unlink()  # as if the last line of the run were missing
    (data / "b" / "new.png").write_bytes((data / "b" / "1.png").read_bytes())
    ran = plusx(*command)
    assert ran.code == 1
    assert f"the data of {tmp_path}/run changed since the run began: +1 -0 ~0 (added: b/new.png)" in ran.err
    (data / "b" / "new.png").unlink()
    assert plusx(*command).code == 0
    result = tmp_path / "run" / "result.json"
    assert result.exists()
    result.write_text("{}")
    ran = plusx(*command)
    assert ran.code == 1
    assert f"{result}: cannot be read (it lacks best, epochs, " in ran.err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"splits": {"train": {"examples": [[]]}}}', '{"splits": [1]}'])
def test_a_damaged_manifest_is_told(text: str, tmp_path: Path) -> None:
    command = ("train", "digits", "--out", tmp_path, *STEPS)
    assert plusx(*command).code == 0
    (tmp_path / "result.json").unlink()
    (tmp_path / "manifest.json").write_text(text)
    ran = plusx(*command)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"plusx: {tmp_path}/manifest.json: ")


def test_changed_data_can_be_accepted(tmp_path: Path) -> None:
    data, out = class_folders(tmp_path / "data", {"a": 12, "b": 12}), tmp_path / "run"
    command = ("train", data, "--out", out, *SMALL, "--epochs", "3", "--set", "engine.batch=8")
    assert plusx(*command).code == 0
    first = json.loads((out / "manifest.json").read_text())
    val = {row[0] for row in first["splits"]["val"]["examples"]}
    checkpoints = sorted((out / "checkpoints").iterdir())
    checkpoints[-1].unlink()  # as if it had ended after two epochs
    (out / "result.json").unlink()
    train_file = next(row[0] for row in first["splits"]["train"]["examples"])
    (data / train_file).unlink()
    for i in range(8):
        (data / "b" / f"new{i}.png").write_bytes((data / "b" / "1.png").read_bytes())
    assert plusx(*command).code == 1
    ran = plusx(*command, "--accept-data-change")
    assert ran.code == 0, ran.err
    log = (out / "log.txt").read_text()
    names = ", ".join(f"b/new{i}.png" for i in range(5))
    assert f"the data changed: +8 -1 ~0 (added: {names} and 3 more; removed: {train_file})" in log
    assert "going on with the changed data from epoch 3" in log
    assert "the data changed during the run: +8 -1 ~0" in (out / "report.html").read_text()
    second = json.loads((out / "manifest.json").read_text())
    assert second["accepted"] == [{"from": first["hash"], "to": second["hash"], "change": "+8 -1 ~0"}]
    now = {row[0] for row in second["splits"]["val"]["examples"]}
    assert {name for name in now if "new" not in name} == val  # none that was trained on is validated on
    (out / "result.json").unlink()
    again = plusx(*command)  # accepted once, accepted for good
    assert again.code == 0, again.err
    evaluated = plusx("evaluate", out, data, "--json")
    assert json.loads(evaluated.out)["n"] == len(now)
    assert "not the examples" not in evaluated.out


def test_a_class_without_training_images_is_not_accepted(tmp_path: Path) -> None:
    data, out = class_folders(tmp_path / "data", {"a": 10, "b": 10}), tmp_path / "run"
    command = ("train", data, "--out", out, *STEPS)
    assert plusx(*command).code == 0
    (out / "result.json").unlink()
    for name, label, *_ in json.loads((out / "manifest.json").read_text())["splits"]["train"]["examples"]:
        if label == "b":
            (data / name).unlink()
    ran = plusx(*command, "--accept-data-change")
    assert ran.code == 1
    assert f"plusx: {data}: val has images of 1 class that train lacks: b. Restore them, or begin anew" in ran.err


def test_other_classes_are_not_accepted(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 6, "b": 6})
    command = ("train", data, "--out", tmp_path / "run", *STEPS)
    assert plusx(*command).code == 0
    (tmp_path / "run" / "result.json").unlink()
    class_folders(data, {"c": 6})
    before = contents(tmp_path / "run")
    ran = plusx(*command, "--accept-data-change")
    assert ran.code == 1
    assert "the classes of the data changed: added c; removed none." in ran.err
    assert {k: v for k, v in contents(tmp_path / "run").items() if "log" not in k} == {
        k: v for k, v in before.items() if "log" not in k
    }


@pytest.mark.parametrize("place", ["/proc/run", "{data}/a/0.png", "{data}/a/0.png/run"])
def test_a_place_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 3, "b": 3})
    before = contents(data)
    out = place.format(data=data)
    ran = plusx("train", "digits", "--out", out, *STEPS)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"plusx: {out}: ")
    assert ran.err.endswith("Name another run folder with --out.\n")
    assert contents(data) == before


def test_a_folder_of_other_things_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    ran = plusx("train", "digits", "--out", tmp_path, *STEPS)
    assert ran == Ran(1, "", f"plusx: {tmp_path} holds no run but thesis.txt. Name a new folder with --out.\n")
    assert contents(tmp_path).keys() == {"thesis.txt"}


@pytest.mark.parametrize("inside", [".", "run", "a/deep/run"])
def test_a_run_never_lies_in_its_data(inside: str, tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 3, "b": 3})
    before = contents(tmp_path)
    ran = plusx("train", data, "--out", data / inside, *STEPS)
    assert ran.code == 1
    assert "lies in the data folder" in ran.err
    assert contents(tmp_path) == before


def test_a_folder_inside_the_data_is_known_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = class_folders(tmp_path / "data", {"a": 4, "b": 4})
    monkeypatch.chdir(data)
    before = contents(tmp_path)
    for out in ("run", "../data/run"):
        assert f"{out} lies in the data folder" in plusx("train", data, "--out", out, *STEPS).err
    assert contents(tmp_path) == before
    assert plusx("train", data, "--out", f"{data}-run", *STEPS).code == 0, "beside it, whatever its name begins with"


def test_default_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new command gets a new folder, the same command its own; a slash at the end changes nothing."""
    monkeypatch.chdir(tmp_path)
    class_folders(Path("pets.v2"), {"a": 4, "b": 4})
    ran = [
        plusx("train", *words, "--json")
        for words in (
            ("pets.v2", *STEPS),
            ("pets.v2/", *STEPS),
            ("pets.v2", *STEPS, "--seed", 1),
            ("digits", *STEPS),
        )
    ]
    found = [json.loads(one.out) for one in ran]
    assert [run["run"] for run in found] == ["runs/pets.v2", "runs/pets.v2", "runs/pets.v2-2", "runs/digits"]
    assert "run folder: runs/pets.v2-2\n" in ran[2].err
    assert [run["already_finished"] for run in found] == [False, True, False, False]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"request": 1}',
        '{"request": {"data": "digits", "overrides": [], "new": 1}}',
        '{"request": {"data": "digits", "overrides": ["optim.gone=1"]}}',
    ],
)
def test_the_folder_of_another_version_is_passed_over(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/digits").mkdir(parents=True)
    Path("runs/digits/config.json").write_text(text)
    assert default_folder(Request(data="digits")) == Path("runs/digits-2")


def test_a_test_split_selects_no_weights(tmp_path: Path) -> None:
    said = plusx("train", "digits", "--out", tmp_path / "run", *STEPS, "--set", "engine.select=best")
    assert said.code == 1
    assert "engine.select: got best, but there is no val split" in said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ("3 steps of 32 on 1,438 images; weights of the last epoch.", "<dt>loss</dt>")),
        (
            ("--set", "data.val_fraction=0.1"),
            (" images; weights of epoch 1, the best on val.", "<dt>loss, calibrated</dt>"),
        ),
    ],
    ids=["last", "best"],
)
def test_the_report_says_which_weights_it_is_of(words: tuple[str, ...], said: tuple[str, ...], tmp_path: Path) -> None:
    assert plusx("train", "digits", "--out", tmp_path / "run", "--seed", 417, *STEPS, *words).code == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert [text for text in said if text not in page] == []
    assert re.search(r"<dt>training</dt><dd>[0-9]+ s</dd>", page)
    assert '<th scope="row">seed</th><td>417</td>' in page


def test_the_report_has_the_size_of_the_images_and_commands_that_work(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "my pets", {"cat": 5, "dog": 5})
    run = train(str(data), model="resnet8", out=tmp_path / "my run", overrides=OVERRIDES)
    page = html.unescape(run.report.read_text(encoding="utf-8"))
    assert "median image</th><td>8 x 6 px</td>" in page
    assert f"plusx evaluate '{run.folder}' '{data}'" in page
    assert f"plusx predict '{run.folder}' FILES" in page


def test_a_run_is_finished_when_its_report_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = class_folders(tmp_path / "data", {"a": 6, "b": 6})
    with monkeypatch.context() as patch:
        patch.setattr("plusx.finish.build", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(str(data), model="resnet8", out=tmp_path / "run", overrides=OVERRIDES)
    assert not (tmp_path / "run" / "result.json").exists()
    run = train(str(data), model="resnet8", out=tmp_path / "run", overrides=OVERRIDES)
    assert (run.already_finished, run.report.exists()) == (False, True)


@pytest.mark.parametrize("name", ["plain20", "resmlp-2x32", "preresnet20", "resnet18"])
def test_named_networks_start(name: str, tmp_path: Path) -> None:
    words = ("--set", "schedule.steps=2", "--set", "engine.precision=fp32", "--out", tmp_path / "run")
    ran = plusx("train", "digits", "--model", name, *words, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["model"] == name


@pytest.mark.parametrize(("field", "value"), [("norm", "none"), ("norm_order", "after")])
def test_variants_of_networks_reach_the_model_file(field: str, value: str, tmp_path: Path) -> None:
    ran = plusx("train", "digits", "--out", tmp_path / "run", *STEPS, "--set", f"model.{field}={value}")
    assert ran.code == 0, ran.err
    assert package.load(tmp_path / "run").meta["arch"][field] == value


def test_weights_of_a_run_start_another(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"3": 6, "bee": 6})
    assert plusx("train", "digits", "--out", tmp_path / "run", *STEPS).code == 0
    words = ("--weights", tmp_path / "run", "--size", 16, "--set", "data.channels=1", *STEPS)
    ran = plusx("train", data, "--out", tmp_path / "fine", *words)
    assert ran.code == 0, ran.err
    assert "recipe = photo-finetune: weights are given" in ran.err
    assert "tensors loaded" in ran.err
    assert "fc.weight" in ran.err


def test_a_run_goes_on_with_the_network_and_the_pixels_that_its_weights_know(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"3": 6, "bee": 6})
    assert plusx("train", "digits", "--out", tmp_path / "run", *STEPS).code == 0
    few = ("--set", "schedule.steps=2", "--set", "engine.threads=1", "--set", "engine.precision=fp32")
    ran = plusx("train", data, "--out", tmp_path / "fine", "--weights", tmp_path / "run", *few)
    assert ran.code == 0, ran.err
    assert "model.name = resnet8: as the weights were trained" in ran.err
    old, new = (package.load(tmp_path / name) for name in ("run", "fine"))
    assert new.preprocess == old.preprocess
    assert {**new.meta["arch"], "num_classes": 10, "zero_init_last": True} == old.meta["arch"]


def test_weights_of_another_number_of_channels_do_not_normalise(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"3": 6, "bee": 6})
    assert plusx("train", "digits", "--out", tmp_path / "run", *STEPS).code == 0
    words = ("--weights", tmp_path / "run", "--set", "data.channels=3", "--set", "schedule.steps=1")
    ran = plusx("train", data, "--out", tmp_path / "fine", *words)
    assert ran.code == 0, ran.err
    assert "note: mean and standard deviation are the set's own: those of the weights are of 1 channel" in ran.err
    assert len(package.load(tmp_path / "fine").preprocess.mean) == 3


def test_a_run_outlives_the_weights_that_it_started_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in its first checkpoint, from before the first step; the end is that of a run without a stop."""
    data = class_folders(tmp_path / "data", {"3": 6, "bee": 6})
    given = package.train("digits", out=tmp_path / "given", model="resnet8", overrides=OVERRIDES)
    whole = package.train(data, out=tmp_path / "whole", weights=given.folder, overrides=OVERRIDES)

    def stop(*_: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("plusx.engine.trainer.train_step", stop)
        with pytest.raises(ZeroDivisionError):
            package.train(data, out=tmp_path / "cut", weights=given.folder, overrides=OVERRIDES)
    given.folder.rename(tmp_path / "moved")
    run = package.train(data, out=tmp_path / "cut", weights=given.folder, overrides=OVERRIDES)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run.folder, whole.folder))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize(("setting", "wanted"), [("balanced", [24 / 36, 24 / 12]), ("none", None)])
def test_weights_of_classes_are_those_of_the_training_split(
    setting: str, wanted: list[float] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = class_folders(tmp_path / "data", {"many": 22, "rare": 8}), []

    def stop(*given: Any) -> None:
        seen.append(given[-1])
        raise ZeroDivisionError

    monkeypatch.setattr("plusx.engine.trainer.train_step", stop)
    with pytest.raises(ZeroDivisionError):
        package.train(data, out=tmp_path / "run", overrides=(*OVERRIDES, f"optim.class_weights={setting}"))
    assert (seen[0] if wanted is None else seen[0].tolist()) == (wanted and pytest.approx(wanted))


def test_what_the_caller_set_for_pytorch_changes_nothing(tmp_path: Path) -> None:
    picture = photos(tmp_path / "photos", 1, ("a",))

    def all_of_it(name: str) -> tuple[Any, ...]:
        run = train("digits", out=tmp_path / name, model="resnet8", overrides=OVERRIDES)
        return run.final, evaluate(run.folder, "digits").loss, package.load(run.folder).predict(picture, 1)

    wanted = all_of_it("plain")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    try:
        with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
            found = all_of_it("odd")
    finally:
        torch.set_default_dtype(torch.float32)
    assert (found, model_file(tmp_path / "odd")) == (wanted, model_file(tmp_path / "plain"))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ("model.width=8", "schedule.steps=3")
    monkeypatch.chdir(tmp_path)
    run = package.train("digits", out=tmp_path / "run", model="resnet8", overrides=overrides)
    assert isinstance(run, Run)
    assert (run.watched, run.selected, run.n_train, run.n_test) == ("test", "last", 1438, 359)
    first, again = evaluate(run.folder, "digits"), evaluate(run, "digits")
    assert first.top1 == run.final["top1"]
    assert (first, hash(first)) == (again, hash(again))
    assert first.mistakes
    assert "mistakes" not in repr(first)
    assert len({run, run, package.load(run)}) == 2
    assert issubclass(package.Stopped, package.PlusxError)
    assert train("digits", out=tmp_path / "run", model="resnet8", overrides=overrides).already_finished


def test_arrays_are_told_how_they_become_data() -> None:
    for call in (package.train, package.check):
        with pytest.raises(DataError, match=r"data: got a ndarray, expected a path or the name.*numpy\.savez"):
            call(np.zeros((4, 8, 8)))  # type: ignore[arg-type]


def test_a_recipe_and_data_of_ones_own_need_an_entry_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "mine", lambda facts: configs.replace(RECIPES["small"](facts), {"optim.lr": 0.03}))
    monkeypatch.setitem(SOURCES, "cells", SOURCES["digits"])
    for done in (False, True):
        run = train("cells", recipe="mine", model="resnet8", out=tmp_path / "run", overrides=OVERRIDES)
        assert run.already_finished is done
    document = json.loads((run.folder / "config.json").read_text())
    assert (document["request"]["data"], document["request"]["recipe"]) == ("cells", "mine")
    assert document["config"]["optim"]["lr"] == 0.03


def test_a_path_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "digits", {"a": 10, "b": 10})
    monkeypatch.chdir(tmp_path)
    assert list(package.check(Path("digits")).classes) == ["a", "b"]
    run = train(Path("./digits"), model="resnet8", overrides=OVERRIDES)
    assert package.load(run.folder).classes == ("a", "b")
    assert evaluate(run, Path("digits"), split="all").n == 20
    for text in ("./digits/", "digits/"):  # the slash is a shell's completion
        assert train(text, model="resnet8", overrides=OVERRIDES).already_finished
    assert package.check("digits").n == 1797
    with pytest.raises(DataError, match="data: got an empty text"):  # of a variable that is not set
        package.check("")


def test_images_for_whitening_are_read_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = initial.sample
    monkeypatch.setattr(initial, "sample", lambda *given: taken.append(1) or real(*given))
    data = class_folders(tmp_path / "data", {"a": 10, "b": 10})
    given: dict[str, Any] = {"out": tmp_path / "run", "model": "resnet8", "epochs": 2, "size": 8}
    with pytest.raises(Stopped):
        train(data, on_step=lambda step, module: signal.raise_signal(signal.SIGTERM), **given)
    assert taken == [1]
    train(data, **given)  # goes on from a checkpoint, which has the filters
    assert taken == [1]


def test_a_rank_waits_for_what_rank_0_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "SHOWN_SECONDS", 0.5)
    path = tmp_path / "config.json"
    assert not preparing.shown(path, 0)
    with pytest.raises(DataError, match=r"config\.json: rank 0 wrote it, and it is not there\. Give all ranks"):
        preparing.shown(path, 1)
    threading.Timer(0.1, path.touch).start()  # as a network's file system may show it
    assert preparing.shown(path, 1)


def test_auto_is_the_recipes_value_where_nothing_is_chosen(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 10, "b": 10})
    auto = ("engine.batch=auto", "schedule.epochs=auto", "optim.clip_norm=auto", "data.resize=auto")
    run = train(data, out=tmp_path / "run", model="resnet8", epochs=1, size=8, overrides=("engine.batch=auto",))
    document = json.loads((run.folder / "config.json").read_text())
    assert document["config"]["engine"]["batch"] == RECIPES["small"](Facts(**document["facts"])).engine.batch
    assert Request(data="x", overrides=auto).changes() == {"data.resize": None}


def confusion(model: Path, root: Path, paths: Sequence[str]) -> NDArray[np.int64]:
    """What counting the labels of `plusx predict` gives."""
    answers = json.loads(plusx("predict", model, *paths, "--top", 1, "--json").out)
    classes = sorted(p.name for p in root.iterdir())
    table = np.zeros((len(classes), len(classes)), np.int64)
    for answer in answers:
        table[classes.index(Path(answer["path"]).parent.name), classes.index(answer["labels"][0]["label"])] += 1
    return table


@pytest.mark.parametrize("workers", [0, 2])
def test_one_answer_in_training_evaluation_and_prediction(workers: int, tmp_path: Path) -> None:
    """To the image: the run's own count, `plusx evaluate`, and the labels of `plusx predict`, also when all moved."""
    data, out = photos(tmp_path / "photos"), tmp_path / "run"
    before = contents(data)
    ran = plusx("train", data, "--out", out, *PHOTO, "--set", f"data.workers={workers}", "--json")
    assert ran.code == 0, ran.err
    run = json.loads(ran.out)
    held = json.loads((out / "manifest.json").read_text())["splits"]["val"]["examples"]
    n, best = len(held), run["best"]["top1"]
    assert (run["n_val"], n) == (18, 18)
    assert "probabilities are not calibrated: val has 18 images, fewer than 50" in ran.err
    page = html.unescape((out / "report.html").read_text(encoding="utf-8"))
    assert "probabilities are not calibrated: val has 18 images, fewer than 50" in page
    assert 1 / 3 < best < 1, "learnt, and not so easy that every way of counting agrees"
    seen: Evaluation = package.evaluate(out, data)
    told = json.loads(plusx("evaluate", out, data, "--json").out)
    assert (seen.n, seen.top1, seen.split, told["top1"]) == (n, best, "val", best)
    table = confusion(out, data, [str(data / row[0]) for row in held])
    assert np.array_equal(table, seen.confusion)
    assert table.trace() == round(best * n)
    wrong = {(mistake.name, mistake.predicted) for mistake in seen.mistakes}
    assert len(wrong) == n - table.trace()
    copy = Path(shutil.copy(out / "model.safetensors", tmp_path / "elsewhere.safetensors"))
    shutil.rmtree(out)
    moved = Path(shutil.move(data, tmp_path / "moved"))
    again = package.evaluate(copy, moved, split="val")
    assert {(mistake.name, mistake.predicted) for mistake in again.mistakes} == wrong
    assert (again.top1, again.notes) == (seen.top1, seen.notes)
    assert np.array_equal(confusion(copy, moved, [str(moved / row[0]) for row in held]), table)
    answers = package.load(copy).predict([moved / name for name, _ in wrong], top=1)
    assert {a["labels"][0]["label"] for a in answers} == {predicted for _, predicted in wrong}
    assert contents(moved) == before


def noisy(path: Path) -> Path:
    """30 images of three colours in noise to train on, 60 to choose by."""
    draw, arrays = np.random.default_rng(0), {}
    for split, n in (("train", 30), ("val", 60)):
        labels = np.arange(n) % 3
        pixels = draw.integers(0, 200, (n, 8, 8, 3)) + 40 * np.eye(3, dtype=int)[labels][:, None, None]
        arrays |= {f"x_{split}": pixels.astype(np.uint8), f"y_{split}": labels}
    np.savez(path, **arrays)
    return path


def test_images_that_were_trained_on_are_counted_wherever_they_lie_now(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 10, "b": 10})
    run = train(str(data), model="resnet8", out=tmp_path / "run", overrides=OVERRIDES)
    manifest = json.loads((run.folder / "manifest.json").read_text())
    other = class_folders(tmp_path / "other" / "test", {"a": 2, "b": 2}, seed=100)
    for i, (name, *_) in enumerate(manifest["splits"]["train"]["examples"][:3]):
        shutil.copy(data / name, other / "b" / f"copy-{i}.png")
    name, *_ = manifest["splits"]["val"]["examples"][0]
    shutil.copy(data / name, other / "a" / "not-trained-on.png")
    told = f"{run.model_file} was trained on 3 of 8 images: the result is too good"
    assert told in evaluate(run, tmp_path / "other").notes
    assert (
        f"{run.model_file} was trained on 16 of 16 images: the result is too good"
        in evaluate(run, data, split="train").notes
    )
    assert "trained on" not in "".join(evaluate(run, data).notes)
    alone = shutil.copy(run.model_file, tmp_path / "alone.safetensors")
    assert "trained on" not in "".join(evaluate(alone, tmp_path / "other").notes)  # nobody can know
    assert told in evaluate(alone, tmp_path / "other", others=[run]).notes


@pytest.mark.parametrize(("n", "task", "told"), [(49, "single", True), (50, "single", False), (49, "multi", False)])
def test_fifty_images_are_enough_to_calibrate_on(n: int, task: str, told: bool) -> None:
    val = Split("val", np.arange(n) % 2, None, Names("x" * n), np.zeros((n, 1, 2, 2), np.uint8))
    dataset = Dataset("x", "x", ("a", "b"), task, {"val": val})
    assert too_few(dataset) == ("probabilities are not calibrated: val has 49 images, fewer than 50" if told else "")
    assert too_few(dataset.changed(splits={})) == ""


def test_the_model_file_is_calibrated_and_says_what_was_measured(tmp_path: Path) -> None:
    data, out = noisy(tmp_path / "noisy.npz"), tmp_path / "run"
    ran = plusx("train", data, "--out", out, *SMALL, "--epochs", 4, "--set", "engine.batch=10", "--json")
    assert ran.code == 0, ran.err
    classifier, val = package.load(out), open_dataset(str(data), DataConfig()).splits["val"]
    answers = list(predict_logits(classifier.module, EvalLoader(val, classifier.preprocess)))
    logits, targets = (torch.cat([answer[i] for answer in answers]) for i in (0, 1))
    temperature = classifier.meta["temperature"]
    assert temperature == fit_temperature(logits, targets)
    assert abs(temperature - 1) > 0.05
    assert f"probabilities are calibrated on val: temperature {temperature:.2f}" in ran.err
    measured, best = classifier.meta["metrics"], json.loads(ran.out)["best"]
    assert (measured["data"], measured["split"], measured["n"]) == ("noisy", "val", 60)
    assert all(measured[key] == best[key] for key in ("epoch", "top1", "loss"))
    assert measured["top1"] == (logits.argmax(1) == targets).double().mean()


@pytest.mark.parametrize("watched", ["val", "test"])
def test_images_with_several_labels_are_watched_reported_and_not_calibrated(
    watched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, seen = dict(np.load(noisy(tmp_path / "noisy.npz"))), []
    arrays |= {"x_test": arrays["x_val"], "y_test": arrays["y_val"]}
    kept = {name: array for name, array in arrays.items() if watched == "val" or not name.endswith("_val")}
    several = {name: np.eye(3, dtype=np.int64)[array] for name, array in kept.items() if name[0] == "y"}
    np.savez(tmp_path / "several.npz", **(kept | several), classes=["a", "b", "c"])
    monkeypatch.setattr(
        "plusx.finish.evaluate", lambda *_, split, **more: seen.append(split) or evaluate(*_, split=split)
    )
    overrides = (*OVERRIDES, f"data.val_fraction={'auto' if watched == 'val' else 0}")
    run = train(str(tmp_path / "several.npz"), model="resnet8", out=tmp_path / "run", overrides=overrides)
    meta = package.load(run).meta
    assert (meta["task"], meta["temperature"], meta["metrics"]["split"]) == ("multi", None, watched)
    assert (run.watched, run.n_val, run.n_test) == (watched, 60 * (watched == "val"), 60)
    assert seen == [watched]
    page = run.report.read_text(encoding="utf-8")
    assert "<dt>loss</dt>" in page
    kept = f"epoch {run.best['epoch']}, the best on val" if watched == "val" else "the last epoch"
    assert f"weights of {kept}" in page
    assert f"<td>{metadata.version('torch')}</td>" in page


def test_the_order_of_examples_is_a_function_of_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seeds = noisy(tmp_path / "noisy.npz"), []
    monkeypatch.setattr("plusx.run.TrainLoader", lambda *given, **more: seeds.append(more["seed"]) or 1 / 0)
    for seed in (0, 7):
        with pytest.raises(ZeroDivisionError):
            train(str(data), model="resnet8", seed=seed, out=tmp_path / str(seed), overrides=OVERRIDES)
    assert seeds == [0, 7]


def test_images_are_prepared_as_the_data_section_says() -> None:
    data = DataConfig(size=8, resize=9, fit="pad", channels=1, background=7, max_pixels=99)
    rules = plain_preprocess(data)
    assert (rules.size, rules.resize, rules.fit, rules.channels) == (8, 9, "pad", 1)
    assert (rules.background, rules.max_pixels, rules.mean, rules.std) == (7, 99, (0,), (1,))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_threads_and_tensorboard_are_as_they_are_set(tmp_path: Path) -> None:
    data, shared = noisy(tmp_path / "noisy.npz"), ("model.width=8", "engine.precision=fp32", "schedule.steps=1")
    for threads, events in ((2, True), (1, False)):
        overrides = (*shared, f"engine.threads={threads}", f"engine.tensorboard={events}".lower())
        used: list[int] = []
        run = train(
            str(data),
            out=tmp_path / str(threads),
            model="resnet8",
            overrides=overrides,
            on_step=lambda *_, used=used: used.append(torch.get_num_threads()),
        )
        assert used == [threads]
        assert torch.get_num_threads() == 1, "as the caller had it"
        assert len(list(run.folder.glob("tensorboard/events.*"))) == events
        recorded = json.loads((run.folder / "config.json").read_text())["versions"]
        assert recorded["threads"] == str(threads)


def test_the_normalisation_of_imagenet(tmp_path: Path) -> None:
    """The numbers that published weights were trained with."""
    data = photos(tmp_path / "photos", 4)
    ran = plusx("train", data, "--out", tmp_path / "run", *PHOTO, "--set", "data.normalize=imagenet")
    assert ran.code == 0, ran.err
    rules = package.load(tmp_path / "run").preprocess
    assert (rules.mean, rules.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_copies_of_large_photos_live_as_long_as_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept while the run may go on, and gone at its end, which is that of one that was never stopped."""
    monkeypatch.setattr(copies, "RESERVE", 0)
    monkeypatch.setattr(sys.modules[choose.__module__], "RESERVE", 0)
    for i in range(12):
        picture(tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg", i, (192, 128))
    common: dict[str, Any] = {"recipe": "photo", "size": 16, "model": "resnet8", "epochs": 4}
    fields = ("model.width=8", "engine.precision=fp32", "engine.threads=1", "engine.batch=4", "data.workers=1")
    whole = package.train(tmp_path / "photos", out=tmp_path / "whole", **common, overrides=fields)
    assert (
        "data.copies = 32: photos of 192 x 128 px are slow to decode in every epoch; their copies take about"
        in (whole.folder / "log.txt").read_text()
    )

    def stop(step: int, module: object) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        package.train(tmp_path / "photos", out=tmp_path / "run", **common, overrides=fields, on_step=stop)
    assert len(list((tmp_path / "run" / "copies").iterdir())) >= 6  # two of the three steps of ten photos
    package.train(tmp_path / "photos", out=tmp_path / "run", **common, overrides=fields)
    assert not (tmp_path / "run" / "copies").exists()
    assert not (tmp_path / "whole" / "copies").exists()
    assert model_file(tmp_path / "run") == model_file(tmp_path / "whole")
    other = package.train(tmp_path / "photos", out=tmp_path / "no", **common, overrides=(*fields, "data.copies=0"))
    with_copies, without = (package.load(run).module.state_dict() for run in (whole, other))
    assert not torch.equal(with_copies["conv1.weight"], without["conv1.weight"])


def test_a_full_disk_gets_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        picture(tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg", i, (192, 128))
    usage = shutil.disk_usage
    fields = ("model.width=8", "engine.precision=fp32", "engine.batch=4", "data.workers=0")
    for name, free, copies_of in (("full", 5 << 30, 0), ("free", 6 << 30, 32)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(path)._replace(free=free))
        common: dict[str, Any] = {"recipe": "photo", "size": 16, "model": "resnet8", "epochs": 4, "overrides": fields}
        run = package.train(tmp_path / "photos", out=tmp_path / name, **common)
        recorded = json.loads((run.folder / "config.json").read_text())
        assert recorded["config"]["data"]["copies"] == copies_of
        assert recorded["versions"]["simplejpeg"] == metadata.version("simplejpeg")  # which makes them


def test_a_run_decodes_what_it_evaluates_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And once more at its end, as anyone would who has the model file."""
    data, seen = photos(tmp_path / "photos", 4), Counter[str]()
    real = sys.modules[Preprocess.__module__].decode  # type: ignore[attr-defined]

    def counted(source: str, *given: Any, **options: Any) -> Any:
        seen[str(source)] += 1
        return real(source, *given, **options)

    monkeypatch.setattr(sys.modules[Preprocess.__module__], "decode", counted)
    ran = plusx("train", data, "--out", tmp_path / "run", *PHOTO, "--epochs", "4", "--set", "data.workers=0")
    assert ran.code == 0, ran.err
    held = json.loads((tmp_path / "run" / "manifest.json").read_text())["splits"]["val"]["examples"]
    assert len(held) >= 3
    assert [seen[str(data / row[0])] for row in held] == [2] * len(held)


def test_copies_of_data_that_changed_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where size and time of the file that changed say nothing, as on a machine that has not seen it before."""
    monkeypatch.setattr(copies, "RESERVE", 0)
    monkeypatch.setattr(sys.modules[choose.__module__], "RESERVE", 0)
    for i in range(12):
        picture(tmp_path / "photos" / "ab"[i % 2] / f"{i}.bmp", i, (192, 128))
    common: dict[str, Any] = {"out": tmp_path / "run", "recipe": "photo", "size": 16, "model": "resnet8", "epochs": 4}
    common["overrides"] = ("model.width=8", "engine.precision=fp32", "engine.batch=4", "data.workers=0")
    seen: list[dict[str, bytes]] = []

    def stop(step: int, module: object) -> None:
        seen.append({path.name: path.read_bytes() for path in (tmp_path / "run" / "copies").iterdir()})
        os.kill(os.getpid(), signal.SIGTERM)

    for changed in (False, True):
        if changed:
            for path in (tmp_path / "photos").rglob("*.bmp"):
                status = path.stat()
                picture(path, 99 + int(path.stem), (192, 128))
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            monkeypatch.setenv("PLUSX_CACHE", str(tmp_path / "cache"))
        with pytest.raises(Stopped):
            package.train(tmp_path / "photos", accept_data_change=changed, on_step=stop, **common)
    shared = seen[0].keys() & seen[1].keys()
    assert shared
    assert all(seen[0][name] != seen[1][name] for name in shared)


def test_training_says_of_classes_what_check_says(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"rare": 5, "many": 50, "more": 13})
    ran = plusx("train", data, "--out", tmp_path / "run", "--size", 8, *STEPS)
    assert ran.code == 0, ran.err
    few = "1 class with fewer than 10 training images: rare (4)"
    uneven = "uneven classes: many has 40 training images, rare 4; train with --set optim.class_weights=balanced"
    page = html.unescape((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    for text in (few, uneven):
        assert f"note: {text}" in ran.err
        assert text in page
    balanced = ("--set", "optim.class_weights=balanced")
    ran = plusx("train", data, "--out", tmp_path / "balanced", "--size", 8, *STEPS, *balanced)
    assert ran.code == 0, ran.err
    assert "note: uneven classes: many has 40 training images, rare 4\n" in ran.err


def test_workers_do_not_change_the_bits(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos", 6)
    states = []
    for workers in (0, 2):
        ran = plusx("train", data, "--out", tmp_path / str(workers), *PHOTO, "--set", f"data.workers={workers}")
        assert ran.code == 0, ran.err
        states.append(package.load(tmp_path / str(workers)).module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_colour_shifts_are_recorded_and_do_not_change_evaluation(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos", 6)
    for name, words in (("plain", ()), ("own", ()), ("imagenet", ("--set", "augment.colours=imagenet"))):
        shift = () if name == "plain" else ("--set", "augment.colour=0.1")
        ran = plusx("train", data, "--out", tmp_path / name, *PHOTO, *shift, *words)
        assert ran.code == 0, ran.err
    recorded = {n: json.loads((tmp_path / n / "config.json").read_text()) for n in ("plain", "own", "imagenet")}
    assert recorded["plain"]["colours"] is None
    assert recorded["imagenet"]["colours"]["values"] == [0.2175, 0.0188, 0.0045]
    assert recorded["own"]["colours"]["values"] == sorted(recorded["own"]["colours"]["values"], reverse=True)
    assert recorded["own"]["preprocess"] == recorded["plain"]["preprocess"]
    assert model_file(tmp_path / "own") != model_file(tmp_path / "plain")


def test_gray_images_have_no_colours_to_shift(tmp_path: Path) -> None:
    ran = plusx("train", "digits", "--out", tmp_path / "run", *STEPS, "--set", "augment.colour=0.1")
    assert ran.code == 1
    assert "augment.colour: got 0.1, but images have 1 channel" in ran.err


@pytest.mark.parametrize("recipe", ["small", "photo"])
def test_the_mean_image_travels(recipe: str, tmp_path: Path) -> None:
    """Training, evaluation and prediction subtract the same mean image, and the same run continues with it."""
    data, out = photos(tmp_path / "photos", 10), tmp_path / "run"
    command = ("train", data, "--out", out, *PHOTO, "--recipe", recipe, "--set", "data.normalize=pixel")
    ran = plusx(*command)
    assert ran.code == 0, ran.err
    before, classifier = model_file(out), package.load(out)
    rules, record = classifier.preprocess, json.loads((out / "config.json").read_text())
    assert Preprocess.from_dict(record["preprocess"]) == rules
    splits = json.loads((out / "manifest.json").read_text())["splits"]
    plain = Preprocess.from_dict({**rules.to_dict(), "mean": [0.0] * 3, "mean_image": None})
    squares = torch.stack([plain.square(decode(data / row[0])) for row in splits["train"]["examples"]])
    assert rules.mean_pixels is not None
    assert (rules.mean_pixels - squares.double().mean(0)).abs().max() < 1e-7
    assert (rules.mean_pixels.amax((1, 2)) - rules.mean_pixels.amin((1, 2))).min() > 0.02
    held = [row[0] for row in splits["val"]["examples"]]
    seen = package.evaluate(out, data)
    answers = dict(zip(held, classifier.predict([data / name for name in held], top=1), strict=True))
    right = sum(answer["labels"][0]["label"] == Path(name).parent.name for name, answer in answers.items())
    assert seen.top1 == right / len(held) == json.loads((out / "result.json").read_text())["best"]["top1"]
    assert seen.mistakes
    for mistake in seen.mistakes:
        assert answers[mistake.name]["labels"] == [{"label": mistake.predicted, "probability": mistake.probability}]
    (out / "result.json").unlink()
    assert plusx(*command).code == 0
    assert model_file(out) == before


def test_colour_directions_are_of_all_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SAMPLE", 4)
    monkeypatch.setattr(statistics, "SMALL", 16)
    data = photos(tmp_path / "photos", 4)
    words = ("train", data, *PHOTO, "--set", "data.normalize=channel", "--set", "augment.colour=0.1")
    own = plusx(*words, "--out", tmp_path / "own")
    imagenet = plusx(*words, "--out", tmp_path / "imagenet", "--set", "augment.colours=imagenet")
    assert (own.code, imagenet.code) == (0, 0), own.err
    told = "note: mean and standard deviation are of 4 of the "
    assert (told in own.err, told in imagenet.err) == (False, True)


def test_a_network_that_joins_the_table_trains_by_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes by what names of the paper's networks look like: the number in this one is a width."""
    plan = NetworkPlan(
        network=PooledResNet, fixed={"blocks": (1,), "width": 4}, options={}, depth=5, size=8, num_classes=10
    )
    monkeypatch.setitem(FAMILIES, "net", lambda name, rest: plan)
    for recipe in ("small", "cifar10-paper"):
        words = ("schedule.steps=2", "data.val_fraction=0", "data.normalize=channel")
        run = train("digits", model="net640", recipe=recipe, out=tmp_path / recipe, overrides=words)
        config = json.loads((run.folder / "config.json").read_text())["config"]
        assert (config["schedule"]["warmup_error"], config["model"]["whiten_stem"]) == (0, False)
        assert load(run.folder).module.arch["name"] == "net640"


def test_every_file_is_examined_once_where_no_cache_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, examine, seen = class_folders(tmp_path / "data", {"a": 8, "b": 8}), scan._examine, []
    monkeypatch.setenv("PLUSX_CACHE", "/proc/nowhere")
    monkeypatch.setattr(scan, "_examine", lambda path, *rest: seen.append(path) or examine(path, *rest))
    train(str(data), model="resnet8", out=tmp_path / "run", overrides=OVERRIDES)
    assert len(seen) == len(set(seen)) == 16


def test_imagenets_normalisation_is_not_replaced_in_silence(tmp_path: Path) -> None:
    ran = plusx("train", "digits", "--recipe", "photo", "--size", "8", "--out", tmp_path, *STEPS)
    assert "note: mean and standard deviation are the set's own: those of ImageNet are of 3 channels" in ran.err
    assert json.loads((tmp_path / "config.json").read_text())["preprocess"]["mean"] == pytest.approx([0.3055], abs=1e-3)


def test_reading_into_memory_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, int, int]] = []

    @contextmanager
    def counting(self: Log, title: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: shown.append((title, done, total))

    monkeypatch.setattr(Log, "counting", counting)
    train(str(class_folders(tmp_path / "data", {"a": 8, "b": 8})), out=tmp_path / "run", overrides=OVERRIDES)
    assert ("reading images", 16, 16) in shown
    assert ("images into memory", 12, 12) in shown
