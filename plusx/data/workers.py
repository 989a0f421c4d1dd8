"""Processes that work ahead: each has a pipe and memory of its own, so one that dies or hangs blocks no other.

On Linux results lie in memory that both sides have mapped since the fork. It is no file of /dev/shm, which a container
may keep small, and taking a result needs nothing of the process that made it.
"""

import contextlib
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plusx.errors import ImageError, TrainingError
from plusx.memory import keep_freed_memory

SLOTS = 3  # results of a process that may exist at a time: two ahead, and the one in use
CLOSING_SECONDS = 5.0  # that a process gets to finish its task when it is closed early
SILENT_SECONDS = 60.0  # without a sign of life, after which a process counts as hung; other ranks wait for 90
WATCH_SECONDS = 0.2  # between looks: of a process at whether its parent lives, of the parent at its signs of life
KEPT_BYTES = 2**28  # of memory that a process freed; one huge photo shall not stay with each
LINUX = sys.platform == "linux"
Work = Callable[[Any, Callable[[], None]], Tensor]
"""(task, what to call after each part of it as a sign of life) -> uint8 or float32 tensor."""


class Waiting(NamedTuple):
    """A task whose result nobody has had yet."""

    task: Any
    worker: int
    slot: int


class Workers:
    """Processes that compute tensors from tasks, in turn.

    Arguments:
        work: task -> tensor, with a sign of life after each part.
        count: of processes.
        room: bytes of the largest result.

    Attributes:
        waiting: tasks whose results nobody has had yet.

    Raises:
        TrainingError: the system starts no more processes, or this one may start none.
    """

    def __init__(self, work: Work, count: int, room: int) -> None:
        if multiprocessing.current_process().daemon:
            message = "A daemonic process, as those of multiprocessing.Pool are, can start no decoding processes."
            raise TrainingError(message, "Set data.workers=0, or use concurrent.futures.ProcessPoolExecutor.")
        # A child of a fork server would have another parent to end with.
        context: Any = multiprocessing.get_context("fork" if LINUX else None)
        self._processes: list[Any] = []
        self._pipes: list[Any] = []
        self._slots: list[list[mmap.mmap]] = []
        self._sent = [0] * count
        self._signs = np.frombuffer(mmap.mmap(-1, 8 * count), np.int64)  # of life; elsewhere than on Linux they stay 0
        self.waiting: deque[Waiting] = deque()
        # A process inherits the mask, so that no signal finds it, or the fork, halfway.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            for number in range(count):
                ours, theirs = context.Pipe()
                self._pipes.append(ours)
                self._slots.append([mmap.mmap(-1, room) for _ in range(SLOTS)] if LINUX else [])
                what = (work, theirs, self._pipes, self._slots[-1], self._signs[number : number + 1], os.getpid())
                process = context.Process(target=_serve, args=what, daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
        except OSError as error:
            self.close()
            message = f"{len(self._processes)} of {count} decoding processes could be started: {error.strerror}."
            raise TrainingError(message, "Set fewer data.workers; 0 needs none.") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def results(self, tasks: Iterator[Any]) -> Iterator[tuple[Any, Tensor]]:
        """Each task and its result, in order; a result may be overwritten once the next is asked for.

        Raises:
            ImageError: a file that cannot be decoded.
            TrainingError: a process died, or does not answer.
        """
        waiting, count = self.waiting, len(self._pipes)
        try:
            for number, task in enumerate(tasks):
                worker = number % count
                slot = self._sent[worker] % SLOTS
                self._sent[worker] += 1
                waiting.append(Waiting(task, worker, slot))
                self._pipes[worker].send((slot, task))
                if len(waiting) > 2 * count:
                    yield self._next()
            while waiting:
                yield self._next()
        except (OSError, EOFError) as error:
            raise TrainingError(
                f"Decoding process {self._gone()} of {count} died.",
                "Most often memory ran out, a container's too; --set data.workers=0 decodes in the training process.",
            ) from error

    def _next(self) -> tuple[Any, Tensor]:
        task, worker, slot = self.waiting[0]
        if self._silent(worker):
            raise TrainingError(
                f"Decoding process {worker + 1} of {len(self._pipes)} has been silent for {SILENT_SECONDS:.0f} s.",
                "See whether its files can still be read; --set data.workers=0 reads them in the training process.",
            )
        found = self._pipes[worker].recv()
        if isinstance(found, ImageError):
            raise found
        self.waiting.popleft()
        if not LINUX:
            return task, torch.from_numpy(found)
        return task, torch.from_numpy(_array(self._slots[worker][slot], *found))

    def _silent(self, worker: int) -> bool:
        """Wait for a result; whether a process gives no sign of life instead."""
        seen, since = -1, time.monotonic()
        while not self._pipes[worker].poll(WATCH_SECONDS):
            signs, now = int(self._signs[worker]), time.monotonic()
            if signs != seen:
                seen, since = signs, now
            elif now - since > SILENT_SECONDS:
                return True
        return False

    def _gone(self) -> int:
        """The number of a process that died; if the system has not noticed yet, of the one that was to answer."""
        died = [number for number, process in enumerate(self._processes, 1) if not process.is_alive()]
        return died[0] if died else 1 + self.waiting[0].worker

    def close(self) -> None:
        """End the processes: each may finish the task at hand, but not for long."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(CLOSING_SECONDS)
            process.kill()


def _array(memory: mmap.mmap, shape: tuple[int, ...], kind: str) -> Any:
    """A NumPy array over the beginning of a slot."""
    return np.frombuffer(memory, kind, int(np.prod(shape))).reshape(shape)


def _serve(work: Work, pipe: Any, others: Any, slots: list[mmap.mmap], signs: NDArray[np.int64], parent: int) -> None:
    """The life of a process; `others` are its copies of the parent's ends, which would keep its own one open."""
    for other in others:
        other.close()
    torch.set_num_threads(1)
    keep_freed_memory(KEPT_BYTES)
    # A signal to the whole group must leave the workers alive: the training process saves first, and then ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if LINUX:  # elsewhere SIGTERM ends a worker, whoever sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def alive() -> None:
        signs[0] += 1

    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(OSError, EOFError):  # the other end was closed
        while True:
            slot, task = pipe.recv()
            try:
                pixels = work(task, alive).numpy()
            except ImageError as error:
                pipe.send(error)
                continue
            if slots:
                _array(slots[slot], pixels.shape, pixels.dtype.str)[...] = pixels
            pipe.send((pixels.shape, pixels.dtype.str) if slots else pixels)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, however that ended, or asks for it."""
    while os.getppid() == parent:
        if not LINUX:
            time.sleep(WATCH_SECONDS)
        elif (told := signal.sigtimedwait({signal.SIGTERM}, WATCH_SECONDS)) and told.si_pid == parent:
            break
    os._exit(1)
