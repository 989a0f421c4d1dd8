"""What there is to inject: each case with its tries in the quick and in the full tier."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.faults.around import clocks, decoders, memory, places
from bench.faults.calls import calls
from bench.faults.cost import cost
from bench.faults.damage import damage
from bench.faults.disk import full
from bench.faults.kills import kills
from bench.faults.matrix import matrix
from bench.faults.ranks import losses, meeting, saves, signals, worlds
from bench.faults.stops import leftovers, sigterm
from bench.faults.tiny import Result

ALL = 1_000_000  # as many as there are


class Case(NamedTuple):
    """A function of (tries, empty folder), how often it tries in each tier, and a command that must work for it."""

    run: Callable[[int, Path], Result]
    quick: int
    full: int
    needs: tuple[str, ...] = ("true",)

    def possible(self) -> bool:
        """Whether this machine allows it."""
        return not (shutil.which(self.needs[0]) is None or subprocess.run(self.needs, capture_output=True).returncode)


CASES = {
    "R1": Case(kills, 2, 200),
    "R2": Case(calls, 3, ALL, ("strace", "-o", os.devnull, "true")),
    "R3": Case(sigterm, 2, 100),
    "R4": Case(full, 2, 50, ("unshare", "--map-root-user", "--mount", "true")),
    "R5": Case(damage, 220, 1100),
    "R6": Case(matrix, 2, ALL),
    "R7": Case(worlds, 0, 10),  # tests/distributed tries these two and the like of E6
    "R8": Case(losses, 0, 60),
    "R9": Case(leftovers, 5, 100),
    "R10": Case(cost, 1, 4),
    "C6": Case(places, 3, 30),
    "C7": Case(decoders, 1, 30),
    "C8": Case(memory, 1, 30),
    "C11": Case(clocks, 1, 30),
    "E5": Case(signals, 0, 30),
    "E6": Case(saves, 0, 30),
    "E7": Case(meeting, 2, 30),
}
UNTESTED = {
    "C8": "a GPU out of memory",
    "F, G": "serving and exports, which plusx does not have yet",
    "I1": "a million mutated images; `make test` tries 20,000",
}
