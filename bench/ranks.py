"""`python -m bench.ranks OUT`: Fashion-MNIST for one epoch by two processes under torchrun, and by one.

Compares the order of examples, step by step; the evaluation that the two processes shared with one of the same model
file by a single process; and the images/s. About 3 minutes on two cores; writes bench/results/ranks.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.__main__ import RESULTS, surroundings
from bench.runs import plusx

DRIVER = RESULTS.parents[1] / "tests" / "distributed" / "driver.py"
CASES = {
    "one process, one thread": (1, 1),
    "one process, two threads": (1, 2),
    "two processes, one thread each": (2, 1),
}
EPOCH = ("schedule.epochs=1",)


def trained(folder: Path, processes: int, threads: int, data: str) -> tuple[list[list[int]], dict[str, Any]]:
    """The ids of every step, those of rank 0 first, and what the run reached."""
    seen = folder / "seen"
    seen.mkdir(parents=True)
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
    command = [sys.executable, *(launcher if processes > 1 else ()), str(DRIVER), data, str(folder / "run"), *EPOCH]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OBSERVED": str(seen)}
    subprocess.run([*command, f"engine.threads={threads}"], env=environment, check=True, stdout=subprocess.DEVNULL)
    ranks = [[json.loads(line) for line in path.open()] for path in sorted(seen.iterdir())]
    ids = [[i for row in step for i in row["ids"]] for step in zip(*ranks, strict=True)]
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    return ids, {row["split"]: row for row in rows}


def main() -> None:
    """Train, compare, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.ranks", description=__doc__)
    parser.add_argument("out", type=Path, help="a new folder for the runs")
    parser.add_argument("--data", default="fashion-mnist")
    asked = parser.parse_args()
    document, orders = surroundings(), []
    document |= {"data": asked.data, "runs": []}
    for number, (name, (processes, threads)) in enumerate(CASES.items()):
        folder = asked.out / str(number)
        ids, rows = trained(folder, processes, threads, asked.data)
        alone = plusx("evaluate", str(folder / "run"), asked.data, "--split", "test")
        orders.append(ids)
        shared = rows["test"]
        run = {
            "processes": processes,
            "threads": threads,
            "steps": len(ids),
            "examples": sum(map(len, ids)),
            "same_order": ids == orders[0],
            "images_per_second": rows["train"]["images_per_second"],
            "test": {key: shared[key] for key in ("top1", "top5", "loss")},
            "test_by_one_process": {key: alone[key] for key in ("n", "top1", "top5", "loss")},
            "same_counts": (shared["top1"], shared["top5"]) == (alone["top1"], alone["top5"]),
        }
        document["runs"].append({"name": name, **run})
        print(f"{name}: {run['images_per_second']:,.0f} images/s, same order: {run['same_order']}, ", end="")
        print(f"test {shared['top1']:.2%}, counted by one process {alone['top1']:.2%}", flush=True)
    (RESULTS / "ranks.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
