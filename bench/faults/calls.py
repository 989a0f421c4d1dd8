"""R2: every system call of a save, killed or failing, by strace."""

import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.faults import tiny
from bench.faults.child import Child, Orders, again
from bench.faults.tiny import Result
from plusx.engine import checkpoint

LAST = 26  # step of an epoch: an evaluation follows it, with metric rows, model file and checkpoint
FAULTS = ("signal=SIGKILL", "error=EIO", "error=ENOSPC")


class Injection(NamedTuple):
    """A fault at the n-th call of a name."""

    fault: str
    name: str
    number: int
    line: str  # the call, as strace shows it


def calls(tries: int, folder: Path) -> Result:
    """An evaluation with its saves, once for each call on files and each fault; some at random when tries are fewer."""
    wanted, _ = tiny.straight(folder / "straight")
    found = recorded(folder / "record")
    everything = [Injection(fault, *call) for call in found for fault in FAULTS]
    chosen = random.Random("R2").sample(everything, min(tries, len(everything)))
    passed, clear, notes = 0, 0, []
    for number, injection in enumerate(chosen):
        given = tiny.orders(folder / f"call-{number}", hurt=f"step {LAST}", number=signal.SIGSTOP)
        inject = f"inject={injection.name}:{injection.fault}:when={injection.number}"
        child, code = traced(given, folder / f"trace-{number}", inject)
        run = folder / f"call-{number}" / "run"
        said = survived(injection, code, child.told(), run)
        said = said or tiny.finished(again(given)) or tiny.differences(run, wanted)
        clear += code == 1
        passed += not said
        notes += [f"{injection.fault} at {injection.line}: {said}"] if said else []
    kinds = ", ".join(f"{count} {name}" for name, count in Counter(call[0] for call in found).most_common())
    return Result(
        "R2",
        f"each of {len(found)} calls on files of the run in an evaluation with its saves (metric rows, model file, "
        "log, checkpoint, rotation): SIGKILL before it, EIO from it, ENOSPC from it",
        "the newest checkpoint or the one before is whole; an error is one line that names a file, or harmless; then "
        "the bits of the undisturbed run",
        len(chosen),
        passed,
        (
            *notes,
            f"{len(chosen)} of {len(everything)} injections were made, {clear} ended in an error",
            f"calls: {kinds}",
        ),
    )


def survived(injection: Injection, code: int | None, told: str, run: Path) -> str:
    """What was wrong with how the run ended."""
    found, passed_over = checkpoint.newest(run / "checkpoints")
    if found is None or passed_over:
        return f"checkpoints: {passed_over or 'none'}"
    if "SIGKILL" in injection.fault:
        return "" if code == -signal.SIGKILL else f"exit code {code}, not killed"
    lines = [line for line in told.splitlines() if line.startswith("plusx: ")]
    if code == 0 or (code == 1 and len(lines) == 1 and str(run) in lines[0] and "Traceback" not in told):
        return ""
    return f"exit code {code}: {told[-400:]}"


def recorded(folder: Path) -> list[tuple[str, int, str]]:
    """The calls from the step's end to the next step: name, how many of that name since the trace began, text."""
    given = tiny.orders(folder, hurt=f"step {LAST}", number=signal.SIGSTOP)
    trace = folder / "trace"
    traced(given, trace)
    counts: Counter[str] = Counter()
    found, marks = [], 0
    for line in trace.read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\((.*)", line)
        if not match:
            continue
        name, rest = match.groups()
        counts[name] += 1
        marks += name == "openat" and f'"{given.seen}"' in rest  # a step writes down what it saw
        if marks == 2:
            break
        if marks == 1 and str(folder / "run") in rest:
            found.append((name, counts[name], f"{name}({rest.replace(str(folder / 'run'), '…')[:120]}"))
    return found


def traced(given: Orders, trace: Path, *expressions: str) -> tuple[Child, int | None]:
    """Waits until the process stops itself, attaches strace, lets it go on; the process and its exit code."""
    child = Child(given)
    _until(lambda: _status(child.pid, "State").startswith("T"))
    words = [word for expression in ("trace=%file,%desc", *expressions) for word in ("-e", expression)]
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-y", "-o", str(trace), *words, "-p", str(child.pid)])
    _until(lambda: _status(child.pid, "TracerPid") != "0")
    child.send(signal.SIGCONT)
    code = child.wait()
    tracer.wait(10)
    return child, code


def _status(pid: int, field: str) -> str:
    text = Path(f"/proc/{pid}/status").read_text()
    return text.split(f"{field}:\t")[1].split("\n")[0]


def _until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "the process did not come so far"
        time.sleep(0.01)
