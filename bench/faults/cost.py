"""R10: what saving costs."""

import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.faults.tiny import Result
from plusx import run
from plusx.engine import checkpoint
from plusx.models import create_model

INTERVAL = 300.0  # seconds between checkpoints: the default of engine.checkpoint_minutes
ALLOWED = 0.03  # of the time
NETWORKS = ("resnet20", "resnet18", "resnet50", "resnet152")


def cost(tries: int, folder: Path) -> Result:
    """Checkpoints of several networks, as a share of the default interval; and all those of a short run."""
    passed, notes = 0, []
    for number in range(tries):
        name = NETWORKS[number % len(NETWORKS)]
        network = create_model(name, 1000)
        tensors = {f"model/{key}": value for key, value in network.state_dict().items()}
        tensors |= {f"optim/{key}": torch.ones_like(value) for key, value in network.named_parameters()}
        start = time.perf_counter()
        path = checkpoint.save(folder / name, number, {}, tensors)
        share = (seconds := time.perf_counter() - start) / INTERVAL
        passed += share <= ALLOWED
        notes.append(f"{name}: {path.stat().st_size / 1e6:.0f} MB in {seconds:.2f} s, {share:.2%} of five minutes")
    saves, seconds = _short_run(folder / "digits", epochs=max(2, tries))
    notes.append(
        f"a run of {max(2, tries)} epochs of digits, {seconds:.1f} s, saved after each epoch: {len(saves)} times, "
        f"{sum(saves) / seconds:.1%} of its time"
    )
    return Result(
        "R10",
        "checkpoints of ResNets for 1,000 classes, with momentum",
        f"at most {ALLOWED:.0%} of the default interval of five minutes (each epoch's end is saved besides)",
        tries,
        passed,
        tuple(notes),
    )


def _short_run(folder: Path, epochs: int) -> tuple[list[float], float]:
    """Seconds of each save of a run with the default settings, and of the training."""
    saves: list[float] = []
    save = checkpoint.save

    def timed(*args: Any) -> Path:
        start = time.perf_counter()
        path = save(*args)
        saves.append(time.perf_counter() - start)
        return path

    with mock.patch.object(checkpoint, "save", timed):
        done = run.train("digits", out=folder, epochs=epochs)
    return saves, done.seconds
