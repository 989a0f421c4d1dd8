"""One rank of a tiny run, told by the environment what to suffer and where to write what it saw.

FAULT is `kind:rank:step`; it happens once, in the first attempt. For `save` the step counts files that are made safe,
and `version` is there from the start. `slow` takes STEP seconds, longer than a collective may, for what is read into
memory and for each evaluation. OBSERVED is a folder.
"""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from plusx import modelfile
from plusx.data import loader
from plusx.data.loader import Batch, EvalLoader, TrainLoader
from plusx.engine import distributed, tensorfile, trainer
from plusx.errors import ImageError, PlusxError
from plusx.plan import latest
from plusx.run import train

RANK, ATTEMPT = int(os.environ.get("RANK", "0")), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
KIND, WHERE, STEP = [*os.environ.get("FAULT", "none:-1:-1").split(":")]
OBSERVED = Path(os.environ["OBSERVED"])
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM, "interrupt": signal.SIGINT}


def due(step: int) -> bool:
    """Whether this rank suffers before the step of this number; the first is 1."""
    return ATTEMPT == 0 and int(WHERE) == RANK and int(STEP) == step


step_of_the_run, epoch_of_the_loader, sync = trainer.train_step, TrainLoader.epoch, tensorfile._sync
stored, evaluated = loader._stored, EvalLoader.__iter__
synced = itertools.count(1)


def train_step(net: Any, optimizer: Any, batch: Batch, running: Any, config: Any, step: int, *rest: Any) -> float:
    """A step that writes down its examples and its loss, or fails."""
    if due(step):
        if KIND in SIGNALS:
            os.kill(os.getpid(), SIGNALS[KIND])
        if KIND == "memory":
            raise torch.OutOfMemoryError("no memory")
        if KIND == "nan":
            batch.images[0, 0, 0, 0] = float("nan")
        if KIND == "bug":
            raise KeyError("a bug")
    loss = step_of_the_run(net, optimizer, batch, running, config, step, *rest)
    with (OBSERVED / f"rank-{RANK}.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "ids": batch.ids.tolist(), "loss": loss}) + "\n")
    return loss


def epoch(self: TrainLoader, epoch: int, start: int = 0) -> Iterator[Batch]:
    """Batches, one of which cannot be decoded."""
    for step, batch in enumerate(epoch_of_the_loader(self, epoch, start), epoch * self.steps_per_epoch + start + 1):
        if KIND == "image" and due(step):
            raise ImageError("photo.jpg", "cut off")
        yield batch


def torn(path: Path) -> None:
    """A file that is made safe; the process may die with only half of it written, or all of it and not yet in place."""
    if KIND == "save" and path.is_file() and due(number := next(synced)):
        os.truncate(path, path.stat().st_size // (1 + number % 2))
        (OBSERVED / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)


def slowly(work: Any) -> Any:
    """What a rank with slow storage does later than others."""

    def late(*given: Any) -> Any:
        if int(WHERE) == RANK:
            time.sleep(int(STEP))
        return work(*given)

    return late


if __name__ == "__main__":
    torch.set_num_threads(1)
    if KIND == "slow":
        distributed.TIMEOUT = timedelta(seconds=4)
        loader._stored, EvalLoader.__iter__ = slowly(stored), slowly(evaluated)  # type: ignore[method-assign]
    trainer.train_step, TrainLoader.epoch, tensorfile._sync = train_step, epoch, torn  # type: ignore[assignment]
    if KIND == "version" and int(WHERE) == RANK:
        told = modelfile.versions()
        modelfile.versions = lambda: told | {"torch": "1.0"}
    try:
        train(sys.argv[1], out=sys.argv[2], overrides=latest(sys.argv[3:]))
    except PlusxError as error:
        if not error.told_elsewhere:
            sys.stderr.write(f"plusx: {error}\n")
        sys.exit(getattr(error, "exit_code", 1))
