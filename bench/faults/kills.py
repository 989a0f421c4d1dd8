"""R1: SIGKILL at random moments."""

import random
import signal
import time
from pathlib import Path

from bench.faults import tiny
from bench.faults.child import Child, again
from bench.faults.tiny import Result


def kills(tries: int, folder: Path) -> Result:
    """Every run is killed once, every third again and again; each tenth begins with a new interpreter."""
    draw, passed, most, notes = random.Random("R1"), 0, 0, []
    wanted, made = tiny.straight(folder / "straight")
    started = time.monotonic()
    tiny.finished(tiny.orders(folder / "timed"))
    seconds = time.monotonic() - started
    for number in range(tries):
        given, killed = tiny.orders(folder / f"kill-{number}"), 0
        while killed == 0 or (number % 3 == 0 and draw.random() < 0.5):
            child = Child(given, fresh=number % 10 == 9)
            code = child.wait_or_kill(draw.uniform(0, seconds))
            if code != -signal.SIGKILL:
                break  # it was faster, or failed by itself
            killed += 1
        said = tiny.finished(again(given)) or tiny.differences(folder / f"kill-{number}" / "run", wanted)
        repeated = len(tiny.steps(given)) - len(made)
        most = max(most, repeated if killed == 1 else 0)
        if not said and repeated > killed * tiny.INTERVAL:
            said = f"{repeated} steps were repeated after {killed} kills"
        passed += not said
        notes += [f"try {number}: {said}"] if said else []
    return Result(
        "R1",
        "SIGKILL at a random moment of a run, in a third of the tries repeatedly, then the same command",
        "the model file, the newest checkpoint and the metric rows of the undisturbed run, bit for bit; at most "
        f"{tiny.INTERVAL} steps made again after each kill, which is the checkpoint interval",
        tries,
        passed,
        (*notes, f"at most {most} steps were made again after one kill"),
    )
