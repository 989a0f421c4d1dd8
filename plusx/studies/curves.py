"""What a finished run gave: by default its own record, errors of the last epoch and over all of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from plusx.result import Run

ERRORS = {"train_error": "training error in the last epoch, on augmented images, %", "test_error": "test error, %"}

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one finished run gave.

    Attributes:
        values: numbers for the table, by measure.
        series: lines for the figures, by measure: (x, y) with x an epoch, a layer, …
    """

    values: dict[str, float]
    series: dict[str, Points] = field(default_factory=dict)


def errors(run: Run) -> Measured:
    """Training error of the last epoch, on its augmented images, and error on the watched split after it, percent."""
    series: dict[str, list[tuple[float, float]]] = {"train_error": [], "test_error": []}
    for row in map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines()):
        measure = "train_error" if row["split"] == "train" else "test_error"
        series[measure].append((row["step"], 100 * (1 - row["top1"])))
    return Measured(values={name: points[-1][1] for name, points in series.items()}, series=dict(series))
