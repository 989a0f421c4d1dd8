"""Hostile weights: no code of theirs runs, each is a clear error, nearly all are refused before a process starts."""

import atexit
import contextlib
import functools
import io
import json
import os
import pickle
import pickletools
import random
import re
import resource
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from plusx import pth
from plusx.errors import ModelFileError
from plusx.models import create_model
from plusx.weights import load_weights
from tests.pace import pace

WATCHED = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "exec"} | {
    "socket.connect",
    "socket.__new__",
}
SEEN: list[str] = []  # events of this process while `watching`
watching = False


def watch(event: str, _: tuple[Any, ...]) -> None:
    if watching and event in WATCHED:
        SEEN.append(event)


sys.addaudithook(watch)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@functools.cache
def canary() -> tuple[Path, socket.socket]:
    """What a payload would make, and whom it would call."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    atexit.register(listener.close)
    return Path(tempfile.gettempdir()) / f"plusx-canary-{os.getpid()}", listener


def payloads() -> dict[str, Any]:
    """Objects whose unpickling makes the canary file or calls the canary socket."""
    path, listener = canary()
    code = f"open({str(path)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, f"touch {path}"),
        "exec": Call(exec, code),
        "eval": Call(eval, f"open({str(path)!r}, 'w')"),
        "open": Call(open, str(path), "w"),
        "Popen": Call(subprocess.Popen, ["touch", str(path)]),
        "socket": Call(socket.create_connection, listener.getsockname()),
        "chain": Call(getattr, Call(__import__, "os"), "system"),
        "partial": functools.partial(os.system, f"touch {path}"),
        "torch.load": Call(torch.load, str(path)),
        "torch.hub.load": Call(torch.hub.load, str(path), "x"),
        "_load_from_bytes": Call(torch.storage._load_from_bytes, pickle.dumps(Call(exec, code))),
        "in a state_dict": OrderedDict({"conv1.weight": torch.ones(2), "x": Call(exec, code)}),
    }


def archive(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)
        file.comment = comment
    return out.getvalue()


def good(archived: bool = True, value: Any = None) -> bytes:
    out = io.BytesIO()
    torch.save(
        {"bn1.weight": torch.full((4,), 2.0)} if value is None else value, out, _use_new_zipfile_serialization=archived
    )
    return out.getvalue()


def legacy(place: int) -> bytes:
    """A file of PyTorch before 1.6 whose n-th pickle calls."""
    rest = [pickle.dumps(part, 2) for part in (1001, {}, {}, [])]
    rest[place] = pickle.dumps(payloads()["exec"], 2)
    return pth.LEGACY + b"".join(rest)


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(payloads()["exec"], 2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def changed(content: bytes, start: bytes, offset: int, value: bytes) -> bytes:
    """A copy with other bytes at an offset from each place where `start` stands."""
    parts = content.split(start)
    return start.join([parts[0], *(p[: offset - 4] + value + p[offset - 4 + len(value) :] for p in parts[1:])])


def tensors_file(header: str) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode()


def sparse(start: bytes) -> Callable[[Path], None]:
    """A file of 1 TB with nothing in it."""

    def write(path: Path) -> None:
        path.write_bytes(start)
        os.truncate(path, 1 << 40)

    return write


PKL = "archive/data.pkl"


def hostile() -> dict[str, tuple[bytes | Callable[[Path], Any], str]]:
    """Name -> content of the file, or what writes it, and what the error says."""
    evil = {name: pickle.dumps(value, 2) for name, value in payloads().items()}
    wrap = pickle.dumps({}, 2)
    asks = "it asks for "
    one = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    stray = "a pickle that torch.save did not write"
    files: dict[str, tuple[bytes | Callable[[Path], Any], str]] = {}
    for name, content in evil.items():
        files[f"zip, {name}"] = archive((PKL, content)), asks
    for place, name in enumerate(("version", "machine", "tensors", "keys")):
        files[f"legacy, {name}"] = legacy(place), asks + r"builtins\.exec|" + asks + r"__builtin__\.exec"
    files |= {
        "bare pickle": (evil["exec"], stray),
        "bare pickle, protocol 0": (pickle.dumps(payloads()["exec"], 0), "not a safetensors file"),
        "bare pickle, protocol 4": (pickle.dumps(payloads()["exec"], 4), stray),
        "bare pickle, protocol 5": (pickle.dumps(payloads()["exec"], 5), stray),
        "joblib-like": (pickle.dumps(payloads()["chain"], 4).replace(b"getattr", b"NumpyAr"), stray),
        "zip, protocol 4": (archive((PKL, pickle.dumps(payloads()["exec"], 4))), "is FRAME, which weights do not need"),
        "zip, a function of torch": (archive((PKL, b"\x80\x02ctorch\nload\n.")), asks + r"torch\.load"),
        "zip, INST": (archive((PKL, b"\x80\x02(S'id'\nios\nsystem\n.")), "is (STRING|INST), which"),
        "zip, OBJ": (archive((PKL, b"\x80\x02(cos\nsystem\no.")), asks + r"os\.system"),
        "zip, EXT1": (archive((PKL, b"\x80\x02\x82\x01.")), "is EXT1, which"),
        "zip, PERSID": (archive((PKL, b"\x80\x02Pos.system\n.")), "is PERSID, which"),
        "zip, 2 GB text": (archive((PKL, b"\x80\x02X\xff\xff\xff\x7fabc")), "its pickle is cut off"),
        "zip, 200,000 texts": (archive((PKL, b"\x80\x02" + b"X\0\0\0\0" * 200_000 + b".")), "over 40,000 names and"),
        "zip, 1.4 M opcodes": (archive((PKL, b"\x80\x02" + b"K\0N" * 690_000)), "its pickle is cut off"),
        "zip, no text": (archive((PKL, b"\x80\x02X\1\0\0\0\xff.")), "can't decode byte 0xff"),
        "zip, never stops": (archive((PKL, b"\x80\x02N")), "its pickle is cut off"),
        "zip, two pickles": (archive((PKL, wrap), ("archive/other.pkl", evil["exec"])), "2 pickles"),
        "zip, TorchScript": (archive((PKL, wrap), ("archive/constants.pkl", wrap)), "2 pickles"),
        "zip, no pickle": (archive(("a", b"b")), "0 pickles"),
        "zip, bomb": (archive((PKL, bytes(100 << 20)), compression=zipfile.ZIP_DEFLATED), "data.pkl, under 2 MB"),
        "zip, other bomb": (
            archive((PKL, wrap), ("data/0", bytes(100 << 20)), compression=zipfile.ZIP_DEFLATED),
            "compressed, encrypted",
        ),
        "zip, encrypted": (changed(archive((PKL, wrap)), b"PK\x01\x02", 8, b"\x01"), "compressed, encrypted"),
        "zip, big pickle": (archive((PKL, bytes(3 << 20))), "1 pickles, expected data.pkl, under 2 MB"),
        "zip, 8,000 entries": (archive((PKL, evil["exec"]), *((str(i), b"") for i in range(8_000))), asks),
        "zip, 30,000 entries": (archive((PKL, wrap), *((f"{i}", b"") for i in range(30_000))), "a directory of"),
        "zip, 64-bit directory": (good()[:-58] + struct.pack("<Q", 1 << 40) + good()[-50:], "a directory of 1,099"),
        "zip, overlap": (
            changed(archive((PKL, wrap), ("data/0", b"abcd")), b"PK\x01\x02", 20, struct.pack("<LL", 9999, 9999)),
            "overlapping",
        ),
        "zip, comment": (archive((PKL, wrap), comment=b"x"), "cut off, with a comment"),
        "zip, cut off": (good()[:-1], "cut off, with a comment"),
        "zip, magic alone": (b"PK", "cut off, with a comment"),
        "tar": (tar(), "not a safetensors file"),
        "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "not a safetensors file"),
        "page of an error": (b"<!DOCTYPE html><html>not found</html>", "not a safetensors file"),
        "pointer of git": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "not a safetensors file"),
        "empty": (b"", "the file is empty"),
        "1 TB zip": (sparse(b"PK\x03\x04"), "got 1,099,511,627,776 bytes, expected at most"),
        "1 TB tensors": (sparse(tensors_file("{}")), "a file of 1099511627776 bytes|cut off"),
        "pipe": (os.mkfifo, "not a regular file"),
        "folder": (Path.mkdir, "a folder without"),
        "tensors, header of 2^63": ((1 << 63).to_bytes(8, "little") + b"{" + bytes(99), "cut off or damaged"),
        "tensors, deep JSON": (tensors_file('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "damaged header"),
        "tensors, wide JSON": (tensors_file('{"a":[' + "0," * 400_000 + "0]}"), "too many values"),
        "tensors, name twice": (tensors_file(f"{{{one},{one}}}") + b"1", "stands twice"),
        "tensors, overlap": (tensors_file(f"{{{one},{one.replace('a', 'b', 1)}}}") + b"1", "overlaps"),
        "tensors, unknown dtype": (tensors_file(f"{{{one.replace('U8', 'OBJ')}}}") + b"1", "unknown dtype"),
        "tensors, NaN": (
            lambda path: save_file({"bn1.weight": torch.full((4,), float("nan"))}, path),
            "bn1.weight holds NaN or infinity",
        ),
    }  # fmt: skip
    return files


FILES = hostile()


def refused(path: Path) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        load_weights(create_model("resnet8", 3, width=4), path)
    assert path.name in caught.value.message
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(autouse=True)
def _no_code_runs() -> Iterator[None]:
    path, listener = canary()
    pth.look(io.BytesIO(archive((PKL, pickle.dumps({}, 2)))), path)  # what zipfile imports late is not the files' doing
    yield
    made = path.exists()
    path.unlink(missing_ok=True)
    assert not made
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("kind", FILES)
def test_hostile_files_are_refused_fast_and_here(kind: str, tmp_path: Path) -> None:
    global watching
    content, message = FILES[kind]
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    network = create_model("resnet8", 3, width=4)
    SEEN.clear()
    memory, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    watching = True
    try:
        for _ in range(3):  # once Python may collect the garbage of all tests before
            start = time.process_time()
            with pytest.raises(ModelFileError, match=message) as caught:
                load_weights(network, path)
            seconds.append(time.process_time() - start)
    finally:
        watching = False
    assert min(seconds) < 4 * pace()  # a tenth of a second
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000  # kB
    assert SEEN == []
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_the_files_are_many_and_the_payloads_work() -> None:
    assert len(FILES) >= 50
    path, listener = canary()
    for name in ("os.system", "exec", "eval", "open", "Popen", "_load_from_bytes", "in a state_dict"):
        with contextlib.suppress(RuntimeError):  # after it ran, PyTorch finds that it is no state_dict
            result = pickle.loads(pickle.dumps(payloads()[name], 2))
            with result if name in ("eval", "open", "Popen") else contextlib.nullcontext():
                pass
        assert path.exists(), name
        path.unlink()
    pickle.loads(pickle.dumps(payloads()["socket"], 2)).close()
    listener.accept()[0].close()


@pytest.mark.parametrize("archived", [True, False])
def test_damage_never_leads_to_anything_but_a_clear_error(archived: bool, tmp_path: Path) -> None:
    draw, whole, path = random.Random(0), good(archived), tmp_path / "w.pth"
    for _ in range(500):
        content = bytearray(whole[: draw.choice((len(whole), draw.randrange(2, len(whole))))])
        for _ in range(draw.randrange(4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        try:
            pth.look(io.BytesIO(content), path)
        except ModelFileError:
            continue
        asked = [a.split() for o, a, _ in opcodes(bytes(content), archived) if o.name == "GLOBAL"]
        assert all(pth.GLOBALS.fullmatch("c{}\n{}\n".format(*words).encode()) for words in asked)


ALLOWED = re.compile(
    "PROTO|STOP|MARK|GLOBAL|REDUCE|BUILD|NEWOBJ|APPENDS?|SETITEMS?|NONE|NEWTRUE|NEWFALSE|TUPLE[123]?|BINPERSID"
    "|EMPTY_(TUPLE|LIST|DICT|SET)|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|SHORT_BINSTRING|(LONG_)?BIN(PUT|GET)"
)


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_instructions_are_as_long_as_python_reads_them(opcode: pickletools.OpcodeInfo) -> None:
    argument = {None: b"", "stringnl_noescape_pair": b"torch\nSize\n"}.get(
        opcode.arg and opcode.arg.name, b"\2" + bytes(7)
    )
    one = opcode.code.encode("latin-1") + argument
    if not ALLOWED.fullmatch(opcode.name):
        with pytest.raises(ValueError, match=f"byte 0 of its pickle is {opcode.name}, which"):
            pth._look_at_pickle(one + b".")
        return
    length = len(one) if opcode.arg is None or opcode.arg.n < 0 else 1 + opcode.arg.n
    length = {"LONG1": 4, "SHORT_BINSTRING": 4, "BINUNICODE": 7}.get(opcode.name, length)
    assert pth._look_at_pickle(one[:length] + b".") == length + (opcode.name != "STOP")


def test_the_deepest_network_of_the_paper_is_let_in(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: value.dim() for name, value in create_model("resnet1202", 10).state_dict().items()}
    file = io.BytesIO()
    torch.save({name: torch.zeros((1,) * dimensions) for name, dimensions in shapes.items()}, file)
    assert len(shapes) > 7_000
    pth.look(file, tmp_path / "resnet1202.pth")


def opcodes(content: bytes, archived: bool) -> Any:
    if not archived:
        return pickletools.genops(content[content.index(b"}", 21) :])
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return list(pickletools.genops(file.read(next(n for n in file.namelist() if n.endswith(".pkl")))))


def test_what_the_import_may_not_do() -> None:
    """The confinement alone, without PyTorch: whatever a file led to would meet it."""
    code = f"""
