"""Bring a published file into the cache: verified before it exists under its name, never executed, never trusted."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from plusx.data.dataset import Progress
from plusx.errors import DataError
from plusx.text import show

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
FULL = (errno.ENOSPC, errno.EDQUOT)  # what a full disk says, and a full share of one
MAX_MEMBERS = 10_000  # entries looked at in an archive


def cache_folder() -> Path:
    """Where downloads and scans are kept: $PLUSX_CACHE, else ~/.cache/plusx.

    Raises:
        DataError: neither is there.
    """
    given = os.environ.get("PLUSX_CACHE")
    try:
        return Path(given) if given else Path.home() / ".cache" / "plusx"
    except RuntimeError as error:
        raise DataError("the user has no home folder to keep downloads and scans in", "Set PLUSX_CACHE.") from error


def fetch(
    url: str,
    target: Path,
    *,
    limit: int,
    verify: Callable[[Path], object],
    hint: str = "",
    progress: Progress | None = None,
) -> None:
    """Download `url` to `target`, which appears only whole and verified. Two processes at once download once.

    The address is https, or http on this machine; a redirect may lead to https and nowhere else. At most `limit` bytes
    are accepted, `verify` raises for a file that is not the published one, `hint` says what to do without a network.

    Raises:
        DataError: offline ($PLUSX_OFFLINE=1 too), refused, too large, damaged, or no room.
    """
    if os.environ.get("PLUSX_OFFLINE", "") not in ("", "0"):
        raise DataError(f"{target.name} is not here and PLUSX_OFFLINE forbids to download it", hint)
    if not _allowed(url):
        raise DataError(f"{show(url)}: got a scheme that is not https", hint)
    try:
        with locked(target.parent / f".{target.name}.lock", hint), _workplace(target) as temporary:
            if not target.exists():  # else another process brought it
                fresh = temporary / target.name
                _receive(url, fresh, limit, progress)
                verify(fresh)
                os.replace(fresh, target)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DataError(f"{show(url)}: download failed: {show(str(reason))}", hint) from error


@contextlib.contextmanager
def locked(path: Path, hint: str = "") -> Iterator[None]:
    """Hold a lock between processes; the system lets go of it when a process dies.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be written: {error.strerror}", hint) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def extract(archive: Path, folder: Path, members: Mapping[str, str], *, limit: int) -> None:
    """Write the named members of a tar archive to `folder`, which appears only whole and verified.

    No path, link, owner or mode of the archive is used: a member is found by its exact name, has to be a regular file
    of the SHA-256 in `members`, and is written under its base name, at most `limit` bytes in all. So nothing can land
    elsewhere. The caller holds a lock.

    Raises:
        DataError: a damaged archive, a member that is missing, of another kind or content, or over the limit; no room.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    missing = dict(members)
    with _workplace(folder) as temporary:
        try:
            with tarfile.open(archive) as tar:
                for count, member in enumerate(tar):
                    if not missing or count >= MAX_MEMBERS:
                        break
                    stream = tar.extractfile(member) if member.name in missing and member.isreg() else None
                    if stream is None:
                        continue
                    limit -= member.size
                    if limit < 0:
                        raise DataError(f"{archive}: {show(member.name)} is larger than expected", "Delete the file.")
                    expected = missing.pop(member.name)
                    with open(temporary / Path(member.name).name, "xb") as out:
                        shutil.copyfileobj(stream, out)
                    verify_sha256(temporary / Path(member.name).name, expected)
        except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
            if getattr(error, "errno", None) in FULL:
                raise
            raise DataError(f"{archive}: damaged archive: {show(str(error))}", "Delete it and try again.") from error
        if missing:
            raise DataError(f"{archive}: has no file {show(next(iter(missing)))}", "Delete it and try again.")
        folder.mkdir(exist_ok=True)
        for name in members:
            os.replace(temporary / Path(name).name, folder / Path(name).name)


@contextlib.contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A folder beside `target` for as long as it is made; those of processes that were killed go too.

    Raises:
        DataError: no room.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp") as temporary:
            yield Path(temporary)
    except OSError as error:
        if error.errno not in FULL:
            raise
        message = f"{target.parent}: no room for {target.name}"
        raise DataError(message, "Free some space or set PLUSX_CACHE.") from error


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_sha256(path: Path, expected: str) -> None:
    """Raise DataError unless the file's SHA-256 is `expected`."""
    if (found := file_sha256(path)) != expected:
        raise DataError(f"{path}: got the SHA-256 {found}, expected {expected}", "Delete the file and get it again.")


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Progress | None]:
    """A bar of bytes on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def _receive(url: str, target: Path, limit: int, progress: Progress | None) -> None:
    opener = urllib.request.build_opener(_Redirects())
    request = urllib.request.Request(url, headers={"User-Agent": "plusx", "Accept-Encoding": "identity"})
    with opener.open(request, timeout=TIMEOUT) as response, open(target, "wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        if total > limit:
            raise DataError(f"{show(url)}: the server sends {total:,} bytes, expected at most {limit:,}")
        done = 0
        while block := response.read(min(CHUNK, limit + 1 - done)):
            done += len(block)
            if done > limit:
                raise DataError(f"{show(url)}: the server sends more than {limit:,} bytes")
            file.write(block)
            if progress:
                progress(done, total)
        if done < total:
            raise DataError(f"{show(url)}: got {done:,} of {total:,} bytes", "Try again.")
        file.flush()
        os.fsync(file.fileno())


def _allowed(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1"))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to https, or from this machine to itself."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https" and not (_allowed(newurl) and urlsplit(req.full_url).scheme == "http"):
            raise urllib.error.HTTPError(req.full_url, code, f"refused a redirect to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
