"""Checkpoint files: verified, two kept, never half, never NaN."""

import errno
import os
import random
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plusx.engine import checkpoint, tensorfile
from plusx.errors import ModelFileError, TrainingError


def tensors(value: float = 1.0) -> dict[str, Tensor]:
    return {
        "model/w": torch.full((3, 4), value),
        "model/n": torch.tensor(7),
        "running/totals": torch.arange(6),
        "model/cl": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_round_trip(tmp_path: Path) -> None:
    saved = tensors()
    document = {"position": {"step": 3, "rows": [{"loss": 0.1}]}, "steps_per_epoch": 5}
    path = checkpoint.save(tmp_path / "new", 3, document, saved)
    found = checkpoint.load(path)
    assert found.document == {"format": 1, **document}
    assert found.tensors.keys() == saved.keys()
    assert all(torch.equal(saved[k], v) and saved[k].dtype == v.dtype for k, v in found.tensors.items())


def test_a_run_folder_that_is_gone_does_not_come_back_as_a_half(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="gone/checkpoints: cannot be changed: No such file"):
        checkpoint.save(tmp_path / "gone" / "checkpoints", 3, {}, tensors())
    assert list(tmp_path.iterdir()) == []


def test_two_are_kept_newest_by_step_whatever_the_clock_says(tmp_path: Path) -> None:
    for step in (5, 10, 999_999, 1_000_000):
        path = checkpoint.save(tmp_path, step, {}, tensors())
        os.utime(path, (2e9 - step, 2e9 - step))
    assert names(tmp_path) == ["step-000999999.safetensors", "step-001000000.safetensors"]
    found, notes = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.path == path
    assert notes == []


def test_only_what_is_older_is_removed(tmp_path: Path) -> None:
    for step in (5, 10, 3):
        checkpoint.save(tmp_path, step, {}, tensors())
    assert [int(name[5:14]) for name in names(tmp_path)] == [3, 5, 10]


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) == checkpoint.newest(tmp_path / "none") == (None, [])
    checkpoint.clean(tmp_path / "none")


def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, {"position": {}}, tensors())
    whole = path.read_bytes()
    draw = random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [draw.randrange(header * 8) for _ in range(200)] + [draw.randrange(len(whole) * 8) for _ in range(200)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            checkpoint.load(path)
    path.write_bytes(whole)
    checkpoint.load(path)


def test_every_truncation_is_detected(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, {}, tensors())
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 100)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            checkpoint.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelFileError):
        checkpoint.load(path)


def test_a_damaged_newest_gives_way_to_the_one_before_and_says_so(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"step": step}, tensors(step))
    newest = tmp_path / "step-000000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    found, notes = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.document["step"] == 1
    assert len(notes) == 1
    assert "step-000000002.safetensors" in notes[0]
    assert notes[0].endswith("Using step-000000001.safetensors.")
    # The damaged one is out of the way: the next save keeps the good one.
    checkpoint.save(tmp_path, 3, {}, tensors())
    assert names(tmp_path) == [
        "step-000000001.safetensors",
        "step-000000002.damaged",
        "step-000000003.safetensors",
    ]


def test_nothing_whole_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {}, tensors()).write_bytes(b"")
    with pytest.raises(ModelFileError, match=rf"none of 2 checkpoints .* Delete {tmp_path} to start again"):
        checkpoint.newest(tmp_path)
    assert len(checkpoint.stored(tmp_path)) == 2


def test_a_disk_that_fails_costs_no_checkpoint_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {}, tensors())
    before, real = names(tmp_path), Path.open

    def failing(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "step-000000002.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        with pytest.raises(ModelFileError, match=r"step-000000002.safetensors: cannot be read: Input/output error"):
            checkpoint.newest(tmp_path)
    assert names(tmp_path) == before


def test_a_run_may_have_been_evaluated_after_each_of_its_steps(tmp_path: Path) -> None:
    row = dict.fromkeys(("step", "epoch", "split", "loss", "top1", "top5", "lr", "images_per_second", "seconds"), 0.5)
    document = {"rows": [row] * 128_000}
    checkpoint.save(tmp_path, 64_000, document, tensors())
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.document["rows"] == document["rows"]


def test_a_later_format_and_a_foreign_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    path = checkpoint.save(tmp_path, 1, {}, tensors())
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(ModelFileError, match="format 2, this version reads 1"):
        checkpoint.load(path)
    plain = tensors()
    tensorfile.write(path, plain, {"sha256": tensorfile.digest(plain)})
    with pytest.raises(ModelFileError, match="not a checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_never_written(tmp_path: Path, value: float) -> None:
    checkpoint.save(tmp_path, 1, {}, tensors())
    with pytest.raises(TrainingError, match=r"step 2: no checkpoint is written, model/w holds NaN or infinity"):
        checkpoint.save(tmp_path, 2, {}, tensors(value))
    assert names(tmp_path) == ["step-000000001.safetensors"]


def test_a_full_disk_is_seen_before_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {}, tensors())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 300))
    with pytest.raises(TrainingError, match=r"step-000000002.*disk full, needs [\d,]+ bytes, 300 bytes free"):
        checkpoint.save(tmp_path, 2, {}, tensors())
    assert names(tmp_path) == ["step-000000001.safetensors"]


@pytest.mark.parametrize(("call", "when"), [("fsync", 1), ("fsync", 2), ("fsync", 3), ("replace", 1)])
@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE])
def test_a_failing_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, when: int, error: int
) -> None:
    checkpoint.save(tmp_path, 1, {}, tensors())
    real, count = getattr(os, call), iter(range(1, 100))

    def failing(*arguments: object) -> None:
        if next(count) == when:
            raise OSError(error, os.strerror(error))
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(TrainingError, match=rf"cannot be written: .*{os.strerror(error)}; it needs [\d,]+ bytes"):
            checkpoint.save(tmp_path, 2, {}, tensors())
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    assert not [name for name in names(tmp_path) if "tmp" in name]


@pytest.mark.parametrize("call", ["mkdir", "unlink"])
def test_a_folder_that_cannot_be_changed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {}, tensors())

    def failing(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, failing)
        with pytest.raises(TrainingError, match=f"{tmp_path}: cannot be changed: Input/output error"):
            checkpoint.save(tmp_path, 3, {}, tensors())
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {}, tensors())
    for name in (".step-000000002.safetensors.tmp", ".tmpAbC123"):
        (tmp_path / name).write_bytes(b"half")
    assert checkpoint.newest(tmp_path)[0] is not None
    checkpoint.clean(tmp_path)
    assert names(tmp_path) == ["step-000000001.safetensors"]
