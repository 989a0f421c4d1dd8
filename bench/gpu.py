"""`python -m bench.gpu OUT [--cifar10 FOLDER] [--rehearse] [NET …]`: Table 6 and its plain twins at the paper's budget.

Twenty, 32, 44, 56 and 110 layers, plain and residual, 64,000 steps each, several runs at a time; the last epoch counts.
Arithmetic is bfloat16, a departure; passes are replayed as CUDA graphs. Where NVIDIA's MPS is installed, kernels of
several runs share the GPU side by side; else they take turns, at about half the speed. Each residual net is compared
with Table 6: one seed of each, which lies about 0.15 points from its mean. Naming nets trains those alone, so that a
GPU that is there for minutes makes the table in parts; a run that is in OUT already is not trained again, and one that
was stopped goes on. `--rehearse` makes 200 steps of each net on the CPU, which shows that everything runs; its errors
mean nothing.

Results, the other nets' kept: bench/results/gpu.json, or gpu-rehearsal.json, and docs/results/table6/ for figures.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from bench.__main__ import RESULTS, surroundings
from bench.runs import plusx
from plusx.studies.curves import Measured
from plusx.studies.degradation import PAPER, STUDY, nets
from plusx.studies.page import write_figures

WITHIN = 0.5  # points of test error: what counts as the paper's
NETS = tuple(nets(*PAPER))
DEEPEST_FIRST = tuple(sorted(NETS, key=lambda net: -int("".join(filter(str.isdigit, net)))))
MPS = "nvidia-cuda-mps-control"
FIGURES = RESULTS.parents[1] / "docs" / "results" / "table6"


def trained(folder: Path, net: str, *options: str) -> dict[str, Any]:
    """One run: its errors in percent beside the paper's, its cost, and both errors over the steps."""
    run = plusx("train", "cifar10", "--recipe", "cifar10-paper", "--model", net, "--out", str(folder), *options)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curves = {
        measure: [(row["step"], round(100 * (1 - row["top1"]), 3)) for row in rows if (row["split"] == "train") == own]
        for measure, own in (("train_error", True), ("test_error", False))
    }
    return {
        "net": net,
        "steps": rows[-1]["step"],
        "train_error": curves["train_error"][-1][1],
        **compared(net, curves["test_error"][-1][1]),
        "minutes": round(run["seconds"] / 60, 1),
        "images_per_second": run["images_per_second"],
        "curves": curves,
    }


def compared(net: str, error: float) -> dict[str, Any]:
    """A test error, Table 6's for the net, the difference in points, and whether it is small; None for plain nets."""
    paper = {f"resnet{depth}": value for depth, value in PAPER.items()}.get(net)
    difference = None if paper is None else round(error - paper, 3)
    within = None if difference is None else abs(difference) <= WITHIN
    return {"test_error": error, "paper": paper, "difference": difference, "within": within}


def told(row: dict[str, Any]) -> str:
    """A run in a line."""
    errors = f"{row['net']}: training error {row['train_error']:.2f} %, test error {row['test_error']:.2f} %"
    if row["paper"] is None:
        return errors
    verdict = "within" if row["within"] else "not within"
    return f"{errors}, the paper {row['paper']:.2f}, difference {row['difference']:+.2f}: {verdict} {WITHIN} points"


def keep(path: Path, row: dict[str, Any], command: str) -> None:
    """Write a run beside those of other nets."""
    before = json.loads(path.read_text()) if path.exists() else {"calls": [], "nets": []}
    others = [other for other in before["nets"] if other["net"] != row["net"]]
    document = {
        "command": command,
        "within_points": WITHIN,
        "calls": before["calls"],
        "nets": sorted([*others, row], key=lambda row: NETS.index(row["net"])),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def draw(rows: Sequence[dict[str, Any]]) -> None:
    """Errors of all nets over the steps, as in Fig. 6, and the last ones."""
    found = {
        row["net"]: [Measured(values={name: row[name] for name in row["curves"]}, series=row["curves"])] for row in rows
    }
    write_figures(FIGURES, STUDY.figures, found)


@contextmanager
def side_by_side() -> Iterator[bool]:
    """Processes started meanwhile share the GPU through NVIDIA's MPS, if it is installed: whether it is."""
    if shutil.which(MPS) is None:
        yield False
        return
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # the server may still write
        os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        try:
            subprocess.run([MPS, "-d"], check=True)
            try:
                yield True
            finally:
                subprocess.run([MPS], input="quit\n", text=True, check=True)
        finally:
            os.environ.clear()
            os.environ |= before


def main() -> None:
    """Train, compare with the paper, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("nets", nargs="*", default=NETS, metavar="NET", help=f"of {', '.join(NETS)}; else all")
    parser.add_argument("--cifar10", help="folder that holds cifar-10-batches-bin; else it is downloaded")
    parser.add_argument("--parallel", type=int, default=len(NETS), help="runs at a time on the GPU")
    parser.add_argument("--rehearse", action="store_true", help="200 steps of each net, on the CPU")
    asked = parser.parse_intermixed_args()
    if unknown := set(asked.nets) - set(NETS):
        parser.error(f"got {', '.join(sorted(unknown))}, expected some of {', '.join(NETS)}")
    rehearsal = ["engine.device=cpu", "schedule.steps=200"]
    real = ["engine.device=cuda", "engine.precision=bf16", "engine.cuda_graphs=true"]
    settings = ["engine.evaluate_every=4", *(rehearsal if asked.rehearse else real)]
    words = " ".join(f"--set {setting}" for setting in settings)
    settings += [f"data.root={asked.cifar10}"] if asked.cifar10 else []
    options = [word for setting in settings for word in ("--set", setting)]
    path = RESULTS / f"gpu{'-rehearsal' * asked.rehearse}.json"
    start, parallel, about = time.perf_counter(), 1 if asked.rehearse else asked.parallel, surroundings()
    sharing = nullcontext(False) if asked.rehearse else side_by_side()
    with sharing as shared, ThreadPoolExecutor(parallel) as pool:
        chosen = [net for net in DEEPEST_FIRST if net in asked.nets]
        runs = [pool.submit(trained, asked.out / net, net, *options) for net in chosen]
        for run in as_completed(runs):  # each is kept at once
            if error := run.exception():  # those of the others count all the same
                print(error, flush=True)
                continue
            print(told(row := run.result()), flush=True)
            keep(path, row, f"plusx train cifar10 --recipe cifar10-paper --model NET {words}")
    about |= {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}
    about |= {"parallel": parallel, "mps": shared, "nets": chosen}
    about |= {"minutes": round((time.perf_counter() - start) / 60, 1)}
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"calls": [*document["calls"], about]}, indent=1) + "\n")
    if not asked.rehearse:
        draw(document["nets"])


if __name__ == "__main__":
    main()
