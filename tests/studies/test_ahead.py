"""Runs side by side: stopped, lost, failing."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from plusx.engine.stop import Interrupt, Stopped, StopSignals
from plusx.errors import ConfigError, DivergedError, PlusxError, TrainingError
from plusx.studies.ahead import Ended, train_ahead
from plusx.threads import own_cores
from tests.forks import FORK


class Sleeper(NamedTuple):
    """In the place of a run: sleeps until it is stopped, and notes that it began and that it saved."""

    folder: Path
    name: str

    def train(self) -> None:
        with StopSignals() as signals:
            try:
                with signals.waiting():
                    (self.folder / f"{self.name}-begun").write_text(str(torch.get_num_threads()))
                    time.sleep(60)
            except Interrupt:
                (self.folder / f"{self.name}-saved").touch()
                raise Stopped("stopped", signal.SIGTERM) from None


class Killed(Sleeper):
    """Ends as if the system had no memory left, when another has begun."""

    def train(self) -> None:
        await_files(self.folder, 1)
        os.kill(os.getpid(), signal.SIGKILL)


class Talker(NamedTuple):
    """In the place of a run: prints, and fails, diverges or ends."""

    error: type[PlusxError] | None = None

    def train(self) -> None:
        sys.stderr.write("what nobody could read beside others")
        if self.error:
            raise self.error(self.error.__name__, "its hint")


def ignore(job: object, end: Ended) -> None:
    """For tests that look at files."""


def await_files(folder: Path, count: int) -> None:
    while len(list(folder.glob("*-begun"))) < count:
        time.sleep(0.05)


@pytest.fixture
def _forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes begin in a moment, not in the seconds that importing PyTorch takes."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda name: FORK)


@pytest.mark.usefixtures("_forks")
@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_stop_saves_every_run_and_begins_none(number: int, code: int, word: str, tmp_path: Path) -> None:
    def stop() -> None:
        await_files(tmp_path, 2)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    begun = time.monotonic()
    with pytest.raises(Stopped, match=rf"stopped by {word}\. The same command continues it\.") as caught:
        train_ahead([Sleeper(tmp_path, name) for name in "abcdef"], 2, ignore)
    assert caught.value.exit_code == code
    assert {path.name for path in tmp_path.iterdir()} == {"a-begun", "a-saved", "b-begun", "b-saved"}
    assert [(tmp_path / f"{name}-begun").read_text() for name in "ab"] == [str(max(1, own_cores() // 2))] * 2
    assert time.monotonic() - begun < 50


@pytest.mark.usefixtures("_forks")
def test_the_loss_of_a_process_is_told_and_the_others_save(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="ended before its time") as caught:
        train_ahead([Sleeper(tmp_path, "a"), Killed(tmp_path, "b"), Sleeper(tmp_path, "c")], 2, ignore)
    assert 'if __name__ == "__main__":' in caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} == {"a-begun", "a-saved"}


def test_each_end_is_told_and_the_first_failure_in_order_is_raised(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[Talker, Ended]] = []
    jobs = [Talker(DivergedError), Talker(), Talker(ConfigError), Talker(TrainingError)]
    with pytest.raises(PlusxError, match="ConfigError") as caught:
        train_ahead(jobs, 2, lambda job, end: told.append((job, end)))
    assert caught.value.hint == "its hint"
    ends = dict(told)
    assert len(told) == len(ends) == len(jobs)
    assert ends[jobs[0]] == Ended("DivergedError", diverged=True)
    assert ends[jobs[1]] == Ended()
    assert ends[jobs[3]] == Ended("TrainingError", "its hint")
    assert capfd.readouterr().err == ""
