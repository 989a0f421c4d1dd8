"""R3 and R9: signals that ask a run to end, and what else can end it; nothing may stay behind."""

import os
import random
import signal
import time
from pathlib import Path

from bench.faults import tiny
from bench.faults.child import Child, Orders, again
from bench.faults.tiny import Result

SECONDS = 10.0  # in which a run ends, and nothing is left of it
KINDS = ("Ctrl-C", "Ctrl-C twice", "SIGHUP", "SIGTERM", "SIGKILL")  # to the group, the last to the training process
SHARED = Path("/dev/shm")


def sigterm(tries: int, folder: Path) -> Result:
    """SIGTERM at a random moment, half of them after a random step, half to the group; a tenth are no forks."""
    draw, passed, slowest, notes = random.Random("R3"), 0, 0.0, []
    wanted, made = tiny.straight(folder / "straight")
    started = time.monotonic()
    tiny.finished(tiny.orders(folder / "timed"))
    length, number = time.monotonic() - started, 0
    while number < tries:
        given = tiny.orders(folder / f"stop-{number}-{draw.random()}")
        child = Child(given, fresh=number % 10 == 9)
        if number % 2 == 0:
            tiny.reached(child, draw.randrange(1, len(made)))
        time.sleep(draw.uniform(0, 0.05 if number % 2 == 0 else length))
        sent, at = time.monotonic(), len(tiny.steps(given))
        child.send(signal.SIGTERM, group=number % 4 > 1)
        code = child.wait(SECONDS)
        if code == 0 and not _deaf(given, at):
            continue  # it was faster: no stop
        slowest = max(slowest, time.monotonic() - sent)
        # Before plusx listens, the signal ends Python itself, which a shell shows as 143 too.
        allowed = {143} if tiny.steps(given) else {143, -signal.SIGTERM}
        said = _ended(code, allowed, child) or tiny.finished(again(given)) or _same(given, wanted, made)
        passed += not said
        notes += [f"try {number}: {said}"] if said else []
        number += 1
    return Result(
        "R3",
        "SIGTERM at a random moment of a run, every other time after a random step, to the process or to its group, "
        "then the same command",
        f"exit code 143 within {SECONDS:.0f} s; then every step made once, and the bits of the undisturbed run",
        tries,
        passed,
        (*notes, f"the slowest exit took {slowest:.1f} s"),
    )


def leftovers(tries: int, folder: Path) -> Result:
    """Ctrl-C once and twice, a closed terminal, SIGTERM, and SIGKILL, with 0 and 2 decoding processes."""
    draw, passed, notes = random.Random("R9"), 0, []
    codes = {"Ctrl-C": {130}, "Ctrl-C twice": {130}, "SIGHUP": {129}, "SIGTERM": {143}, "SIGKILL": {-signal.SIGKILL}}
    endings, number = {}, 0
    while number < tries:
        kind, workers = KINDS[number % len(KINDS)], (2, 0)[number // len(KINDS) % 2]
        settings = ("data.mode=photo", f"data.workers={workers}")
        if workers not in endings:
            endings[workers] = tiny.straight(folder / f"straight-{workers}", settings)
        given, before = tiny.orders(folder / f"end-{number}-{draw.random()}", settings), _shared()
        child = Child(given)
        tiny.reached(child, draw.randrange(1, len(endings[workers][1])))
        time.sleep(draw.uniform(0, 0.05))
        at = len(tiny.steps(given))
        _end(child, kind)
        code = child.wait(SECONDS)
        if code == 0 and not _deaf(given, at):
            continue  # it was faster
        said = _ended(code, codes[kind], child) or _left(child.pid, before)
        said = said or tiny.finished(again(given))
        said = said or tiny.differences(given.seen.parent / "run", endings[workers][0])
        passed += not said
        notes += [f"try {number}, {kind}, {workers} workers: {said}"] if said else []
        number += 1
    return Result(
        "R9",
        "Ctrl-C once and twice, a closed terminal (SIGHUP) and SIGTERM, to the whole group, and SIGKILL to the "
        "training process alone, with 0 and 2 decoding processes",
        f"exit code 130, 130, 129, 143; {SECONDS:.0f} s later no process and no shared-memory file of the run; then "
        "the bits of the undisturbed run",
        tries,
        passed,
        tuple(notes),
    )


def _end(child: Child, kind: str) -> None:
    number = {"SIGHUP": signal.SIGHUP, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}.get(kind, signal.SIGINT)
    child.send(number, group=kind != "SIGKILL")
    if kind == "Ctrl-C twice":
        time.sleep(0.02)
        child.send(number, group=True)


def _deaf(given: Orders, at: int) -> bool:
    """Whether a run went on after a signal that came when it had made so many steps: one may be under way, one late."""
    return len(tiny.steps(given)) > at + 2


def _ended(code: int | None, allowed: set[int], child: Child) -> str:
    if code is None:
        return f"no end after {SECONDS:.0f} s"
    if code == 0:
        return "the signal was not heard"
    return "" if code in allowed and "Traceback" not in child.told() else f"exit code {code}: {child.told()[-500:]}"


def _same(given: Orders, wanted: tiny.Ending, made: list[dict[str, object]]) -> str:
    own = tiny.steps(given)
    if own != made:
        return f"{len(own)} steps were made, or others, instead of {len(made)}"
    return tiny.differences(given.seen.parent / "run", wanted)


def _left(session: int, before: set[str]) -> str:
    """What of a session is still there when its time is over; '' as soon as nothing is."""
    end, files = time.monotonic() + SECONDS, _shared() - before
    while processes := members(session) or files:
        if time.monotonic() > end:
            return f"left: {processes or files}"
        time.sleep(0.05)
        files &= _shared() - before  # of those that were new at each look, so that other programs' do not count
    return ""


def _shared() -> set[str]:
    return set(os.listdir(SHARED)) if SHARED.exists() else set()


def members(session: int) -> list[int]:
    """Processes of a session that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it just ended
        if int(own) == session and state != "Z":
            found.append(int(path.parent.name))
    return found
