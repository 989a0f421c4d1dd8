"""What a run's own record says: errors of its last epoch and over all of them."""

import json

from plusx.run import Run
from plusx.studies.core import Measured

ERRORS = {"train_error": "training error, %", "test_error": "test error, %"}


def errors(run: Run) -> Measured:
    """Training error of the last epoch, on its augmented images, and error on the watched split after it, percent."""
    series: dict[str, list[tuple[float, float]]] = {"train_error": [], "test_error": []}
    for row in map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines()):
        measure = "train_error" if row["split"] == "train" else "test_error"
        series[measure].append((row["step"], 100 * (1 - row["top1"])))
    return Measured(values={name: points[-1][1] for name, points in series.items()}, series=dict(series))
