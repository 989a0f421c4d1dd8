"""`python -m bench.seeds OUT [--recipe NAME] [--protocol NAME] …`: a CIFAR-10 recipe, several seeds in turn.

Each is the command a user would type. A run that is in OUT already is measured again, not trained again; one that was
cut off goes on. Writes bench/results/NAME.json, with every epoch of every seed, and docs/img/NAME.png.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from bench.__main__ import RESULTS, surroundings
from bench.runs import plusx, row
from plusx.report.charts import write_curve

IMAGES = RESULTS.parents[1] / "docs" / "img"


def trained(folder: Path, recipe: str, protocol: str, seed: int, *options: str) -> dict[str, Any]:
    """One seed: its row, and its metrics epoch by epoch."""
    given = ("cifar10", "--recipe", recipe, "--seed", str(seed))
    run = plusx("train", *given, "--out", str(folder), *options)
    test = plusx("evaluate", str(folder), "cifar10", "--protocol", protocol, *options)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {"seed": seed, **row(f"plusx train {' '.join(given)}", run, test), "metrics": metrics}


def main() -> None:
    """Train, evaluate, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.seeds", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--recipe", default="cifar10-fast")
    parser.add_argument("--protocol", default="1-crop", help="how an image is viewed in the test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cifar10", help="folder that holds cifar-10-batches-bin; else it is downloaded")
    asked = parser.parse_args()
    document = surroundings()
    root = ("--set", f"data.root={asked.cifar10}") if asked.cifar10 else ()
    runs = [trained(asked.out / str(seed), asked.recipe, asked.protocol, seed, *root) for seed in range(asked.seeds)]
    top1 = [run["top1"] for run in runs]
    document |= {
        "recipe": asked.recipe,
        "protocol": asked.protocol,
        "mean": statistics.mean(top1),
        "std": statistics.stdev(top1) if len(top1) > 1 else None,
        "runs": runs,
    }
    (RESULTS / f"{asked.recipe}.json").write_text(json.dumps(document, indent=1) + "\n")
    write_curve(runs[0]["metrics"], IMAGES / f"{asked.recipe}.png", f"{asked.recipe}, seed 0")
    for run in runs:
        print(f"{run['command']}: top-1 {run['top1']:.2%} of {run['n']:,}, {run['seconds'] / 60:.1f} min")
    print(f"mean {document['mean']:.2%} of {len(runs)} seeds")


if __name__ == "__main__":
    main()
