"""plusx's side: what `plusx train` assembles, from the request to the trainer, with a loader that notes the time."""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from plusx import run
from plusx.data import open_dataset
from plusx.data.loader import Batch
from plusx.engine import Log
from plusx.plan import Request
from plusx.prepare import prepare as prepare_run

Measure = Callable[[int, int], float]


class Timed:
    """A train loader of one epoch: `untimed` steps, `timed` ones, and one to end them."""

    def __init__(self, loader: Any, untimed: int, timed: int) -> None:
        self.loader, self.untimed, self.timed = loader, untimed, timed
        self.steps_per_epoch = untimed + timed + 1
        self.images = 0
        self.start = self.end = 0.0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The loader's batches, over as many of its epochs as it takes; asked for one, the step before is done."""
        batches = itertools.chain.from_iterable(self.loader.epoch(e) for e in itertools.count())
        for number in range(self.steps_per_epoch):
            if number == self.untimed:
                self.start = time.perf_counter()
            if number == self.untimed + self.timed:
                self.end = time.perf_counter()
            batch = next(batches)
            self.images += len(batch.ids) if self.untimed <= number < self.untimed + self.timed else 0
            yield batch

    def close(self) -> None:
        """End the loader's workers."""
        self.loader.close()


def prepare(model: str, source: Path, size: int, batch: int) -> tuple[Measure, dict[str, Any]]:
    """A function from (untimed, timed) steps to images/s of the timed ones, and the settings, all chosen by plusx."""
    overrides = (f"engine.batch={batch}", "data.val_fraction=0")
    request = Request(data=str(source), model=model, size=size, epochs=1, overrides=overrides)
    log = Log(None, console=Console(quiet=True))
    dataset = open_dataset(request.data, request.data_config())
    with tempfile.TemporaryDirectory() as folder:
        plan, dataset, manifest_hash = prepare_run(Path(folder), request, dataset, log)

    def measure(untimed: int, timed: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            trainer = run.make_trainer(Path(folder), plan, dataset, manifest_hash, log)
            clock = Timed(trainer.train, untimed, timed)
            trainer.train, trainer.total = clock, clock.steps_per_epoch
            trainer.fit()
        return clock.images / (clock.end - clock.start)

    engine = plan.config.engine
    about = {"precision": engine.precision, "channels_last": engine.channels_last, "workers": plan.config.data.workers}
    about |= {"threads": torch.get_num_threads(), "openmp_spins": os.environ.get("GOMP_SPINCOUNT", "default")}
    return measure, about
