"""R7 and R8: several processes under torchrun, that stop and go on with another number, or lose one of them."""

import random
import time
from pathlib import Path

from bench.faults.tiny import Result, data
from tests.distributed.test_runs import Outcome, start

SECONDS = 30.0  # in which everybody is gone
WITHIN = 1e-6  # of a step's loss, when the number of processes changes
ONE_BATCH = ("engine.sync_bn=true",)  # so that a step computes the same, whoever shares it
LOST = "plusx: rank {rank} lost at step {step}"
WORDS = {
    "kill": LOST,
    "stop": LOST,
    "image": "plusx: {who}photo.jpg: cut off",
    "memory": "plusx: {who}step {step}: out of memory",
    "nan": "plusx: {who}step {step}: the loss is nan",
    "bug": "KeyError: 'a bug'",
}


def worlds(tries: int, folder: Path) -> Result:
    """Two processes stop in mid-epoch, one goes on and stops, four finish it; and two that two finish."""
    draw, passed, most, notes = random.Random("R7"), 0, 0.0, []
    undisturbed = start(folder / "two", data(folder), 2, *ONE_BATCH)
    last = len(undisturbed.steps())
    for number in range(tries):
        first, second = sorted(draw.sample(range(2, last), 2))
        own = folder / f"worlds-{number}"
        for processes, fault in ((2, f"term:1:{first}"), (1, f"term:0:{second}"), (4, "")):
            outcome = start(own, data(folder), processes, *ONE_BATCH, fault=fault)
        same = folder / f"same-{number}"
        start(same, data(folder), 2, *ONE_BATCH, fault=f"term:0:{first}")
        again = start(same, data(folder), 2, *ONE_BATCH)
        wanted, found = undisturbed.steps(), outcome.steps()
        far = max((abs(found[s][1] - loss) for s, (_, loss) in wanted.items() if s in found), default=1.0)
        most = max(most, far)
        said = "" if outcome.done.returncode == 0 else outcome.done.stderr[-400:]
        said = said or ("" if orders(found) == orders(wanted) else "another order of examples")
        said = said or (f"a loss differs by {far:.1e}" if far > WITHIN else "")
        said = said or (
            "" if again.same_weights(undisturbed) and again.rows == undisturbed.rows else "2 to 2: other bits"
        )
        passed += not said
        notes += [f"stopped at {first} and {second}: {said}"] if said else []
    return Result(
        "R7",
        "a run that two processes begin, one goes on with and four finish, stopped by SIGTERM to one rank in mid-epoch",
        f"the order of examples of two undisturbed processes, each step's loss within {WITHIN:.0e}; with two processes "
        "throughout, the same bits",
        tries,
        passed,
        (*notes, f"the largest difference of a loss was {most:.1e}"),
    )


def losses(tries: int, folder: Path) -> Result:
    """A rank is killed, stopped, or meets a bad image, too little memory, a NaN or a bug; then the same command."""
    draw, passed, slowest, notes = random.Random("R8"), 0, 0.0, []
    undisturbed = start(folder / "two", data(folder), 2)
    last = len(undisturbed.steps())
    for number in range(tries):
        kind, rank, step = list(WORDS)[number % len(WORDS)], draw.randrange(2), draw.randrange(1, last + 1)
        outcome = start(folder / f"loss-{number}", data(folder), 2, fault=f"{kind}:{rank}:{step}")
        seconds = time.time() - max((p.stat().st_mtime for p in outcome.seen.iterdir()), default=time.time())
        slowest = max(slowest, seconds)
        said = _told(outcome, kind, rank, step) or (f"it took {seconds:.0f} s" if seconds > SECONDS else "")
        if not said:
            again = start(folder / f"loss-{number}", data(folder), 2)
            same = again.done.returncode == 0 and again.same_weights(undisturbed) and again.rows == undisturbed.rows
            said = "" if same else f"other bits: {again.done.stderr[-300:]}"
        passed += not said
        notes += [f"try {number}, {kind} of rank {rank} at step {step}: {said}"] if said else []
    return Result(
        "R8",
        "one of two ranks killed, stopped, or failing (bad image, no memory, NaN, bug) at a random step, then the same "
        "command",
        f"everybody gone within {SECONDS:.0f} s, the rank or the cause named, then the same bits",
        tries,
        passed,
        (*notes, f"the slowest end came {slowest:.1f} s after the last step"),
    )


def _told(outcome: Outcome, kind: str, rank: int, step: int) -> str:
    """What was wrong with how two processes failed: they did not, or nobody said who was lost, or why."""
    words = WORDS[kind].format(rank=rank, step=step, who=f"rank {rank}: " if rank else "")
    told = "\n".join(outcome.told) if kind != "bug" else outcome.done.stderr
    named = sorted(path.name for path in outcome.run.glob("failures/*"))
    wanted = [] if WORDS[kind] == LOST else [f"rank-{rank}.json"]
    good = outcome.done.returncode and words in told and named == wanted
    return "" if good else f"exit code {outcome.done.returncode}, failures {named}, told {told[-300:]}"


def orders(steps: dict[int, tuple[list[int], float]]) -> dict[int, list[int]]:
    """Of each step the examples, ranks in order."""
    return {step: ids for step, (ids, _) in steps.items()}
