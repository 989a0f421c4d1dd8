"""R6: where a run stops, with what settings, and with how many decoding processes it goes on."""

import dataclasses
import itertools
import random
import signal
from pathlib import Path

from bench.faults import tiny
from bench.faults.child import Child
from bench.faults.tiny import Result

# The run has 39 steps, 13 an epoch.
STOPS = ("step 1", "step 2", "step 20", "step 26", "step 39", "epoch 2", "evaluation 2", "done")
WORKERS = (0, 2, 4)
SETTINGS = {
    "fp32": (),
    "bf16": ("engine.precision=bf16",),
    "average": ("engine.ema=0.9",),
    "average, bf16": ("engine.ema=0.9", "engine.precision=bf16"),
    "micro-batches": ("engine.accumulate=3",),
    "all": ("engine.accumulate=3", "engine.ema=0.9", "engine.precision=bf16"),
}


def matrix(tries: int, folder: Path) -> Result:
    """Every stop x settings x decoding processes before and after; some at random when tries are fewer."""
    cells = list(itertools.product(STOPS, SETTINGS, WORKERS, WORKERS))
    chosen = random.Random("R6").sample(cells, min(tries, len(cells)))
    wanted = {}
    passed, notes = 0, []
    for number, (stop, name, before, after) in enumerate(chosen):
        settings = ("data.mode=photo", "data.workers=0", *SETTINGS[name])
        if name not in wanted:
            wanted[name] = tiny.straight(folder / f"straight-{name}", settings)
        end, made = wanted[name]
        sent = (signal.SIGTERM, signal.SIGKILL)[number % 2]
        hurt = "" if stop == "done" else stop
        given = tiny.orders(folder / f"cell-{number}", settings, hurt=hurt, number=sent, workers=before)
        child = Child(given)
        code = child.wait()
        said = "" if code in (0 if stop == "done" else 143, -sent) else f"exit code {code}: {child.told()[-400:]}"
        said = said or tiny.finished(dataclasses.replace(given, hurt="", workers=after))
        said = said or tiny.differences(folder / f"cell-{number}" / "run", end)
        own = tiny.steps(given)
        if not said and any(step != made[step["step"] - 1] for step in own):
            said = "a step saw other examples, or another loss"
        if not said and sorted({step["step"] for step in own}) != [step["step"] for step in made]:
            said = "steps are missing"
        if not said and sent == signal.SIGTERM and len(own) != len(made):
            said = f"{len(own)} steps were made instead of {len(made)}"
        passed += not said
        notes += [f"{stop}, {name}, {before} then {after} workers, {sent.name}: {said}"] if said else []
    return Result(
        "R6",
        f"a stop, SIGTERM or SIGKILL in turn, before step 1, 2, 20, 26 or 39, at an epoch's end, in an evaluation, or "
        f"none; {len(SETTINGS)} settings (bfloat16, averaged weights, micro-batches); 0, 2 and 4 decoding processes "
        "before and after",
        "the examples of every step in their order, every loss, the final weights and rows: the same bits",
        len(chosen),
        passed,
        (*notes, f"{len(chosen)} of {len(cells)} cells were tried"),
    )
