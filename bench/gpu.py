"""`python -m bench.gpu OUT [--cifar10 FOLDER] [--rehearse]`: Table 6 and its plain twins at the paper's own budget.

Twenty, 32, 44, 56 and 110 layers, plain and residual, 64,000 steps each, several runs at a time; the last epoch counts.
Arithmetic is `engine.precision=bf16`, a departure. Each residual net is compared with Table 6: one seed of each, which
lies about 0.15 points from its mean. Runs that are in OUT already are not trained again. `--rehearse` makes 200 steps
of each net on the CPU, which shows that everything runs; its errors mean nothing. Results: bench/results/gpu.json or
gpu-rehearsal.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench.__main__ import RESULTS, surroundings
from bench.runs import plusx

WITHIN = 0.5  # points of test error: what counts as the paper's


def compared(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each net that Table 6 has: its test error, the paper's, the difference in points, and whether it is small."""
    return [
        {
            "net": row["arm"],
            "error": row["mean"],
            "paper": row["paper"],
            "difference": row["difference"],
            "within": abs(row["difference"]) <= WITHIN,
        }
        for row in table
        if row["paper"] is not None
    ]


def main() -> None:
    """Train, compare with the paper, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--cifar10", help="folder that holds cifar-10-batches-bin; else it is downloaded")
    parser.add_argument("--parallel", type=int, default=5, help="runs at a time on the GPU")
    parser.add_argument("--rehearse", action="store_true", help="200 steps of each net, on the CPU")
    asked = parser.parse_args()
    settings = ["engine.precision=bf16"]
    settings += ["engine.device=cpu", "schedule.steps=200"] if asked.rehearse else ["engine.device=cuda"]
    root = ["--set", f"data.root={asked.cifar10}"] if asked.cifar10 else []
    parallel = 1 if asked.rehearse else asked.parallel
    words = ["study", "degradation", "--budget", "paper", "--seeds", "1", "--parallel", str(parallel)]
    words += [word for setting in settings for word in ("--set", setting)]
    start = time.perf_counter()
    result = plusx(*words, *root, "--out", str(asked.out / ("rehearsal" if asked.rehearse else "table6")))
    document = surroundings() | {
        "command": "plusx " + " ".join(words),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "table6": {"within_points": WITHIN, "nets": [] if asked.rehearse else compared(result["table"])},
        "table": result["table"],
        "claims": result["claims"],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"gpu{'-rehearsal' * asked.rehearse}.json").write_text(json.dumps(document, indent=2) + "\n")
    for row in result["table"]:
        print(f"{row['arm']}: {row['measure']} {row['mean']:.2f} %")
    for net in document["table6"]["nets"]:
        verdict = "within" if net["within"] else "not within"
        told = f"{net['error']:.2f} %, the paper {net['paper']:.2f}, difference {net['difference']:+.2f}"
        print(f"{net['net']}: {told}: {verdict} {WITHIN} points")


if __name__ == "__main__":
    main()
