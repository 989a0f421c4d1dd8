"""`python -m bench.listing FOLDER [--files N]`: how fast, and in how much memory, a folder of N files is opened.

Makes the tree where it is not there yet (empty files, 1,000 classes; ImageNet's training set has 1,281,167) and opens
it with a validation split, each time in a new process. Writes bench/results/listing.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from bench.__main__ import RESULTS, surroundings

CLASSES = 1000
OPEN = """
import re, sys, time
from pathlib import Path
import torch
from plusx.config import DataConfig
from plusx.data import open_dataset

def memory(field):  # MB
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e3

before, start = memory("VmRSS"), time.perf_counter()
dataset = open_dataset(sys.argv[1], DataConfig())
seconds = time.perf_counter() - start
print(sum(map(len, dataset.splits.values())), seconds, memory("VmHWM") - before)
"""


def make(folder: Path, files: int) -> None:
    """`folder/<class>/<class>_<n>.JPEG`, empty; files that are there stay."""
    for k in range(CLASSES):
        home = folder / f"n{k:08d}"
        home.mkdir(parents=True, exist_ok=True)
        for i in range(k, files, CLASSES):
            (home / f"{home.name}_{i}.JPEG").touch()


def main() -> None:
    """Make, open several times, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.listing", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=1_281_167)
    parser.add_argument("--rounds", type=int, default=5, help="openings after the first; their median counts")
    asked = parser.parse_args()
    make(asked.folder, asked.files)
    document, rounds = surroundings(), []
    for _ in range(asked.rounds + 1):
        told = subprocess.run([sys.executable, "-c", OPEN, asked.folder], check=True, capture_output=True, text=True)
        n, seconds, megabytes = told.stdout.split()
        assert int(n) == asked.files, f"{n} files seen"
        rounds.append({"seconds": float(seconds), "megabytes": float(megabytes)})
        print(f"{asked.files:,} files: {float(seconds):.2f} s, {float(megabytes):.0f} MB more than before", flush=True)
    middle = {field: statistics.median(each[field] for each in rounds[1:]) for field in rounds[0]}
    document |= {"files": asked.files, "classes": CLASSES, "first": rounds[0], "median": middle, "rounds": rounds}
    (RESULTS / "listing.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