import json, os, socket, subprocess, sys
sys.path.insert(0, {str(Path(pth.__file__).parent)!r})
import pth_import
pth_import.confine(0)
def tried(action):
    try:
        action()
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"
    return "done"
actions = [
    lambda: open("/etc/passwd"), lambda: open("canary", "w"), lambda: socket.socket(), lambda: os.system("true"),
    lambda: subprocess.run(["true"]), lambda: os.fork(), lambda: exec("1"), lambda: __import__("wave"),
    lambda: os.listdir("/"), lambda: os.remove("canary"), lambda: bytearray(2 << 30),
]
print(json.dumps([tried(action) for action in actions]))
"""
    ran = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    *events, memory = json.loads(ran.stdout)
    assert all(event.startswith("RuntimeError: refused, it led to ") for event in events), events
    assert memory.startswith("MemoryError")


def test_what_only_the_import_can_see_is_refused_there(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    huge = good(value={"bn1.weight": torch.zeros(1).expand(1 << 42)})
    path.write_bytes(huge)
    pth.look(io.BytesIO(huge), path)
    assert "cannot be imported: RuntimeError: " in str(refused(path))
    path.write_bytes(good(value=[torch.ones(1)]))
    assert "cannot be imported: TypeError: it holds list, expected a state_dict" in str(refused(path))


def test_an_import_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pth, "DEADLINE", 0.05)
    (tmp_path / "w.pth").write_bytes(good())
    assert "cannot be imported: it took over 0 s" in str(refused(tmp_path / "w.pth"))


@pytest.mark.parametrize("archived", [True, False])
def test_state_dicts_come_in_from_what_programs_wrap_them_in(archived: bool, tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    state = OrderedDict(
        {"a": shared, "b": shared, "c": shared[::2], "d": torch.nn.Parameter(shared), "n": torch.tensor(7)}
    )
    state |= {"half": shared.half(), "many": torch.ones(2, dtype=torch.complex64), "text": "x", 3: shared}
    path = tmp_path / "w.ckpt"
    path.write_bytes(good(archived, {"epoch": 3, "model": {"state_dict": state, "lr": 0.1}}))
    tensors, skipped = pth.read(path)
    assert {name: (t.tolist(), t.dtype) for name, t in tensors.items()} == {
        name: (state[name].tolist(), state[name].dtype) for name in ("a", "b", "c", "d", "n", "half")
    }
    assert skipped == {
        "epoch": "int",
        "lr": "float",
        "many": "complex64",
        "text": "str",
        "a key that is int": "float32",
    }
