"""What `torch.save` writes, a `.pth` file, read without ever unpickling it in this process.

Such a file is a pickle, a small program that may call anything, with tensors beside it. It is looked at first, which
runs nothing and refuses all that weights do not need; then `pth_import` turns it into safetensors in a process of its
own, and what comes back passes every check of `tensorfile`.
"""

import hashlib
import io
import json
import pickletools
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO

import safetensors
import torch
from torch import Tensor

from plusx.engine import tensorfile
from plusx.errors import ModelFileError
from plusx.text import show

MAX_FILE = 2 << 30  # bytes
MAX_DIRECTORY = 1 << 19  # bytes of an archive's list of entries, one a tensor; ResNet-152 has 58,000
MAX_PICKLE = 2 << 20  # bytes without the tensors; ResNet-1202 has 910,000
MAX_TEXTS = 40_000  # names and texts in a pickle; ResNet-1202 has 18,000
DEADLINE = 300.0  # seconds
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number that PyTorch before 1.6 began its files with
LEGACY_PICKLES = 4  # that follow it: version, machine, tensors, keys
# All that `weights_only=True` understands, by letters of the pickle format: what has a fixed length, name by name, and
# what brings its own (a short integer, a short and a long text).
FIXED = re.compile(rb"(?s:[()}\]NQRabestu\x81\x85-\x89\x8f]++|[Khq\x80].|M.{2}|[Jjr].{4}|G.{8})*+")
LENGTHS = {b"\x8a": 1, b"U": 1, b"X": 4}  # bytes that tell how many follow
GLOBALS = re.compile(
    rb"c(?:collections\nOrderedDict|torch\._utils\n_rebuild_(?:tensor|tensor_v2|parameter)"
    rb"|torch\.nn\.parameter\nParameter|torch\n(?:\w+Storage|Size|device|(?:b?float|u?int)\d+))\n"
)
HINT = "Where you trust it, save the weights alone: safetensors.torch.save_file(state_dict, 'weights.safetensors')."


