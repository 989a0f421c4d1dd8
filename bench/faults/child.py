"""A run that is made to suffer: the plusx command in a process of its own, watched, and hurt where it is told to be."""

import dataclasses
import importlib
import itertools
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forks import Fork


@dataclass(frozen=True)
class Orders:
    """What a process does.

    Arguments:
        words: of the plusx command.
        seen: a file that gets a JSON line of each step: its number, examples and loss.
        told: a file that gets stderr, another beside it stdout.
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


class Child(Fork):
    """A started process: the leader of a session of its own.

    Arguments:
        orders: what it does.
        fresh: begin with a new interpreter.
    """

    def __init__(self, orders: Orders, fresh: bool = False) -> None:
        super().__init__(obey, orders, path=orders.told, file_size=orders.file_size, fresh=fresh)
        self.orders = orders

    def wait_or_kill(self, seconds: float) -> int | None:
        """The exit code; -9 when SIGKILL was faster."""
        self._process.join(seconds)
        self.send(signal.SIGKILL)
        self._process.join()
        return self._process.exitcode


def obey(orders: Orders) -> None:
    """The whole life of the process."""
    os.setsid()
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
