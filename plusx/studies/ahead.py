"""Runs side by side, each in a process of its own; a stop, or the loss of one, ends them all in good order."""

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import Protocol

import torch

from plusx.engine.stop import SIGNALS, Interrupt, Stopped, StopSignals
from plusx.errors import DivergedError, PlusxError, TrainingError
from plusx.threads import own_cores


class Job(Protocol):
    """What a process can be given to train."""

    def train(self) -> object:
        """Train it to its end; once more does nothing."""


def train_ahead(jobs: Sequence[Job], parallel: int) -> None:
    """Train all jobs in the order given, several at a time, each process with its share of the cores.

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
                failures = [failure for failure in pool.map(_train, jobs) if failure]
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
    if failures:
        raise PlusxError(*failures[0])


_stop: Event | None = None  # in such a process: no more runs begin


def _begin(threads: int, stop: Event) -> None:
    """Make a process ready: a Ctrl-C is for the first process, and for runs that can save."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def _train(job: Job) -> tuple[str, str] | None:
    """Train in such a process; an error crosses to the first one as its words."""
    if _stop is not None and _stop.is_set():
        return None
    try:
        job.train()
    except DivergedError:  # told when all runs are measured
        return None
    except PlusxError as error:
        if _stop is not None and isinstance(error, Stopped):
            _stop.set()
        return error.message, error.hint
    return None
