"""C6, C7, C8 and C11: what happens around a run, to its folder, its decoding processes, its memory and the clock."""

import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

from bench.faults import tiny
from bench.faults.child import Child, again
from bench.faults.stops import members
from bench.faults.tiny import Result

SECONDS = 30.0  # in which a run that cannot go on has ended
DEATHS = {"SIGKILL": signal.SIGKILL, "a crash": signal.SIGSEGV, "shared memory that is full": signal.SIGBUS}
PHOTOS = ("data.mode=photo", "data.workers=2")
YEARS = 365 * 86400.0


def places(tries: int, folder: Path) -> Result:
    """The run folder deleted or a file, or checkpoints/ a file, from a random step on; then the same command."""
    draw, passed, notes = random.Random("C6"), 0, []
    wanted, made = tiny.straight(folder / "straight")
    for number in range(tries):
        inner, becomes_file = (("", False), ("", True), ("checkpoints", True))[number % 3]
        own = folder / f"place-{number}"
        given = tiny.orders(own, hurt=f"step {draw.randrange(6, len(made))}", number=0)
        child, place = Child(given), own / "run" / inner
        waiting(child)
        shutil.rmtree(place)
        if becomes_file:
            place.write_bytes(b"a file")
        given.seen.with_name("go").touch()
        said = _ended(child, f"plusx: {own / 'run'}")
        if becomes_file:
            place.unlink()
        said = said or tiny.finished(again(given)) or tiny.differences(own / "run", wanted)
        passed += not said
        notes += [f"try {number}, {place.name}: {said}"] if said else []
    return Result(
        "C6",
        "in the midst of a run its folder deleted, or replaced by a file, or `checkpoints/` replaced by one; then the "
        "same command",
        "exit code 1 and one line that names the place; then the bits of the undisturbed run",
        tries,
        passed,
        tuple(notes),
    )


def decoders(tries: int, folder: Path) -> Result:
    """One of two decoding processes dies at a random step; then the same command."""
    draw, passed, slowest, notes = random.Random("C7"), 0, 0.0, []
    wanted, made = tiny.straight(folder / "straight", PHOTOS)
    for number in range(tries):
        how = list(DEATHS)[number % len(DEATHS)]
        step = draw.randrange(1, len(made) - 4)  # two workers are up to five batches ahead
        given = tiny.orders(folder / f"decoder-{number}", PHOTOS, hurt=f"step {step}", number=0)
        child = Child(given)
        waiting(child)
        os.kill(draw.choice([pid for pid in members(child.pid) if pid != child.pid]), DEATHS[how])
        given.seen.with_name("go").touch()
        started = time.monotonic()
        said = _ended(child, "plusx: Decoding process ", " of 2 died.")
        slowest = max(slowest, time.monotonic() - started)
        said = said or tiny.finished(again(given)) or tiny.differences(given.seen.parent / "run", wanted)
        if not said and len(tiny.steps(given)) != len(made):
            said = f"{len(tiny.steps(given))} steps were made instead of {len(made)}"
        passed += not said
        notes += [f"try {number}, {how} at step {step}: {said}"] if said else []
    return Result(
        "C7",
        "one of two decoding processes ended at a random step: by SIGKILL, by a crash (SIGSEGV), and by what shared "
        "memory that is full does to a process (SIGBUS); then the same command",
        f"exit code 1 within {SECONDS:.0f} s and one line that says which of the two; every step made once; the "
        "bits of the undisturbed run",
        tries,
        passed,
        (*notes, f"the slowest end took {slowest:.1f} s"),
    )


def memory(tries: int, folder: Path) -> Result:
    """The system refuses further memory from the first step on; then the same command with enough of it.

    Later steps take what the first one freed.
    """
    draw, passed, notes = random.Random("C8"), 0, []
    settings = ("engine.batch=100", "model.width=64")  # steps that ask the system for memory
    wanted, _ = tiny.straight(folder / "straight", settings)
    for number in range(tries):
        given = tiny.orders(folder / f"memory-{number}", settings, hurt="step 1", number=0)
        child = Child(given)
        waiting(child)
        mapped = int(Path(f"/proc/{child.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        room = int(draw.uniform(0, 20e6))
        resource.prlimit(child.pid, resource.RLIMIT_AS, (mapped + room,) * 2)
        given.seen.with_name("go").touch()
        said = _ended(child, "plusx: step ", ": out of memory with 100 examples a batch")
        said = said or tiny.finished(again(given)) or tiny.differences(given.seen.parent / "run", wanted)
        passed += not said
        notes += [f"try {number}, {room / 1e6:.0f} MB more: {said}"] if said else []
    return Result(
        "C8",
        "a limit on the address space (RLIMIT_AS) set before the first step, 0 to 20 MB above what it has; then the "
        "same command without",
        "exit code 1 and one line that names the step, the batch and what to set; then the bits of the undisturbed run",
        tries,
        passed,
        tuple(notes),
    )


def clocks(tries: int, folder: Path) -> Result:
    """A killed run whose files are of any year, as a clock that jumps leaves them, with the lock of a dead process."""
    draw, passed, notes = random.Random("C11"), 0, []
    wanted, made = tiny.straight(folder / "straight")
    for number in range(tries):
        given = tiny.orders(
            folder / f"clock-{number}", hurt=f"step {draw.randrange(12, len(made))}", number=signal.SIGKILL
        )
        child = Child(given)
        child.wait()
        run = given.seen.parent / "run"
        files = sorted(path for path in run.rglob("*") if path.is_file())
        for path in files:
            moment = time.time() + draw.uniform(-40, 40) * YEARS
            os.utime(path, (moment, moment))
        said = "" if f"process {child.pid} " in (run / "lock").read_text() else "no lock was left"
        said = said or tiny.finished(again(given)) or tiny.differences(run, wanted)
        if not said and (repeated := len(tiny.steps(given)) - len(made)) > tiny.INTERVAL:
            said = f"{repeated} steps were made again"
        passed += not said
        notes += [f"try {number}: {said}"] if said else []
    return Result(
        "C11",
        "SIGKILL, then the times of all files of the run moved up to 40 years back or forth, then the same command, "
        "which finds the dead process's lock",
        "the newest checkpoint by its step is taken, so at most 5 steps are made again; the bits of the undisturbed "
        "run",
        tries,
        passed,
        tuple(notes),
    )


def waiting(child: Child) -> None:
    """Returns when a process stands at the step where it waits, or has ended."""
    while child.alive() and not child.orders.seen.with_name("waits").exists():
        time.sleep(0.01)


def _ended(child: Child, *words: str) -> str:
    """What was wrong with how a run ended: it should have said one line with these words."""
    code, told = child.wait(SECONDS), child.told()
    lines = [line for line in told.splitlines() if line.startswith("plusx: ")]
    good = code == 1 and len(lines) == 1 and all(word in lines[0] for word in words) and "Traceback" not in told
    return "" if good else f"exit code {code}: {told[-700:]}"