def is_pickled(path: Path) -> bool:
    """Whether a file begins as a pickle or a zip archive.

    Raises:
        ModelFileError: it cannot be read.
    """
    with tensorfile.opened(path) as file:
        start = file.read(9)
    return start[8:] != b"{" and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read(path: Path, digits: str = "", sha256: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a `.pth` file by name, and by name what else stands between them and is left out.

    Arguments:
        path: the file.
        digits: what the SHA-256 of its bytes begins with; those that are checked are those that are imported.
        sha256: all of it.

    Raises:
        ModelFileError: damaged, not written by `torch.save`, or with anything but tensors and plain containers.
    """
    with tensorfile.opened(path) as file:
        if not digits:  # a stranger's file is looked at before memory is taken for it
            look(file, path)
            file.seek(0)
        content = file.read(MAX_FILE)
    found = hashlib.sha256(content).hexdigest()
    if digits and not (found == sha256 and found.startswith(digits)):
        message = f"{path}: got the SHA-256 {found}, expected {show(sha256)[:64]} and {digits} first."
        raise ModelFileError(message, "Delete the file to get it again.")
    with tempfile.TemporaryDirectory(prefix="plusx-") as folder:
        out = Path(folder) / "weights.safetensors"
        if problem := _import(content, out):
            raise ModelFileError(f"{path}: cannot be imported: {problem}.", HINT)
        tensors, text = tensorfile.read(out)
    if problem := tensorfile.unusable(tensors):
        raise ModelFileError(f"{path}: refused, {problem}.", "Get the weights from elsewhere.")
    return tensors, json.loads(text["skipped"])


def look(file: BinaryIO, path: Path) -> None:
    """Refuse a file that asks for more than weights need; runs nothing and decompresses nothing.

    Raises:
        ModelFileError: what it asks for, or how it differs from what `torch.save` writes.
    """
    try:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        start = file.read(len(LEGACY))
        if size > MAX_FILE:
            raise ValueError(f"got {size:,} bytes, expected at most {MAX_FILE:,}")
        if start[:2] == b"PK":
            _look_at_pickle(_pickle_of_archive(file, size))
            return
        if start != LEGACY:
            raise ValueError("a pickle that torch.save did not write")
        pickles, at = file.read(MAX_PICKLE), 0
        for _ in range(LEGACY_PICKLES):
            at = _look_at_pickle(pickles, at)
    except Exception as error:  # a stranger's file may lead the two parsers anywhere
        reason = show(str(error))[:200]
        raise ModelFileError(f"{path}: not opened, it is damaged or can run code: {reason}.", HINT) from error


def _pickle_of_archive(file: BinaryIO, size: int) -> bytes:
    """The one pickle of an archive of plain, uncompressed, separate entries."""
    file.seek(max(0, size - 98))
    tail = file.read().rjust(98)
    directory = int.from_bytes(tail[-10:-6], "little")
    if tail[56:60] == b"PK\x06\x07":  # a second, 64-bit size, which a reader believes instead
        directory = max(directory, int.from_bytes(tail[40:48], "little"))
    if tail[-22:-18] != b"PK\x05\x06" or tail[-2:] != b"\0\0" or directory > MAX_DIRECTORY:
        raise ValueError(f"a zip archive cut off, with a comment, or with a directory of {directory:,} bytes")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        pickles = [e for e in entries if e.filename.endswith(".pkl")]
        if [e.filename[-9:] for e in pickles] != ["/data.pkl"] or pickles[0].file_size > MAX_PICKLE:
            raise ValueError(f"a zip archive with {len(pickles)} pickles, expected data.pkl, under 2 MB")
        plain = all(e.compress_type == e.flag_bits & 1 == 0 and e.compress_size == e.file_size for e in entries)
        separate = len({e.filename for e in entries}) == len(entries) and sum(e.file_size for e in entries) <= size
        if not plain or not separate:
            raise ValueError("a zip archive with compressed, encrypted, overlapping or repeated entries")
        return archive.read(pickles[0])


def _look_at_pickle(data: bytes, at: int = 0) -> int:
    """Read the instructions of the pickle that begins there; where it ends."""
    for _ in range(MAX_TEXTS):
        at = _end(FIXED, data, at)
        code = data[at : at + 1]
        if code == b".":
            return at + 1
        if code in LENGTHS:
            start = at + 1 + LENGTHS[code]
            at = start + int.from_bytes(data[at + 1 : start], "little")
            if code == b"X":
                data[start:at].decode(errors="surrogatepass")  # what fails later fails here
        elif code == b"c":
            if (end := _end(GLOBALS, data, at)) == at:
                asked = data[at + 1 : at + 500].decode(errors="replace").split("\n")[:2]
                raise ValueError(f"it asks for {'.'.join(asked)}")
            at = end
        elif not code or _end(FIXED, code + bytes(8), 0):
            raise ValueError("its pickle is cut off")
        else:
            what = {op.code.encode("latin-1"): op.name for op in pickletools.opcodes}.get(code, f"0x{code.hex()}")
            raise ValueError(f"byte {at:,} of its pickle is {what}, which weights do not need")
    raise ValueError(f"its pickle has over {MAX_TEXTS:,} names and texts, which weights do not need")


def _end(pattern: "re.Pattern[bytes]", data: bytes, at: int) -> int:
    """Where what matches at a place ends; the place itself if nothing does."""
    found = pattern.match(data, at)
    return found.end() if found else at


def _import(content: bytes, out: Path) -> str:
    """Have `pth_import` write the tensors of `content` to `out`; why it could not, or ''."""
    # Isolated from the user's environment and folders, so it is told where the libraries are that run here.
    folders = [str(Path(str(module.__file__)).parents[1]) for module in (torch, safetensors)]
    program = Path(__file__).with_name("pth_import.py")
    command = [sys.executable, "-I", "-W", "ignore", str(program), str(out), *folders]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=DEADLINE, cwd=out.parent)
    except subprocess.TimeoutExpired:
        return f"it took over {DEADLINE:.0f} s"
    told = show(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])[:300]
    return told or f"too much time or memory, exit code {done.returncode}" if done.returncode else ""
