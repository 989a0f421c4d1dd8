"""`python -m bench`: every comparison, and its results as JSON under bench/results/.

Run it on a quiet machine. `--quick` shows in a minute that everything runs; its numbers mean nothing and are not kept.
"""

import argparse
import importlib
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
KINDS = ("training", "loading")
PACKAGES = ("plusx", "torch", "torchvision", "numpy", "pillow")


def cpu() -> str:
    """The processor's name, as Linux gives it; not by plusx, whose import changes what both sides would inherit."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.machine()


def surroundings() -> dict[str, Any]:
    """Hardware, versions and date: what a number is worth nothing without."""
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": torch.get_num_threads(),
        "load_at_start": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def comparisons(kind: str, folder: Path, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """The result of every comparison of a kind, as it is done."""
    module = importlib.import_module({"training": "bench.train", "loading": "bench.loader"}[kind])
    yield from module.run(folder, rounds, quick)


def main() -> None:
    """Measure, print a line for each result, and write them all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds; medians are compared")
    parser.add_argument("--only", choices=KINDS, help="leave the other kind out")
    parser.add_argument("--quick", action="store_true", help="show that it runs; the numbers mean nothing")
    asked = parser.parse_args()
    about = surroundings()
    print(f"{about['cpu']}, {about['cores']} cores; load {about['load_at_start']:.1f}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="plusx-bench-") as folder:
        for kind in (asked.only,) if asked.only else KINDS:
            results = []
            for result in comparisons(kind, Path(folder), 1 if asked.quick else asked.rounds, asked.quick):
                results.append(result)
                print(
                    f"{result['name']}: plusx {result['plusx']:.1f}, plain {result['plain']:.1f} {result['unit']}, "
                    f"ratio {result['ratio']:.2f} (goal {result['goal']:.1f})",
                    flush=True,
                )
            if not asked.quick:
                path = RESULTS / f"speed-{kind}.json"
                RESULTS.mkdir(exist_ok=True)
                path.write_text(json.dumps({**about, kind: results}, indent=2) + "\n")
                print(f"written: {path}")


if __name__ == "__main__":
    main()
