"""Find the files that cannot be decoded before an epoch is planned, and remember what was found."""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plusx.config import DataConfig
from plusx.data.dataset import Dataset, Progress, untrainable
from plusx.data.decode import decode, read_file
from plusx.data.download import cache_folder
from plusx.data.facts import header
from plusx.errors import DataError, ImageError
from plusx.text import plural, show
from plusx.threads import in_parallel

FILMS = (b"GIF", b"RIFF", b"II", b"MM")  # how files begin that may have several frames, beside some PNG
RULES = 4  # goes up when decode() accepts other files, so that old findings are not believed


class Finding(NamedTuple):
    """What is known of a file: bytes, time of its last change in ns and inode (a file in its place has others), SHA-256
    of its bytes, why it is bad or '', and whether it has several frames.

    Without a SHA-256 that is no verdict on the bytes: they could not be read, or not be decoded for want of memory.
    """

    size: int
    changed: int
    inode: int
    sha256: str
    reason: str
    animated: bool = False


def scan(dataset: Dataset, config: DataConfig, progress: Progress | None = None) -> dict[str, Finding]:
    """Hash and decode every file once. What did not change in size and time since the last scan is not read again.

    Returns:
        findings by path; none for images in memory.
    """
    paths = list(dict.fromkeys(path for split in dataset.splits.values() for path in split.paths or ()))
    store = _store(dataset, config)
    known = _load(store)

    def examine(path: str) -> Finding:
        try:
            status = os.stat(path)
        except OSError as error:
            return Finding(0, 0, 0, "", f"cannot be read: {error.strerror}")
        old = known.get(path)
        if old and old[:3] == (status.st_size, status.st_ctime_ns, status.st_ino):
            return old
        return _examine(path, status, config)

    found: dict[str, Finding] = {}
    try:
        found.update(zip(paths, in_parallel(examine, paths, progress), strict=True))
    finally:
        sure = {path: finding for path, finding in found.items() if finding.sha256}
        whole = len(found) == len(paths)  # else what an earlier scan knows of the others stays
        if (sure := sure if whole else {**known, **sure}) != known:
            _save(store, sure)
    return found


def screen(dataset: Dataset, findings: Mapping[str, Finding], on_bad_image: str) -> Dataset:
    """Refuse files that cannot be decoded ("error"), or leave them out with a counted note ("skip").

    Raises:
        DataError: bad files and "error"; or too little is left to train on.
    """
    bad = {
        name: [i for i, path in enumerate(split.paths or ()) if findings[path].reason]
        for name, split in dataset.splits.items()
    }
    if not any(bad.values()):
        return dataset
    named = [
        f"{show(split.names[i])} ({findings[split.paths[i]].reason})"
        for name, split in dataset.splits.items()
        if split.paths is not None
        for i in bad[name]
    ]
    text = f"{len(named):,} of {plural('file', sum(map(len, dataset.splits.values())))}: " + "; ".join(named[:5])
    text += f"; and {len(named) - 5:,} more" if len(named) > 5 else ""
    if on_bad_image == "error":
        raise DataError(
            f"cannot decode {text}", "`plusx check` lists them all; --set engine.on_bad_image=skip leaves them out."
        )
    splits = dict(dataset.splits)
    for name, found in bad.items():
        keep = np.ones(len(splits[name]), bool)
        keep[found] = False
        splits[name] = splits[name].take(keep)
    left = dataset.changed(splits={name: s for name, s in splits.items() if len(s)}, notes=(f"skipped {text}",))
    fit_to_evaluate = left.splits and "train" not in dataset.splits
    if problems := [] if fit_to_evaluate else untrainable(left):
        raise DataError(f"without the files that cannot be decoded: {'; '.join(problems)}", f"Skipped {text}.")
    return left


def frame_notes(findings: Mapping[str, Finding]) -> tuple[str, ...]:
    """What to say of files with several frames, or nothing."""
    n = sum(finding.animated for finding in findings.values())
    return (f"{plural('image', n)} with several frames, of which the first is used",) if n else ()


def _examine(path: str, status: os.stat_result, config: DataConfig) -> Finding:
    digest, reason, animated = "", "", False
    try:
        data = read_file(path, config.max_pixels)
        digest = hashlib.sha256(data).hexdigest()
        decode(data, max_pixels=config.max_pixels, channels=3, background=config.background, min_side=1)
        film = b"acTL" in data[: data.find(b"IDAT")] if data.startswith(b"\x89PNG") else data.startswith(FILMS)
        animated = film and header(path).animated
    except ImageError as error:
        reason = error.reason
        if isinstance(error.__cause__, MemoryError) or getattr(error.__cause__, "errno", None):
            digest = ""  # the system's trouble, not the file's
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except (ValueError, MemoryError) as error:
        reason = str(error) or "too little memory"
    return Finding(status.st_size, status.st_ctime_ns, status.st_ino, digest, show(reason), animated)


def _store(dataset: Dataset, config: DataConfig) -> Path:
    key = f"{RULES}\n{dataset.name}\n{dataset.root}\n{config.max_pixels}"
    return cache_folder() / "scans" / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.parquet"


def _load(store: Path) -> dict[str, Finding]:
    """What the last scan found; nothing when there is no readable record of one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(store).to_pydict()
        rows = zip(*(columns[field] for field in Finding._fields), strict=True)
        return dict(zip(map(os.fsdecode, columns["path"]), map(Finding._make, rows), strict=True))
    except (OSError, KeyError, TypeError, pa.ArrowException):
        return {}


def _save(store: Path, found: dict[str, Finding]) -> None:
    """Best effort: a folder that cannot be written costs the next scan its time and nothing else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(found.values())
    columns = {field: [getattr(row, field) for row in rows] for field in Finding._fields}
    table = pa.table({"path": pa.array(map(os.fsencode, found), pa.binary()), **columns})
    temporary = store.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        store.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, temporary)
        os.replace(temporary, store)
