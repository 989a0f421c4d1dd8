"""Tensors and text in one safetensors file: written so that no crash can tear it, read so that no file can harm.

Neither safetensors nor `torch.load` notices a flipped bit, so files carry a SHA-256 (`digest`) that callers store in
the text and compare. Everything in a file from a stranger is checked against its size and against fixed limits before
memory is taken for it.
"""

import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from plusx.errors import ModelFileError, TrainingError
from plusx.text import in_bytes

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 8 << 20  # bytes; ResNet-1202 with 20,000 class names needs 2 MB, a mean image of 512 px 4 MB
MAX_ITEMS = 300_000  # values in a header; ResNet-1202 has 80,000
MAX_FILE = 16 << 30  # bytes
LINE = 200  # bytes of a header for a tensor, at most, without its name
MAX_VALUE = 1e18  # above it a square overflows float32
COPY = "Use another copy of the file, or train again."


class Entry(NamedTuple):
    """One tensor's place in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # byte offset in the file
    size: int  # bytes


@dataclass(frozen=True)
class Header:
    """What a file says before its data."""

    metadata: dict[str, str]
    entries: dict[str, Entry]


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over tensors in the order of their names.

    For each tensor: `["name","F32",[64,3,7,7]]` as compact ASCII JSON and a newline, then its values row by row,
    little-endian.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        line = json.dumps([name, NAMES[tensor.dtype], list(tensor.shape)], separators=(",", ":"))
        total.update(line.encode() + b"\n")
        total.update(_bytes(tensor.detach().cpu().contiguous()))
    return total.hexdigest()


def unusable(tensors: Mapping[str, Tensor]) -> str:
    """The first tensor with values that no network can compute with, and what they are; '' when there is none."""
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.is_floating_point() and tensor.numel():
            low, high = (v.item() for v in tensor.detach().aminmax())
            if not (math.isfinite(low) and math.isfinite(high)):
                return f"{name} holds NaN or infinity"
            if max(-low, high) > MAX_VALUE:
                return f"{name} holds {low if -low > high else high:.0e}, more than float32 arithmetic can bear"
            if low < 0 and name.endswith("running_var"):
                return f"{name} holds a negative variance"
    return ""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there is synced and takes its place, or nothing changes."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # safetensors writes files that nobody else may read
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a file whole or not at all: temporary file, sync, read back and compare, replace.

    Raises:
        TrainingError: a full disk or another failure of the file system; what was at `path` is still there.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = sum(map(len, metadata.values())) + sum(LINE + len(name) for name in plain)
    needed = sum(t.nbytes for t in plain.values()) + header
    torch.empty(needed, dtype=torch.uint8)  # memory that the system refuses is an error here, in safetensors an abort
    try:
        if needed > (free := shutil.disk_usage(path.parent).free):
            message = f"{path}: disk full, needs {in_bytes(needed)}, {in_bytes(free)} free."
            raise TrainingError(message, "Free some space and retry.")
        with replacing(path) as temporary:
            save_file(plain, temporary, dict(metadata))
            _sync(temporary)
            back, text = read(temporary)
            if digest(back) != digest(plain) or text != dict(metadata):
                raise TrainingError(f"{path}: the disk did not return what was written.", "Check the disk.")
    except (OSError, SafetensorError, ModelFileError) as error:
        message = f"{path}: cannot be written: {error}; it needs {in_bytes(needed)}."
        raise TrainingError(message, "Check the disk and its free space.") from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the text of a file, without any hash compared.

    Raises:
        ModelFileError: not a whole safetensors file.
    """
    with opened(path) as file:
        header = read_header(file, path)
        return read_tensors(file, header), header.metadata


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; a pipe would block and a device never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(f"{path}: not a regular file.", "Give the path of a .safetensors file.")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}.", "Check the path.") from error


def read_header(file: BinaryIO, path: Path) -> Header:
    """The checked header of an open file.

    Raises:
        ModelFileError: cut off, damaged, over the limits, or not safetensors at all.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if size == 0:
        raise ModelFileError(f"{path}: the file is empty.", COPY)
    if start[8:] != b"{":
        hint = "Others can run code and are not opened; `plusx train --weights` imports .pth files that are whole."
        raise ModelFileError(f"{path}: not a safetensors file.", hint)
    if length > size - 8:
        raise ModelFileError(f"{path}: cut off or damaged, {size} bytes with a header of {length}.", COPY)
    if length > MAX_HEADER or size > MAX_FILE:
        what = f"header of {length}" if length > MAX_HEADER else f"file of {size}"
        raise ModelFileError(f"{path}: a {what} bytes is more than any model of plusx has.", COPY)
    try:
        plain = parse_json((b"{" + file.read(length - 1)).decode())
        metadata = plain.pop("__metadata__", {})
        entries = {name: _entry(value, 8 + length) for name, value in plain.items()}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that is not text")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFileError(f"{path}: damaged header: {str(error)[:200]}.", COPY) from error
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if entry.start != end:
            raise ModelFileError(f"{path}: damaged header: {name[:99]!r} overlaps or leaves a gap.", COPY)
        end += entry.size
    if end != size:
        raise ModelFileError(f"{path}: cut off or damaged, {size} bytes where {end} were written.", COPY)
    return Header(metadata, entries)


def read_tensors(file: BinaryIO, header: Header) -> dict[str, Tensor]:
    """The tensors of an open file whose header was just read."""
    tensors = {}
    for name, entry in sorted(header.entries.items(), key=lambda item: item[1].start):
        tensors[name] = torch.empty(entry.shape, dtype=entry.dtype)
        file.seek(entry.start)
        if file.readinto(_bytes(tensors[name])) != entry.size:  # type: ignore[attr-defined]
            raise ModelFileError(f"{name}: the file became shorter while it was read.", COPY)
    return tensors


def parse_json(text: str, most: int = MAX_ITEMS) -> dict[str, Any]:
    """One JSON object, no key twice, of at most so many values and of bounded depth.

    Raises:
        ValueError: anything else.
    """
    if sum(map(text.count, "[{,")) > most:
        raise ValueError("too many values")
    try:
        plain = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("lists too deep") from None
    if not isinstance(plain, dict):
        raise ValueError("not an object")
    return plain


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        raise ValueError("a key stands twice")
    return plain


def _entry(value: Any, base: int) -> Entry:
    if set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("a tensor without dtype, shape or data_offsets")
    shape, (start, stop) = value["shape"], value["data_offsets"]
    if len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 40 for n in (*shape, start, stop)):
        raise ValueError("a tensor with an impossible shape or place")
    if math.prod(max(n, 1) for n in shape) >= 1 << 48:  # strides overflow, also where a 0 makes it empty
        raise ValueError("a tensor with an impossible shape")
    if value["dtype"] not in DTYPES:
        raise ValueError(f"unknown dtype {str(value['dtype'])[:20]}")
    dtype = DTYPES[value["dtype"]]
    if math.prod(shape) * dtype.itemsize != stop - start:
        raise ValueError("a tensor whose shape and bytes disagree")
    return Entry(dtype, tuple(shape), base + start, stop - start)


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor; writing to it writes the tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _umask() -> int:
    """The permissions that the user withholds from new files; reading them means setting them."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """fsync; a failure here means that the data is not on the disk, and is never tried again as success."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
