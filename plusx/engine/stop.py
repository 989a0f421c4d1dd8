"""Stopping a run in good order: signals are remembered and heard where the state can be saved."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from plusx.errors import PlusxError

SIGNALS: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
ECHO = 0.5  # seconds in which another Ctrl-C is the same one, passed on by torchrun or another parent


class Stopped(PlusxError):  # noqa: N818  an end that was asked for is no error
    """A run that was told to stop and has saved its state.

    Attributes:
        exit_code: 128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message, "The same command continues it.")
        self.exit_code = 128 + signum


class Interrupt(BaseException):
    """Leaves a wait. Not an Exception, so that nothing on the way takes it for an error of its own."""


class StopSignals:
    """While entered, remembers the first of SIGINT, SIGTERM and SIGHUP; a second Ctrl-C, `ECHO` later, stops at once.

    Python hears signals in the main thread only; in another thread this does nothing. A signal whose handler is not
    Python's could not be given back, and is left to it.

    Attributes:
        received: the number of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._interrupted = math.inf  # by Ctrl-C, at this moment
        self._waiting = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            given = {number: signal.getsignal(number) for number in SIGNALS}
            ignored = given[signal.SIGHUP] is signal.SIG_IGN  # by nohup
            heard = [n for n in given if given[n] is not None and not (n == signal.SIGHUP and ignored)]
            self._previous = {number: signal.signal(number, self._receive) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if (now := time.monotonic()) > self._interrupted + ECHO:
                raise KeyboardInterrupt
            self._interrupted = min(now, self._interrupted)
        self.received = self.received or number
        if self._waiting:
            self._waiting = False
            raise Interrupt

    def check(self) -> None:
        """Raises `Interrupt` when a signal has come."""
        if self.received is not None:
            raise Interrupt

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Code inside changes nothing that is saved, so a signal may leave it at any point."""
        self._waiting = True
        try:
            self.check()
            yield
        finally:
            self._waiting = False
