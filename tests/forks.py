"""Processes that begin with plusx imported, in a moment: forks of one that has, multiprocessing's fork server.

It has no threads, whose locks a fork would find taken for ever.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

# What a run imports, late too, and what starts ranks.
IMPORTED = ("plusx.run", "plusx.cli", "pyarrow.dataset", "scipy.optimize", "torch._dynamo", "torch.distributed.run")
SPAWN, FORK = multiprocessing.get_context("spawn"), multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(list(IMPORTED))


class Fork:
    """A process that calls a function of a module.

    Arguments:
        target: the function.
        args: for it.
        path: a file that gets what the process writes to stderr; `path.out` gets its stdout.
        changes: of its environment.
        place: its working directory.
        file_size: bytes that a file may have.
        fresh: begin with a new interpreter.
    """

    def __init__(
        self,
        target: Callable[..., object],
        *args: Any,
        path: Path,
        changes: Mapping[str, str] | None = None,
        place: Path = Path(),
        file_size: int | None = None,
        fresh: bool = False,
    ) -> None:
        self.path, context = path.absolute(), SPAWN if fresh else FORK
        environment = {**os.environ, **(changes or {})}
        with _one_thread():
            forkserver.ensure_running()
            self._process = context.Process(
                target=_begin, args=(target, args, self.path, environment, place.absolute(), file_size)
            )
            self._process.start()
        self.pid = self._process.pid or 0

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def send(self, number: int, group: bool = False) -> None:
        """A signal, to the process or, once it has one, to its group; too late is no error."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group and os.getpgid(self.pid) == self.pid else os.kill)(self.pid, number)

    def wait(self, seconds: float = 120) -> int | None:
        """The exit code, -N after signal N; None when it takes longer, and it and its group are killed."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self.send(signal.SIGKILL, group=True)
            self._process.join()
        return code

    def said(self) -> tuple[str, str]:
        """What it wrote to stdout and to stderr."""
        out, err = (path.read_text() if path.exists() else "" for path in (_out(self.path), self.path))
        return out, err

    def told(self) -> str:
        """What it wrote."""
        return "".join(self.said())


def _out(path: Path) -> Path:
    return path.with_name(f"{path.name}.out")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a process imports its libraries; one thread can be forked
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def settle(path: Path, environment: Mapping[str, str]) -> None:
    """Makes this process, a fork, one that was started from a shell: its environment, its output, Ctrl-C."""
    os.environ.update(environment)
    for number, file in ((1, _out(path)), (2, path)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _begin(
    target: Callable[..., object],
    args: tuple[Any, ...],
    path: Path,
    environment: Mapping[str, str],
    place: Path,
    file_size: int | None,
) -> None:
    settle(path, environment)
    os.chdir(place)
    if file_size:
        sys.dont_write_bytecode = True  # Python keeps a cut .pyc, which nothing can import again
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    target(*args)
