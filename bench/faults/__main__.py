"""`python -m bench.faults [quick|full] [--tries N] [NAME …]`: inject faults into training, tell what became of them.

`full` tries each as often as the figures want, `quick` a few times. Both write docs/reliability.md and their JSON under
bench/results/; cases that are not named keep their figures, if those are of the same machine and versions. `--tries`
sets the number.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.__main__ import RESULTS, surroundings
from bench.faults.cases import CASES
from bench.faults.page import page

FIGURES = {"full": RESULTS / "faults.json", "quick": RESULTS / "faults-quick.json"}
PAGE = RESULTS.parents[1] / "docs" / "reliability.md"


def tried(name: str, tries: int, instructions: str) -> dict[str, Any]:
    """One case, with its seed, when it was tried, with which instructions of the CPU, and how long it took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="plusx-faults-") as folder:
        result = CASES[name].run(tries, Path(folder))
    return dataclasses.asdict(result) | {
        "notes": list(result.notes),
        "seed": name,
        "seconds": round(time.perf_counter() - start, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "instructions": instructions,
    }


def kept(path: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Earlier figures by case, unless another machine or other versions gave them; instructions may differ."""
    document = json.loads(path.read_text()) if path.exists() else {"cases": []}
    same = all(document.get(key) == about[key] for key in ("cpu", "cores", "versions"))
    return {row["case"]: row for row in document["cases"]} if same else {}


def main() -> None:
    """Inject, tell, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("tier", nargs="?", choices=("quick", "full"), default="quick")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; all when none is named")
    parser.add_argument("--tries", type=int, help="instead of the tier's number")
    asked = parser.parse_intermixed_args()
    if unknown := set(asked.names) - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}")
    about = surroundings()
    path = FIGURES[asked.tier]
    rows, failed = kept(path, about), []
    for name in asked.names or CASES:
        tries = asked.tries or getattr(CASES[name], asked.tier)
        if not tries or not CASES[name].possible():
            needs = " ".join(CASES[name].needs)
            print(f"{name}: not tried, " + (f"`{needs}` fails here" if tries else "only in the full tier"), flush=True)
            continue
        rows[name] = row = tried(name, tries, about["instructions"])
        print(
            f"{name}: {row['passed']} of {row['tries']}, {row['seconds']:.0f} s. {'; '.join(row['notes'])}", flush=True
        )
        failed += [name] * (row["passed"] < row["tries"])
        document = about | {"cases": [rows[case] for case in CASES if case in rows]}
        path.write_text(json.dumps(document, indent=2) + "\n")
        PAGE.write_text(page(*(json.loads(FIGURES[tier].read_text()) for tier in ("full", "quick"))))
    print(f"written: {path}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
