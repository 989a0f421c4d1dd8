"""What a run tells."""

import contextlib
import errno
import io
import json
import locale
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from plusx.engine.log import HEARTBEAT, Log, describe
from plusx.engine.stop import Stopped
from plusx.errors import ConfigError, TrainingError


def row(step: int, split: str = "train", loss: float = 1.0) -> dict[str, object]:
    return {
        "step": step,
        "epoch": step // 10,
        "split": split,
        "loss": loss,
        "top1": 0.9,
        "top5": 1.0,
        "lr": 0.1,
        "images_per_second": 1234.5,
        "seconds": 5.0,
    }


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_reader_that_leaves_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with contextlib.suppress(BrokenPipeError), open(write, "w") as nobody:
        monkeypatch.setattr(sys, "stderr", nobody)
        log = Log(tmp_path)
        for i in range(3):
            log.line(f"line {i}")
    assert (tmp_path / "log.txt").read_text().count("line") == 3
    assert os.fstat(1) != os.stat(os.devnull)


class Gone(io.StringIO):
    """A terminal that is closed once something has been shown."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.tell():
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


def test_a_terminal_that_is_closed_leaves_the_end_of_a_run_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for shown in (lambda log: log.progress(0, 9), lambda log: log.counting("reading")):
        monkeypatch.setattr(sys, "stderr", Gone())
        with pytest.raises(Stopped), shown(Log(None)):
            raise Stopped("stopped by SIGHUP after step 2 of 9.", 1)


# Where a log goes, the environment, and whether a bar is drawn there.
PLACES = [
    pytest.param(Terminal, {"TERM": "xterm"}, True, id="terminal"),
    pytest.param(Terminal, {"TERM": "dumb"}, False, id="dumb"),
    pytest.param(io.StringIO, {"TERM": "xterm"}, False, id="pipe"),
    pytest.param(io.StringIO, {"TERM": "xterm", "FORCE_COLOR": "1"}, False, id="colours"),
]


def console_of(
    kind: type[io.StringIO], environment: dict[str, str], patch: pytest.MonkeyPatch
) -> tuple[Console, io.StringIO]:
    patch.delenv("FORCE_COLOR", raising=False)
    for name, value in environment.items():
        patch.setenv(name, value)
    out = kind()
    return Console(file=out, width=200, highlight=False), out


def test_lines_go_to_people_and_to_the_file_with_control_characters_visible(tmp_path: Path) -> None:
    out = io.StringIO()
    log = Log(tmp_path, console=Console(file=out))
    log.line("bad \x1b[31mname\n[bold]é :cat: می\u200cخواهم")
    assert out.getvalue() == "bad \\x1b[31mname\\n[bold]é :cat: می\u200cخواهم\n"
    log.line("of the file alone", to_console=False)
    assert (tmp_path / "log.txt").read_text(encoding="utf-8")[20:].startswith(out.getvalue())
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith(" of the file alone\n")
    assert "alone" not in out.getvalue()


def test_the_file_is_utf_8_in_every_locale(tmp_path: Path) -> None:
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C")
        Log(tmp_path, console=Console(quiet=True)).line("猫")
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith(" 猫\n")


def test_metrics_are_exactly_the_rows(tmp_path: Path) -> None:
    log = Log(tmp_path, console=Console(quiet=True))
    for rows in ([row(10), row(20)], [row(10)], []):
        log.rows(rows)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == rows
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_disk_that_fills_up_leaves_the_rows_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path, console=Console(quiet=True))
    log.rows([row(10)])

    def half(path: Path, text: str) -> None:
        path.write_bytes(text[:9].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: cannot be written: No space left"):
        log.rows([row(10), row(20)])
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [row(10)]


def test_a_process_that_is_to_be_quiet_tells_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(None, quiet=True)
    log.line("another process says so")
    with log.counting("reading images") as tell:
        tell(1, 2)
    assert capfd.readouterr() == ("", "")


def test_a_bar_on_a_terminal_leaves_lines_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console, out = console_of(Terminal, {"TERM": "xterm"}, monkeypatch)
    log = Log(tmp_path, console=console)
    with log.progress(3, 10):
        assert "3/10" in out.getvalue()
        log._last = (log._last[0] - 1, 0)
        log.step(4, 10, 1, 128, 1.5, 0.1)
        log.line("a line above the bar")
    assert "images/s" in out.getvalue()
    assert "loss 1.500" in out.getvalue()
    assert "4/10" in out.getvalue()
    assert (tmp_path / "log.txt").read_text().count("\n") == 1


@pytest.mark.parametrize(("kind", "environment", "bar"), PLACES)
def test_counting_shows_a_bar_only_where_one_can_be_drawn(
    kind: type[io.StringIO], environment: dict[str, str], bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, out = console_of(kind, environment, monkeypatch)
    with Log(None, console=console).counting("reading images") as progress:
        progress(3, 12)
    assert ("reading images" in out.getvalue()) == ("3/12" in out.getvalue()) == bar


@pytest.mark.parametrize(("kind", "environment", "bar"), PLACES[1:])
def test_plain_lines_where_there_is_no_bar(
    kind: type[io.StringIO], environment: dict[str, str], bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, out = console_of(kind, environment, monkeypatch)
    log = Log(None, console=console)
    with log.progress(0, 1000):
        for step in range(1, 4):
            log.step(step, 1000, 1, 100, 2.0, 0.1)
        assert out.getvalue() == ""
        log._last = (log._last[0] - HEARTBEAT, log._last[1])
        log.step(4, 1000, 1, 100, 2.0, 0.1)
    assert not bar
    assert out.getvalue().startswith("epoch 1  step 4 of 1,000  loss 2.000  lr 0.1  ")
    assert out.getvalue().count("\n") == 1


def test_a_line_for_people_has_percent_and_error() -> None:
    text = describe([row(20), row(20, "val", 0.5)], 2.4)
    assert text.startswith("epoch 2/3  train loss 1.0000 top-1 90.00% (error 10.00%)  val loss 0.5000")
    assert "lr 0.1  1,234 images/s  5 s" in text


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with pytest.raises(TrainingError, match=r"log\.txt: cannot be written: No space left"):
        Log(tmp_path, console=Console(quiet=True)).line("x")


def test_a_terminal_that_is_gone_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        log = Log(tmp_path)
        for text in ("one", "two"):
            log.line(text)
        assert [line.split()[-1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["one", "two"]
        with contextlib.suppress(OSError):
            gone.close()


def test_no_folder_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = Log(None, tensorboard=True, console=Console(quiet=True))
    log.line("x")
    log.rows([])
    assert not list(tmp_path.iterdir())


def test_tensorboard_missing_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"not installed.*pip install tensorboard"):
        Log(tmp_path, tensorboard=True, console=Console(quiet=True)).rows([])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_each_row_once_also_after_resuming(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Log(tmp_path, tensorboard=True, console=Console(quiet=True))
    first.rows([])
    first.rows([row(10, loss=3.0)])
    first.rows([row(10, loss=3.0), row(20, loss=2.0)])  # lost: the checkpoint is of step 10
    first.close()
    second = Log(tmp_path, tensorboard=True, console=Console(quiet=True))
    second.rows([row(10, loss=3.0)])
    second.rows([row(10, loss=3.0), row(20, loss=1.0)])
    second.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 3.0), (20, 1.0)]


def test_without_a_terminal_what_is_far_along_is_told_each_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("plusx.engine.log.time.perf_counter", lambda: clock[0])
    with Log(None).counting("reading images") as tell:
        for done in range(0, 4_000, 1_000):
            clock[0] += 0.6 * HEARTBEAT
            tell(done, 4_000)
    assert capsys.readouterr().err.splitlines() == ["reading images: 1,000 of 4,000", "reading images: 3,000 of 4,000"]


def test_a_line_a_minute_counts_the_images_since_the_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("plusx.engine.log.time.perf_counter", lambda: clock[0])
    log = Log(None)
    with log.progress(0, 1000):
        for step in range(1, 13):
            clock[0] += HEARTBEAT / 4
            log.step(step, 1000, 1, 90, 2.0, 0.1)
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[3] for line in told] == ["4", "8", "12"]
    assert all(line.endswith("  6 images/s") for line in told)
