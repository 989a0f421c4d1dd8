"""A run that is made to suffer: the plusx command in a process of its own, watched, and hurt where it is told to be."""

import contextlib
import dataclasses
import importlib
import itertools
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

_SPAWN, _FORK = multiprocessing.get_context("spawn"), multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["plusx.run", "plusx.cli", "bench.faults.child"])
PATIENCE = 120.0  # seconds for a run of seconds


@dataclass(frozen=True)
class Orders:
    """What a process does.

    Arguments:
        words: of the plusx command.
        seen: a file that gets a JSON line of each step: its number, examples and loss.
        told: a file that gets stdout and stderr.
        hurt: `step 7`: before that step; `epoch 2`: after its last step; `evaluation 2`: in the midst of it.
        number: the signal that the process then sends itself; 0 waits for a line in the file `go` beside `seen`.
        workers: decoding processes, whatever the run was made with.
        file_size: bytes that a file may have.
    """

    words: tuple[str, ...]
    seen: Path
    told: Path
    hurt: str = ""
    number: int = signal.SIGTERM
    workers: int | None = None
    file_size: int | None = None


class Child:
    """A started process: the leader of a session of its own.

    Arguments:
        orders: what it does.
        fresh: begin with a new interpreter; else with a fork of one that has imported plusx, which saves seconds.
    """

    def __init__(self, orders: Orders, fresh: bool = False) -> None:
        self.orders = orders
        with _one_thread():
            forkserver.ensure_running()
            self._process = (_SPAWN if fresh else _FORK).Process(target=obey, args=(orders,))
            self._process.start()
        self.pid = self._process.pid or 0

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def send(self, number: int, group: bool = False) -> None:
        """A signal, to the process or, once it has one, to its group; too late is no error."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group and os.getpgid(self.pid) == self.pid else os.kill)(self.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """The exit code, -N after signal N; None, and the process killed, when it takes longer."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self.wait_or_kill(0)
        return code

    def wait_or_kill(self, seconds: float) -> int | None:
        """The exit code; -9 when SIGKILL was faster."""
        self._process.join(seconds)
        self.send(signal.SIGKILL)
        self._process.join()
        return self._process.exitcode

    def told(self) -> str:
        """What it printed."""
        return self.orders.told.read_text() if self.orders.told.exists() else ""


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


def obey(orders: Orders) -> None:
    """The whole life of the process."""
    os.setsid()
    out = os.open(orders.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if orders.file_size:
        sys.dont_write_bytecode = True  # Python keeps a cut .pyc, which nothing can import again
        resource.setrlimit(resource.RLIMIT_FSIZE, (orders.file_size, orders.file_size))
    from plusx import cli

    _watch(orders)
    sys.argv = ["plusx", *orders.words]
    cli.main()


def _watch(orders: Orders) -> None:
    """Puts itself between the trainer and its step, its evaluation and its loader."""
    run: Any = importlib.import_module("plusx.run")
    trainer: Any = importlib.import_module("plusx.engine.trainer")
    step_of_the_run, measure_of_the_run, loader_of_the_run = trainer.train_step, run.measure, run.TrainLoader
    evaluations = 0

    def train_step(net: Any, optimizer: Any, batch: Any, running: Any, config: Any, number: int, *rest: Any) -> float:
        _hurt(orders, f"step {number}")
        loss: float = step_of_the_run(net, optimizer, batch, running, config, number, *rest)
        line = json.dumps({"step": number, "ids": batch.ids.tolist(), "loss": loss}) + "\n"
        with orders.seen.open("a") as file:
            file.write(line)
        return loss

    def measure(module: Any, batches: Any, *rest: Any) -> Any:
        nonlocal evaluations
        evaluations += 1
        _hurt(orders, f"epoch {evaluations}")
        passes = itertools.count()

        def midway(*_: Any) -> None:
            if next(passes) == 1:
                _hurt(orders, f"evaluation {evaluations}")

        handle = module.register_forward_pre_hook(midway)
        try:
            return measure_of_the_run(module, batches, *rest)
        finally:
            handle.remove()

    def loader(*args: Any, **options: Any) -> Any:
        return loader_of_the_run(*args, **options | ({} if orders.workers is None else {"workers": orders.workers}))

    trainer.train_step, run.measure, run.TrainLoader = train_step, measure, loader


def _hurt(orders: Orders, where: str) -> None:
    if where != orders.hurt:
        return
    if orders.number:
        os.kill(os.getpid(), orders.number)
        return
    orders.seen.with_name("waits").touch()
    while not orders.seen.with_name("go").exists():
        time.sleep(0.005)


def again(orders: Orders) -> Orders:
    """The same command, unharmed."""
    return dataclasses.replace(orders, hurt="", file_size=None)
