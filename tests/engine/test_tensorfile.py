"""Tensor files: whole or refused, whatever happened to them."""

import hashlib
import json
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from plusx.engine import tensorfile
from plusx.errors import ModelFileError, TrainingError
from tests.pace import pace


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {
        "b.weight": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last),
        "a": torch.tensor(7),
        "empty": torch.zeros(0, 5),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
    }


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def entry(shape: object, offsets: object, dtype: str = "F32") -> bytes:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


HOSTILE = {
    "empty": b"",
    "header of 2^63": raw(b"{}", length=2**63),
    "header over the limit": raw(b"{" + b" " * (5 << 20)),
    "deep": raw(b"{" + b'"a":[' * 50_000),
    "deep and short": raw(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "wide": raw(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}"),
    "numbers": raw(b'{"a":[' + b"300," * 1_000_000 + b"0]}"),
    "huge number": raw(entry([1], [0, 4]).replace(b"[0, 4]", b"[0, " + b"9" * 100_000 + b"]"), bytes(4)),
    "duplicate key": raw(b'{"a":1,"a":2}'),
    "list": raw(b"[]"),
    "unknown dtype": raw(entry([1], [0, 4], "F99"), bytes(4)),
    "negative": raw(entry([-1], [0, -4])),
    "shape of another size": raw(entry([10**9, 10**9], [0, 4]), bytes(4)),
    "empty, of strides that overflow": raw(entry([0, 1 << 39, 1 << 39], [0, 0])),
    "true": raw(entry([True], [0, 4]), bytes(4)),
    "nine axes": raw(entry([1] * 9, [0, 4]), bytes(4)),
    "gap": raw(entry([1], [4, 8]), bytes(8)),
    "more than it says": raw(entry([1], [0, 4]), bytes(5)),
    "overlap": raw(
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        bytes(3),
    ),
    "metadata": raw(b'{"__metadata__":{"a":1}}'),
    "metadata list": raw(b'{"__metadata__":[]}'),
    "not UTF-8": raw(b'{"\xff":1}'),
    "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n",
    "zip": b"PK\x03\x04" + bytes(100),
    "text": b"<html>not found</html>",
}


def test_round_trip_is_exact_and_readable_by_others(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "x.safetensors"
    tensorfile.write(path, tensors, {"k": "ü\n"})
    back, metadata = tensorfile.read(path)
    assert metadata == {"k": "ü\n"}
    others = safetensors.torch.load_file(path)
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)
        assert torch.equal(others[name], tensor)
        assert back[name].dtype == tensor.dtype
    assert tensorfile.digest(back) == tensorfile.digest(tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_others_may_read_what_the_user_lets_them_read(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    previous = os.umask(0o022)
    try:
        tensorfile.write(tmp_path / "t.safetensors", tensors, {})
    finally:
        os.umask(previous)
    assert (tmp_path / "t.safetensors").stat().st_mode & 0o777 == 0o644


def test_digest_is_what_its_definition_says() -> None:
    tensors = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3)}
    text = b'["a","I64",[]]\n' + (3).to_bytes(8, "little")
    text += b'["b","F32",[1,2]]\n' + bytes.fromhex("0000803f00000040")
    assert tensorfile.digest(tensors) == hashlib.sha256(text).hexdigest()
    assert tensorfile.digest(tensors | {"b": torch.tensor([[1.0], [2.0]])}) != tensorfile.digest(tensors)


def test_every_truncation_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "x.safetensors"
    tensorfile.write(path, tensors, {})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError):
            tensorfile.read(path)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_fast(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[kind])
    start = time.process_time()
    with pytest.raises(ModelFileError) as error:
        tensorfile.read(path)
    assert time.process_time() - start < 4 * pace()  # a tenth of a second
    assert str(path) in error.value.message
    assert len(str(error.value)) < 600


def test_a_sparse_terabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = entry([2**38], [0, 2**40])
    with path.open("wb") as file:
        file.write(raw(header))
        file.truncate(8 + len(header) + 2**40)
    with pytest.raises(ModelFileError, match="more than any model"):
        tensorfile.read(path)


def test_pipes_devices_and_folders_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ModelFileError, match="not a regular file"):
            tensorfile.read(path)
    with pytest.raises(ModelFileError, match="cannot be read"):
        tensorfile.read(tmp_path / "none")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100))
    with pytest.raises(TrainingError, match=r"disk full, needs \d{3} bytes, 100 bytes free"):
        tensorfile.write(tmp_path / "x", {"a": torch.ones(2)}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    path = tmp_path / "x"
    tensorfile.write(path, {"a": torch.ones(2)}, {})

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(TrainingError, match="Input/output error"):
        tensorfile.write(path, {"a": torch.zeros(2)}, {})
    assert torch.equal(tensorfile.read(path)[0]["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(("value", "text"), [(2.0, "b"), (1.0, "c")])
def test_a_disk_that_returns_other_bits_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, text: str
) -> None:
    other = {"a": torch.full((2,), value)}
    monkeypatch.setattr(tensorfile, "save_file", lambda _, p, __: safetensors.torch.save_file(other, p, {"k": text}))
    with pytest.raises(TrainingError, match="did not return what was written"):
        tensorfile.write(tmp_path / "x", {"a": torch.ones(2)}, {"k": "b"})
    assert not list(tmp_path.iterdir())


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    tensorfile.write(path, {"a": torch.ones(100_000)}, {})
    with tensorfile.opened(path) as file:
        header = tensorfile.read_header(file, path)
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(ModelFileError, match="a: the file became shorter while it was read"):
            tensorfile.read_tensors(file, header)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("w", float("nan"), "w holds NaN or infinity"),
        ("w", float("-inf"), "w holds NaN or infinity"),
        ("w", -1e38, "w holds -1e.38, more than"),
        ("bn1.running_var", -1.0, "bn1.running_var holds a negative variance"),
    ],
)
def test_unusable_values_are_named(name: str, value: float, words: str) -> None:
    import re

    assert re.match(words, tensorfile.unusable({"a": torch.ones(2), name: torch.tensor([1.0, value])}))
    assert tensorfile.unusable({"a": torch.ones(2), "n": torch.tensor(3)}) == ""
