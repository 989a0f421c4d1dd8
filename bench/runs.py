"""`python -m bench.runs OUT [--cifar10 FOLDER]`: the trainings that the README reports, and their exact test metrics.

Each is the command a user would type. A run that is in OUT already is measured again, not trained again. About 30
minutes on two CPU cores; the results go to bench/results/runs.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.__main__ import RESULTS, surroundings
from plusx.demo import write_digits


def plusx(*arguments: str) -> dict[str, Any]:
    """What a command prints with --json."""
    command = [sys.executable, "-m", "plusx", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def trained(out: Path, data: str, epochs: int, *options: str) -> dict[str, Any]:
    """One row: the run, and its model file on the test split."""
    run = plusx("train", data, "--epochs", str(epochs), "--out", str(out / data), *options)
    return row(f"plusx train {data} --epochs {epochs}", run, plusx("evaluate", str(out / data), data, *options))


def row(command: str, run: dict[str, Any], test: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run that the README reports."""
    assert test["split"] == "test", test["split"]
    kept = ("model", "recipe", "epochs", "n_train", "watched", "selected", "seconds", "images_per_second")
    return {"command": command, **{k: run[k] for k in kept}, **{k: test[k] for k in ("n", "top1", "loss", "ece")}}


def main() -> None:
    """Train, evaluate, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.runs", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--cifar10", help="folder that holds cifar-10-batches-bin; else it is downloaded")
    asked = parser.parse_args()
    document = surroundings()
    digits, run = str(write_digits(asked.out / "demo" / "digits")), str(asked.out / "digits")
    root = ("--set", f"data.root={asked.cifar10}") if asked.cifar10 else ()
    document["runs"] = [
        row("plusx train demo/digits", plusx("train", digits, "--out", run), plusx("evaluate", run, digits)),
        trained(asked.out, "fashion-mnist", 5),
        trained(asked.out, "cifar10", 15, *root),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "runs.json").write_text(json.dumps(document, indent=2) + "\n")
    for r in document["runs"]:
        print(f"{r['command']}: top-1 {r['top1']:.2%} of {r['n']:,}, {r['seconds']:.0f} s")


if __name__ == "__main__":
    main()
