"""R1: SIGKILL at random moments."""

import random
import signal
import time
from pathlib import Path

from bench.faults import tiny
from bench.faults.child import Child, again
from bench.faults.tiny import Result


def kills(tries: int, folder: Path) -> Result:
    """Every run is killed once, half of them after a random step; a third again and again; a tenth are no forks."""
    draw, passed, most, notes = random.Random("R1"), 0, 0, []
    inside = 0  # kills between the first step and the last
    wanted, made = tiny.straight(folder / "straight")
    started = time.monotonic()
    tiny.finished(tiny.orders(folder / "timed"))
    seconds = time.monotonic() - started
    for number in range(tries):
        given, killed = tiny.orders(folder / f"kill-{number}"), 0
        while killed == 0 or (number % 3 == 0 and draw.random() < 0.5):
            child = Child(given, fresh=number % 10 == 9)
            if number % 2 == 0:
                tiny.reached(child, draw.randrange(1, len(made)))
            code = child.wait_or_kill(draw.uniform(0, 0.05 if number % 2 == 0 else seconds))
            if code != -signal.SIGKILL:
                break  # it was faster, or failed by itself
            killed += 1
            inside += 0 < max((step["step"] for step in tiny.steps(given)), default=0) < len(made)
        said = tiny.finished(again(given)) or tiny.differences(folder / f"kill-{number}" / "run", wanted)
        repeated = len(tiny.steps(given)) - len(made)
        most = max(most, repeated if killed == 1 else 0)
        if not said and repeated > killed * tiny.INTERVAL:
            said = f"{repeated} steps were repeated after {killed} kills"
        passed += not said
        notes += [f"try {number}: {said}"] if said else []
    return Result(
        "R1",
        "SIGKILL at a random moment of a run, every other time after a random step, in a third of the tries "
        "repeatedly, then the same command",
        "the model file, the newest checkpoint and the metric rows of the undisturbed run, bit for bit; at most "
        f"{tiny.INTERVAL} steps made again after each kill, which is the checkpoint interval",
        tries,
        passed,
        (
            *notes,
            f"{inside} kills came between the first step and the last; at most {most} steps were made again after one",
        ),
    )
