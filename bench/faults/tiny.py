"""The run that suffers: ResNet-8, 8 channels wide, 3 epochs of 200 small images, a checkpoint every 5 steps."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.faults.child import Child, Orders
from plusx.engine import checkpoint, tensorfile
from plusx.plan import latest

INTERVAL = 5  # steps between checkpoints
TRAIN, VAL, BATCH, EPOCHS = 200, 300, 16, 3
CLOCKS = {"seconds", "images_per_second", "train_seconds", "epoch_seconds"}
SETTINGS = (
    f"engine.batch={BATCH}",
    f"engine.checkpoint_steps={INTERVAL}",
    "engine.precision=fp32",
    "engine.threads=1",
    "model.width=8",
)

_STRAIGHT: dict[tuple[str, ...], tuple["Ending", list[dict[str, Any]]]] = {}


@dataclass(frozen=True)
class Result:
    """What a case came to.

    Attributes:
        what: is injected.
        must: happen.
        notes: what else was seen; failures first.
    """

    case: str
    what: str
    must: str
    tries: int
    passed: int
    notes: tuple[str, ...] = ()


class Ending(NamedTuple):
    """What interruptions may not change: SHA-256 of model file and newest checkpoint, and the metric rows."""

    model: str
    checkpoint: str
    rows: tuple[str, ...]


def data(folder: Path) -> Path:
    """Noisy images of three colours, 16 px, with a val split of three batches."""
    path = folder / "tiny.npz"
    if not path.exists():
        draw = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        colours = draw.integers(0, 128, (3, 3))
        for split, n in (("train", TRAIN), ("val", VAL)):
            labels = np.arange(n) % 3
            pixels = colours[labels][:, None, None, :] + draw.integers(0, 128, (n, 16, 16, 3))
            arrays |= {f"x_{split}": pixels.astype(np.uint8), f"y_{split}": labels}
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
    return path


def orders(folder: Path, settings: Sequence[str] = (), *, out: Path | None = None, **more: Any) -> Orders:
    """The command that trains in `folder/run`, or in `out`; the data lies beside the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["train", str(data(folder.parent)), "--out", str(out or folder / "run"), "--model", "resnet8"]
    words += ["--epochs", str(EPOCHS)]
    words += [word for setting in latest((*SETTINGS, *settings)) for word in ("--set", setting)]
    return Orders(tuple(words), folder / "seen", folder / "told", **more)


def finished(given: Orders) -> str:
    """Runs a command to its end; '' or what it said."""
    child = Child(given)
    return "" if child.wait() == 0 else child.told()[-500:] or "no end"


def ending(run: Path) -> Ending:
    """How a finished run ended."""
    found = checkpoint.load(checkpoint.stored(run / "checkpoints")[0])
    document = json.dumps(clockless(found.document), sort_keys=True)
    rows = (run / "metrics.jsonl").read_text().splitlines()
    return Ending(
        sha256((run / "model.safetensors").read_bytes()).hexdigest(),
        sha256((tensorfile.digest(found.tensors) + document).encode()).hexdigest(),
        tuple(json.dumps(clockless(json.loads(row))) for row in rows),
    )


def differences(run: Path, wanted: Ending) -> str:
    """What a finished run ended with otherwise, and what it left behind; '' for nothing."""
    own = ending(run)
    odd = [name for name in Ending._fields if getattr(own, name) != getattr(wanted, name)]
    left = [path.name for path in run.rglob("*tmp*")]
    kept = len(checkpoint.stored(run / "checkpoints"))
    return "; ".join(
        [f"{name} differs" for name in odd]
        + [f"{name} is left" for name in left]
        + [f"{kept} checkpoints are kept"] * (kept != checkpoint.KEPT)
    )


def clockless(value: Any) -> Any:
    """JSON values without what a clock decides."""
    if isinstance(value, dict):
        return {k: clockless(v) for k, v in value.items() if k not in CLOCKS}
    return [clockless(v) for v in value] if isinstance(value, list) else value


def steps(given: Orders) -> list[dict[str, Any]]:
    """Every step that was made, in the order of time: its number, examples and loss."""
    text = given.seen.read_text() if given.seen.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]  # the last may be cut off


def reached(child: Child, count: int) -> None:
    """Returns when a process has made so many steps, or has ended."""
    while child.alive() and len(steps(child.orders)) < count:
        time.sleep(0.01)


def straight(folder: Path, settings: Sequence[str] = ()) -> tuple[Ending, list[dict[str, Any]]]:
    """How the undisturbed run ends, and its steps; run once for all cases of the same settings."""
    if (key := tuple(settings)) not in _STRAIGHT:
        given = orders(folder, settings)
        said = finished(given)
        assert not said, said
        _STRAIGHT[key] = ending(folder / "run"), steps(given)
    return _STRAIGHT[key]
