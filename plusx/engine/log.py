"""What a run tells: a progress bar or plain lines on stderr, log.txt, metrics.jsonl, TensorBoard events."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from plusx.engine import tensorfile
from plusx.errors import ConfigError, TrainingError
from plusx.text import show

Row = dict[str, Any]  # step, epoch, split, loss, top1, top5, lr, images_per_second, seconds
REFRESH = 0.25  # seconds between two updates of the bar
HEARTBEAT = 60.0  # seconds between two lines in mid-epoch where there is no bar


class _Told(Console):
    """A console whose reader may leave, by closing a terminal or a pipe: the run goes on, and says no more."""

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:
            self.quiet = True
            self._buffer.clear()

    def on_broken_pipe(self) -> None:
        """For `_check_buffer` to take; rich would end the process."""
        raise BrokenPipeError


class Log:
    """Where a run writes what people read.

    Arguments:
        folder: the run folder; None writes no files.
        tensorboard: whether events go to `folder/tensorboard`.
        console: for people; stderr when None.
        quiet: tell nobody: another process does.
    """

    def __init__(
        self, folder: Path | None, tensorboard: bool = False, console: Console | None = None, quiet: bool = False
    ) -> None:
        self._folder = folder
        self._console = console or _Told(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self._tensorboard = tensorboard and folder is not None
        self._events: Any = None
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last = (time.perf_counter(), 0)  # when the progress was last shown, and images since
        self._logged = 0  # rows that TensorBoard has

    def line(self, text: str, to_console: bool = True) -> None:
        """One line for people and for log.txt, or for log.txt alone; control characters show as escapes."""
        shown = show(text)
        if to_console:
            self._console.print(shown, markup=False, emoji=False)
        if self._folder:
            with _clear_errors(self._folder / "log.txt") as path, path.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shown}\n")

    def rows(self, rows: Sequence[Row]) -> None:
        """Makes metrics.jsonl exactly these rows; the first call gives those of the checkpoint that a run resumes.

        Raises:
            ConfigError: TensorBoard is asked for and not installed.
        """
        if self._folder:
            with _clear_errors(self._folder / "metrics.jsonl") as path, tensorfile.replacing(path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if self._tensorboard and self._folder and self._events is None:
            self._events = _event_writer(self._folder / "tensorboard", rows[-1]["step"] + 1 if rows else 0)
            self._logged = len(rows)
        for row in rows[self._logged :] if self._events else ():
            for name in ("loss", "top1", "top5", "lr", "images_per_second"):
                self._events.add_scalar(f"{row['split']}/{name}", row[name], row["step"])
        self._logged = len(rows)

    @contextmanager
    def counting(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A function of (done, all) that shows how far something is: a bar on a terminal, else a line a minute."""
        if not self._bars():
            yield self._heartbeat(title)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True, redirect_stdout=False) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _heartbeat(self, title: str) -> Callable[[int, int], None]:
        shown = time.perf_counter()

        def tell(done: int, total: int) -> None:
            nonlocal shown
            if (now := time.perf_counter()) - shown >= HEARTBEAT:
                shown = now
                self.line(f"{title}: {done:,} of {total:,}")

        return tell

    @contextmanager
    def progress(self, step: int, total: int) -> Iterator[None]:
        """Shows steps while entered: a bar on a terminal, else a line a minute."""
        self._last = (time.perf_counter(), 0)
        if not self._bars():
            yield
            return
        columns = ("{task.description}", "{task.fields[rate]}", "loss {task.fields[loss]}", "lr {task.fields[lr]}")
        shown = [TextColumn(column) for column in columns]
        bar = (shown[0], BarColumn(), MofNCompleteColumn(), *shown[1:], TimeRemainingColumn())
        with Progress(
            *bar, console=self._console, transient=True, refresh_per_second=4, redirect_stdout=False
        ) as self._bar:
            self._task = self._bar.add_task("training", total=total, completed=step, rate="", loss="-", lr="-")
            try:
                yield
            finally:
                self._bar = None

    def _bars(self) -> bool:
        """Whether there is a terminal that can draw bars; rich takes FORCE_COLOR for one, where there is none."""
        console = self._console
        return console.is_interactive and not console.quiet and console.file.isatty()

    def step(self, step: int, total: int, epoch: int, images: int, loss: float, lr: float) -> None:
        """Counts one step; cheap, and shown from time to time."""
        (shown, before), now = self._last, time.perf_counter()
        if now - shown < (REFRESH if self._bar else HEARTBEAT):
            self._last = (shown, before + images)
            return
        self._last = (now, 0)
        rate = f"{(before + images) / (now - shown):,.0f} images/s"
        if self._bar:
            texts = {"description": f"epoch {epoch}", "rate": rate, "loss": f"{loss:.3f}", "lr": f"{lr:.3g}"}
            self._bar.update(self._task, completed=step, **texts)  # type: ignore[arg-type]
        else:
            self.line(f"epoch {epoch}  step {step:,} of {total:,}  loss {loss:.3f}  lr {lr:.3g}  {rate}")

    def close(self) -> None:
        """Ends the event file."""
        if self._events:
            self._events.close()


def describe(rows: Sequence[Mapping[str, Any]], epochs: float) -> str:
    """A line for people about the rows of one step: accuracy in percent, and error beside it as the paper has it."""
    first = rows[0]
    parts = [f"epoch {first['epoch']}/{math.ceil(epochs)}"]
    for row in rows:
        parts.append(f"{row['split']} loss {row['loss']:.4f} top-1 {row['top1']:.2%} (error {1 - row['top1']:.2%})")
    parts.append(f"lr {first['lr']:.3g}  {first['images_per_second']:,.0f} images/s  {first['seconds']:,.0f} s")
    return "  ".join(parts)


def _event_writer(folder: Path, step: int) -> Any:
    """A writer whose readers drop what an interrupted run wrote from `step` on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        message = "engine.tensorboard: TensorBoard is not installed."
        raise ConfigError(message, "Run `pip install tensorboard`, or set engine.tensorboard=false.") from error
    return SummaryWriter(str(folder), purge_step=step)


@contextmanager
def _clear_errors(path: Path) -> Iterator[Path]:
    """Failures of the file system, named."""
    try:
        yield path
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written: {error.strerror}.", "Check the disk and its space.") from error
