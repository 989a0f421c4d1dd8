"""Downloads from a server on this machine that misbehaves in every way we know."""

import hashlib
import io
import os
import random
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from plusx.data import download
from plusx.data.download import cache_folder, extract, fetch, verify_sha256
from plusx.errors import DataError
from tests.serving import Quiet, serving

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()
HITS: list[str] = []


class Server(Quiet, BaseHTTPRequestHandler):
    """One path for each way to answer."""

    def do_GET(self) -> None:
        HITS.append(self.path)
        if self.path.startswith(("/redirect?", "/loop")):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2] or "/loop")
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        length = {"/endless": None, "/claims": 50_000_000_000}.get(self.path, len(BODY))
        if length:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        try:
            self.wfile.write({"/damaged": BODY[:-1] + b"?", "/short": BODY[:-5]}.get(self.path, BODY))
            while self.path == "/endless":
                self.wfile.write(BODY)
        except OSError:
            pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Server) as address:
        yield address


def verify(path: Path) -> None:
    verify_sha256(path, SHA)


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_whole_verified_and_with_progress(server: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "deep" / "file"
    (tmp_path / "deep" / ".file.killed.tmp").mkdir(parents=True)
    (tmp_path / "deep" / ".file.killed.tmp" / "file").write_bytes(BODY[:99])
    fetch(f"{server}/ok", target, limit=len(BODY), verify=verify, progress=lambda *p: seen.append(p))
    assert target.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert leftovers(tmp_path) == ["file"]
    fetch(f"{server}/redirect?{server}/ok", tmp_path / "again", limit=len(BODY), verify=verify)


def test_progress_is_how_much_there_is(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "CHUNK", 400_000)
    seen: list[tuple[int, int]] = []
    fetch(f"{server}/ok", tmp_path / "file", limit=len(BODY), verify=verify, progress=lambda *p: seen.append(p))
    assert seen == [(400_000, len(BODY)), (800_000, len(BODY)), (len(BODY), len(BODY))]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/damaged", "got the SHA-256 .* expected"),
        ("/short", "got 1,023,995 of 1,024,000 bytes|IncompleteRead"),
        ("/claims", "the server sends 50,000,000,000 bytes, expected at most 1,024,000"),
        ("/endless", "the server sends more than 1,024,000 bytes"),
        ("/missing", "download failed: Not Found"),
        ("/redirect?file:///etc/passwd", "Redirection to url .file:///etc/passwd. is not allowed"),
        ("/redirect?ftp://127.0.0.1/x", "refused a redirect to ftp"),
        ("/redirect?http://192.0.2.1/x", "refused a redirect to http://192.0.2.1/x"),
        ("/loop", "download failed: .*infinite loop"),
    ],
)
def test_nothing_is_left_of_a_bad_download(server: str, tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        fetch(server + path, tmp_path / "file", limit=len(BODY), verify=verify, hint="Do this.")
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("url", ["http://192.0.2.1/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "x"])
def test_only_https(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="got a scheme that is not https"):
        fetch(url, tmp_path / "file", limit=1, verify=verify)


def test_offline_says_what_to_do(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"download failed.*Put it there"):
        fetch("http://127.0.0.1:1/x", tmp_path / "file", limit=1, verify=verify, hint="Put it there.")
    monkeypatch.setenv("PLUSX_OFFLINE", "1")
    before = len(HITS)
    with pytest.raises(DataError, match=r"PLUSX_OFFLINE forbids.*Put it there"):
        fetch(f"{server}/ok", tmp_path / "file", limit=len(BODY), verify=verify, hint="Put it there.")
    assert len(HITS) == before


@pytest.mark.parametrize("value", ["0", ""])
def test_offline_can_be_said_not_to_be(
    value: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUSX_OFFLINE", value)
    fetch(f"{server}/ok", tmp_path / "file", limit=len(BODY), verify=verify)


def test_https_never_leads_to_this_machine() -> None:
    request = urllib.request.Request("https://192.0.2.1/x")
    with pytest.raises(urllib.error.HTTPError, match=r"refused a redirect to http://127\.0\.0\.1/x") as caught:
        download._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), "http://127.0.0.1/x")
    caught.value.close()


def test_full_disk_and_read_only_cache(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(f"{server}/ok", tmp_path / "file" / "x", limit=len(BODY), verify=verify)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"no room for new.*PLUSX_CACHE"):
        fetch(f"{server}/ok", tmp_path / "new", limit=len(BODY), verify=verify)
    assert leftovers(tmp_path) == ["file"]


def test_two_at_once_download_once(server: str, tmp_path: Path) -> None:
    def bring(_: int) -> None:
        fetch(f"{server}/ok-once", tmp_path / "file", limit=len(BODY), verify=verify)

    with ThreadPoolExecutor(4) as pool:  # the lock belongs to an open file: threads meet it as processes do
        list(pool.map(bring, range(4)))
    assert HITS.count("/ok-once") == 1
    assert (tmp_path / "file").read_bytes() == BODY


def archive(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_extract_takes_the_named_files_and_nothing_else(tmp_path: Path) -> None:
    good = ("set/a.bin", BODY)
    source = archive(
        tmp_path / "a.tar.gz",
        ("../escape", b"x"),
        (str(tmp_path / "absolute"), b"x"),
        special("set/link", tarfile.SYMTYPE, ".."),
        ("set/link/through", b"x"),
        special("set/dev", tarfile.CHRTYPE),
        good,
        good,
    )
    extract(source, tmp_path / "out" / "set", {"set/a.bin": SHA}, limit=len(BODY))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.bin", "a.tar.gz", "out", "set"]
    assert (tmp_path / "out" / "set" / "a.bin").read_bytes() == BODY


def test_extraction_on_a_full_disk_and_after_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = archive(tmp_path / "a.tar.gz", ("set/a.bin", BODY))
    (tmp_path / ".set.killed.tmp").mkdir()
    (tmp_path / ".set.killed.tmp" / "a.bin").write_bytes(BODY[:99])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(DataError, match=r"no room for set.*PLUSX_CACHE"):
            extract(source, tmp_path / "set", {"set/a.bin": SHA}, limit=len(BODY))
    assert [p.name for p in tmp_path.rglob("*")] == ["a.tar.gz"]
    extract(source, tmp_path / "set", {"set/a.bin": SHA}, limit=len(BODY))


def test_an_empty_name_of_the_cache_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUSX_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "plusx"


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLUSX_CACHE")
    monkeypatch.setattr(os.path, "expanduser", str)  # as where there is none
    with pytest.raises(DataError, match="Set PLUSX_CACHE"):
        cache_folder()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("set/a.bin", BODY[:-1])], "got the SHA-256"),
        ([("set/a.bin", BODY + b"x")], "larger than expected"),
        ([special("set/a.bin", tarfile.SYMTYPE, "/etc/passwd")], "has no file set/a.bin"),
        ([special("set/a.bin", tarfile.LNKTYPE, "/etc/passwd")], "has no file set/a.bin"),
        ([special("set/a.bin", tarfile.FIFOTYPE)], "has no file set/a.bin"),
        ([(f"set/{i}", b"") for i in range(10_001)] + [("set/a.bin", BODY)], "has no file set/a.bin"),
        ([], "has no file set/a.bin"),
    ],
)
def test_hostile_archives_leave_nothing(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    source = archive(tmp_path / "a.tar.gz", *members)
    with pytest.raises(DataError, match=message):
        extract(source, tmp_path / "set", {"set/a.bin": SHA}, limit=len(BODY))
    assert [p.name for p in tmp_path.rglob("*")] == ["a.tar.gz"]


def test_damaged_archives_leave_nothing(tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.tar.gz", ("set/a.bin", os.urandom(100_000))).read_bytes()
    text = bytes(random.Random(0).choices(b"abc", k=100_000))  # which is compressed, other than random bytes
    packed = archive(tmp_path / "a.tar.gz", ("set/a.bin", text)).read_bytes()
    garbled = (whole[:500] + b"\0" * 99 + whole[599:], packed[:5000] + b"\xff" * 99 + packed[5099:])
    for data in (b"", b"x" * 1000, whole[:1000], whole[: len(whole) // 2], *garbled):
        (tmp_path / "a.tar.gz").write_bytes(data)
        with pytest.raises(DataError, match=r"damaged archive|has no file|SHA-256"):
            extract(tmp_path / "a.tar.gz", tmp_path / "set", {"set/a.bin": SHA}, limit=10**6)
        assert [p.name for p in tmp_path.rglob("*")] == ["a.tar.gz"]
