"""Runs side by side: stopped, lost, failing."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from plusx.engine.stop import Interrupt, Stopped, StopSignals
from plusx.errors import TrainingError
from plusx.studies.ahead import train_ahead


class Sleeper(NamedTuple):
    """In the place of a run: sleeps until it is stopped, and notes that it began and that it saved."""

    folder: Path
    name: str

    def train(self) -> None:
        with StopSignals() as signals:
            try:
                with signals.waiting():
                    (self.folder / f"{self.name}-begun").touch()
                    time.sleep(60)
            except Interrupt:
                (self.folder / f"{self.name}-saved").touch()
                raise Stopped("stopped", signal.SIGTERM) from None


class Killed(Sleeper):
    """Ends as if the system had no memory left, when another has begun."""

    def train(self) -> None:
        await_files(self.folder, 1)
        os.kill(os.getpid(), signal.SIGKILL)


def await_files(folder: Path, count: int) -> None:
    while len(list(folder.glob("*-begun"))) < count:
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_stop_saves_every_run_and_begins_none(number: int, code: int, word: str, tmp_path: Path) -> None:
    def stop() -> None:
        await_files(tmp_path, 2)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    begun = time.monotonic()
    with pytest.raises(Stopped, match=rf"stopped by {word}\. The same command continues it\.") as caught:
        train_ahead([Sleeper(tmp_path, name) for name in "abcdef"], 2)
    assert caught.value.exit_code == code
    assert {path.name for path in tmp_path.iterdir()} == {"a-begun", "a-saved", "b-begun", "b-saved"}
    assert time.monotonic() - begun < 50


def test_the_loss_of_a_process_is_told_and_the_others_save(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="ended before its time") as caught:
        train_ahead([Sleeper(tmp_path, "a"), Killed(tmp_path, "b"), Sleeper(tmp_path, "c")], 2)
    assert 'if __name__ == "__main__":' in caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} == {"a-begun", "a-saved"}
