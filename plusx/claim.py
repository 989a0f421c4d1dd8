"""A run folder belongs to one process at a time, and is not left behind empty."""

import fcntl
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from plusx.errors import ConfigError, PlusxError
from plusx.text import listed

OURS = ("manifest.json", "log.txt")  # what may be there before anything was decided


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make the run folder and keep other processes out; the system lets go of the lock when this process dies.

    What ends before anything was decided leaves no folder behind.

    Raises:
        PlusxError: the folder cannot be written or locked, or another live process has it.
    """
    # No signal comes between making the folder and what removes it again.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        with _locked(folder) as path:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                yield
            finally:
                if not (folder / "config.json").exists():
                    with suppress(OSError):
                        for left in (*(folder / name for name in OURS), path):
                            left.unlink(missing_ok=True)
                        for made in new:
                            made.rmdir()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """The lock file of a run folder, which is made where it is missing, held by this process."""
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = {p.name for p in folder.iterdir() if p.name[0] != "."} - {"lock", "manifest.json"}
        if path.exists():  # else a log is somebody's own
            others -= set(OURS)
        if others and not (folder / "config.json").exists():
            raise ConfigError(f"{folder} holds no run but {listed(sorted(others))}.", "Name a new folder with --out.")
        lock = path.open("a+")
    except OSError as error:
        raise PlusxError(f"{folder}: {error.strerror}.", "Name another run folder with --out.") from None
    with lock, _not_inherited(lock):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(lock.fileno()), path.stat())  # not one that its owner just removed
        except (BlockingIOError, FileNotFoundError):
            ours = False
        except OSError as error:
            message = f"{folder}: its file system locks no files: {error.strerror}."
            raise PlusxError(message, "Name a folder on another one with --out.") from error
        if not ours:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            raise PlusxError(f"{folder} is in use by {owner}.", "Wait for it, or name another one with --out.")
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        yield path


_own: set[IO[str]] = set()  # open files that no child may keep open


def _close_own() -> None:
    for file in _own:
        file.close()


os.register_at_fork(after_in_child=_close_own)


@contextmanager
def _not_inherited(file: IO[str]) -> Iterator[None]:
    """Keep a file from children: decoding processes outlive a killed parent for a moment, and with them its lock."""
    _own.add(file)
    try:
        yield
    finally:
        _own.remove(file)
