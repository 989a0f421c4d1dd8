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

from plusx.data.dataset import show
from plusx.engine import tensorfile
from plusx.errors import ModelFileError

MAX_FILE = 2 << 30  # bytes
MAX_DIRECTORY = 1 << 19  # bytes of an archive's list of entries, one a tensor; ResNet-152 has 58,000
MAX_PICKLE = 2 << 20  # bytes without the tensors; ResNet-152 with its optimizer has 300,000
MAX_OPCODES = 200_000  # of a pickle; ResNet-152 with its optimizer has 80,000
DEADLINE = 300.0  # seconds
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number that PyTorch before 1.6 began its files with
LEGACY_PICKLES = 4  # that follow it: version, machine, tensors, keys
OPCODES = re.compile(
    "PROTO|STOP|MARK|GLOBAL|REDUCE|BUILD|NEWOBJ|APPENDS?|SETITEMS?|NONE|NEWTRUE|NEWFALSE|TUPLE[123]?|BINPERSID"
    "|EMPTY_(TUPLE|LIST|DICT|SET)|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|SHORT_BINSTRING|(LONG_)?BIN(PUT|GET)"
)  # all that `weights_only=True` understands
GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter Parameter"
    r"|torch (\w+Storage|Size|device|(b?float|u?int)\d+)"
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
            return _look_at_pickle(io.BytesIO(_pickle_of_archive(file, size)))
        if start != LEGACY:
            raise ValueError("a pickle that torch.save did not write")
        stream = io.BytesIO(file.read(MAX_PICKLE))
        for _ in range(LEGACY_PICKLES):
            _look_at_pickle(stream)
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


def _look_at_pickle(stream: BinaryIO) -> None:
    """Read one pickle's opcodes."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name == "GLOBAL" and not GLOBALS.fullmatch(str(argument)):
            raise ValueError(f"it asks for {str(argument).replace(' ', '.')}")
        if count >= MAX_OPCODES or not OPCODES.fullmatch(opcode.name):
            raise ValueError(f"instruction {count:,} of its pickle is {opcode.name}, which weights do not need")


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
