"""R4: a disk that is full: a small file system of its own, or a limit on the size of files, which tears a write."""

import random
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.faults import tiny
from bench.faults.child import Child, Orders, again
from bench.faults.tiny import Result
from plusx.engine import checkpoint

LARGEST_FILE = 150_000  # bytes; a checkpoint of the tiny run has 160,000
ROOM = 18.0  # binary logarithm of the most bytes that are free: the run needs about that
STAGES = ("step 20", "evaluation 3")  # where the run stood before: what it writes first differs


def full(tries: int, folder: Path) -> Result:
    """A run that stood at a step or an evaluation goes on with too little room, and then with enough."""
    draw, passed, notes, named, number = random.Random("R4"), 0, [], set(), 0
    wanted, _ = tiny.straight(folder / "straight")
    for stage in STAGES:
        Child(tiny.orders(folder / stage, hurt=stage)).wait()
    while number < tries:
        before = folder / STAGES[number // 2 % 2] / "run"
        own = folder / f"full-{number}-{draw.random()}"
        if number % 2:
            what = f"{(room := int(2 ** draw.uniform(0, ROOM)))} bytes free"
            with small_disk(own, _used(before) + room) as (place, grow):
                given = tiny.orders(own, out=place / "run")
                said = _tried(given, place / "run", before)
                grow()
                said = said or _goes_on(given, place / "run", wanted)
                if "exit code 0" in said and not tiny.differences(place / "run", wanted):
                    continue  # there was enough room
        else:
            what = f"files of {(size := int(draw.uniform(2_000, LARGEST_FILE)))} bytes"
            given = tiny.orders(own, file_size=size)
            said = _tried(given, own / "run", before) or _goes_on(given, own / "run", wanted)
        named |= {name for name in ("step-", "model.", "metrics.", "log.") if name in given.told.read_text()}
        passed += not said
        notes += [f"try {number}, {what}: {said}"] if said else []
        number += 1
    return Result(
        "R4",
        "a disk that is full when a run goes on: in turn a file system of its own with 1 byte to 260 kB free, and "
        "files that may not grow beyond 2 to 150 kB, which tears a write in its midst",
        "exit code 1 and one line that names the file, and the bytes a checkpoint or model needs; no half file; the "
        "checkpoint before loads; with enough room, the bits of the undisturbed run",
        tries,
        passed,
        (*notes, f"files that could not be written began with {', '.join(sorted(named))}"),
    )


def _tried(given: Orders, run: Path, before: Path) -> str:
    """What was wrong with how the run failed."""
    shutil.copytree(before, run)
    child = Child(given)
    code, told = child.wait(), child.told()
    lines = [line for line in told.splitlines() if line.startswith("plusx: ")]
    if code != 1 or len(lines) != 1 or "Traceback" in told or str(run) not in lines[0]:
        return f"exit code {code}: {told[-500:]}"
    if ".safetensors" in lines[0] and not re.search(r"needs [0-9.,]+ (MB|bytes)", lines[0]):
        return f"no bytes are named: {lines[0]}"
    if left := [path.name for path in run.rglob("*tmp*")]:
        return f"left: {left}"
    found, _ = checkpoint.newest(run / "checkpoints")
    whole = found is not None and found.path.name >= checkpoint.stored(before / "checkpoints")[0].name
    return "" if whole else "the checkpoint before is gone"


def _goes_on(given: Orders, run: Path, wanted: tiny.Ending) -> str:
    return tiny.finished(again(given)) or tiny.differences(run, wanted)


def _used(folder: Path) -> int:
    page = resource.getpagesize()
    return sum(-(-path.stat().st_size // page) * page for path in folder.rglob("*"))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A file system of so many bytes, seen through the process that holds it, and what makes it larger."""
    folder.mkdir(parents=True)
    holder = subprocess.Popen(
        ["unshare", "--map-root-user", "--mount", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def do(command: str) -> None:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(f"{command} && echo done || echo failed\n")
        holder.stdin.flush()
        if (answer := holder.stdout.readline()) != "done\n":
            raise OSError(f"{command}: {answer}")

    try:
        place = folder / "disk"
        place.mkdir()
        do(f"mount -t tmpfs -o size={size} none '{place}'")
        yield Path(f"/proc/{holder.pid}/root{place.resolve()}"), lambda: do(f"mount -o remount,size=64m '{place}'")
    finally:
        holder.communicate("exit\n")
