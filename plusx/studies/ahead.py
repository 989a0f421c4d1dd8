"""Runs side by side, each in a process of its own; a stop, or the loss of one, ends them all in good order."""

import io
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from multiprocessing.synchronize import Event
from typing import NamedTuple, Protocol, TypeVar

import torch

from plusx.engine.stop import SIGNALS, Interrupt, Stopped, StopSignals
from plusx.errors import DivergedError, PlusxError, TrainingError
from plusx.threads import own_cores


class Job(Protocol):
    """What a process can be given to train."""

    def train(self) -> object:
        """Train it to its end; once more does nothing."""


class Ended(NamedTuple):
    """How a job ended: what was wrong, in words and a hint; nothing where it is trained. Divergence is no failure."""

    message: str = ""
    hint: str = ""
    diverged: bool = False


J = TypeVar("J", bound=Job)


def train_ahead(jobs: Sequence[J], parallel: int, tell: Callable[[J, Ended], None]) -> None:
    """Train all jobs in the order given, several at a time, each process with its share of the cores.

    What the runs print goes to their own log.txt alone: side by side nobody could read it.

    Arguments:
        jobs: what is trained.
        parallel: how many at a time.
        tell: called for each job as it ends.

    Raises:
        PlusxError: the first failure; the others are trained all the same.
        TrainingError: a process was lost; the others have saved their state.
        Stopped: after a signal, when the state of every run is saved.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would share the threads' locks
    threads, stop = max(1, own_cores() // parallel), spawn.Event()
    others = set(multiprocessing.active_children())
    with StopSignals() as signals, ProcessPoolExecutor(parallel, spawn, _begin, (threads, stop)) as pool:
        try:
            with signals.waiting():
                begun = {pool.submit(_train, job): job for job in jobs}
                for one in as_completed(begun):
                    if end := one.result():
                        tell(begun[one], end)
        except BaseException as error:
            stop.set()
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # which saves what it trains
            pool.shutdown(cancel_futures=True)
            if isinstance(error, Interrupt):
                assert signals.received is not None, "it interrupted"
                raise Stopped(f"stopped by {SIGNALS[signals.received]}.", signals.received) from None
            if isinstance(error, BrokenProcessPool):
                message = "a process that trained a part of the runs ended before its time."
                hint = (
                    "If memory ran out, train fewer at a time (--parallel); the same command continues. "
                    'A script that calls this needs `if __name__ == "__main__":` before what it does.'
                )
                raise TrainingError(message, hint) from error
            raise
    for end in (one.result() for one in begun):
        if end and end.message and not end.diverged:
            raise PlusxError(end.message, end.hint)


_stop: Event | None = None  # in such a process: no more runs begin


def _begin(threads: int, stop: Event) -> None:
    """Make a process ready: a Ctrl-C is for the first process, and for runs that can save."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def _train(job: Job) -> Ended | None:
    """Train in such a process; an error crosses to the first one as its words. None: not begun, since others stop."""
    if _stop is not None and _stop.is_set():
        return None
    try:
        with redirect_stderr(io.StringIO()):
            job.train()
    except DivergedError as error:
        return Ended(error.message, diverged=True)
    except PlusxError as error:
        if _stop is not None and isinstance(error, Stopped):
            _stop.set()
        return Ended(error.message, error.hint)
    return Ended()
