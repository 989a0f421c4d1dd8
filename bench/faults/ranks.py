"""R7, R8, E5, E6 and E7: several processes that stop and go on with another number, lose one, or never meet."""

import random
import re
import signal
import socket
import time
from pathlib import Path

import numpy as np

from bench.faults.tiny import Result, data
from tests.distributed import ranks as starting
from tests.distributed.test_runs import OPTIONS, Outcome, ended, launch, start
from tests.forks import Fork

SECONDS = 30.0  # in which everybody is gone
LEAVING = 25.0  # after a signal; torchrun kills after 30
ENDS = ("torchrun", "all", "rank", "ctrl-c")
HEARD = {"ctrl-c": "Ctrl-C"}
WITHIN = 1e-6  # of a step's loss, when the number of processes changes
ONE_BATCH = ("engine.sync_bn=true",)  # so that a step computes the same, whoever shares it
LOST = "plusx: rank {rank} lost at step {step}"
NAME = "tiny.npz"
MEETING = 60.0  # seconds for ranks that cannot work together to say so
STRANGERS = {
    "version": "rank 1 differs: torch is 1.0, on rank 0 ",
    "data": "rank 1: the data differs from that of rank 0: ",
    "port": "cannot meet the others at 127.0.0.1:",
    "address": "cannot meet the others at no-host.invalid:",
    "missing": "rank 1 of 2 did not come",
    "alone": "rank 1 of 2 cannot meet the others at 127.0.0.1:",
}
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
        said = "" if outcome.code == 0 else outcome.said[-400:]
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
            same = again.code == 0 and again.same_weights(undisturbed) and again.rows == undisturbed.rows
            said = "" if same else f"other bits: {again.said[-300:]}"
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


def signals(tries: int, folder: Path) -> Result:
    """SIGTERM to torchrun or everybody, Ctrl-C to everybody, SIGTERM to one rank; then the same command."""
    draw, passed, slowest, notes, number = random.Random("E5"), 0, 0.0, [], 0
    undisturbed = start(folder / "two", data(folder), 2)
    last = len(undisturbed.steps())
    while number < tries:
        step = draw.randrange(1, last)
        kind, own = ENDS[number % len(ENDS)], folder / f"signal-{number}-{draw.random()}"
        process = launch(own, data(folder), 2, fault=f"term:{number % 2}:{step}" if kind == "rank" else "")
        while process.alive() and not _reached(own / "seen", step - (kind == "rank")):
            time.sleep(0.01)
        sent = time.monotonic()
        if kind != "rank":
            process.send(signal.SIGINT if kind == "ctrl-c" else signal.SIGTERM, group=kind != "torchrun")
        outcome = ended(own, process)
        seconds = time.monotonic() - sent
        if outcome.code == 0 and step > last - 3:
            continue  # it was faster
        slowest = max(slowest, seconds)
        said = "" if seconds <= LEAVING else f"it took {seconds:.0f} s"
        stops = [line for line in outcome.told if line.startswith(f"plusx: stopped by {HEARD.get(kind, 'SIGTERM')}")]
        if not outcome.code or len(stops) != 1 or len(outcome.told) != 1:
            said = said or f"exit code {outcome.code}, told {outcome.told}"
        again = start(own, data(folder), 2)
        once = all(len(ids) == len(set(ids)) for ids, _ in again.steps().values())
        same = again.code == 0 and again.same_weights(undisturbed) and again.rows == undisturbed.rows
        said = said or ("" if once else "a step was made twice")
        said = said or ("" if same else f"other bits: {outcome.said[-300:]} {again.said[-300:]}")
        passed += not said
        notes += [f"try {number}, {kind} at step {step}: {said}"] if said else []
        number += 1
    return Result(
        "E5",
        "SIGTERM to torchrun, to torchrun and its ranks, and to one rank, and Ctrl-C to all, in turn, at a random "
        "step; then the same command",
        f"everybody is gone within {LEAVING:.0f} s, rank 0 alone says after which step; then every step made once and "
        "the bits of the undisturbed run",
        tries,
        passed,
        (*notes, f"the slowest end took {slowest:.1f} s"),
    )


def _reached(seen: Path, step: int) -> bool:
    """Whether a rank has made so many steps."""
    return any(len(path.read_text().splitlines()) >= step for path in seen.glob("rank-*.jsonl"))


def saves(tries: int, folder: Path) -> Result:
    """Rank 0 is killed while it saves, a file half written or not yet in its place; then the same command."""
    draw, passed, slowest, notes, number = random.Random("E6"), 0, 0.0, [], 0
    undisturbed, most = start(folder / "two", data(folder), 2), 60
    while number < tries:
        file = draw.randrange(1, most)
        own = folder / f"save-{number}-{file}"
        outcome = start(own, data(folder), 2, fault=f"save:0:{file}")
        if outcome.code == 0:  # there are not so many files
            most = min(most, file)
            continue
        seconds = time.time() - (own / "seen" / "killed").stat().st_mtime
        slowest = max(slowest, seconds)
        named = re.search(r"^plusx: rank 0 lost| rank +: 0 ", outcome.said, re.MULTILINE)
        said = "" if named else f"told {outcome.said[-300:]}"
        said = said or (f"it took {seconds:.0f} s" if seconds > SECONDS else "")
        again = start(own, data(folder), 2)
        same = again.code == 0 and again.same_weights(undisturbed) and again.rows == undisturbed.rows
        said = said or ("" if same else f"other bits: {again.said[-300:]}")
        passed += not said
        notes += [f"try {number}, file {file}: {said}"] if said else []
        number += 1
    return Result(
        "E6",
        "rank 0 of two killed while it saves, with half a file written or a whole one not yet in its place; then the "
        "same command",
        f"everybody is gone within {SECONDS:.0f} s, and the other rank or torchrun names rank 0; then the same bits",
        tries,
        passed,
        (*notes, f"the slowest end came {slowest:.1f} s after the kill"),
    )


def meeting(tries: int, folder: Path) -> Result:
    """Ranks that cannot meet, or should not work together."""
    passed, slowest, notes = 0, 0.0, []
    for name in ("one", "other"):  # two machines, each with its own file of the same name
        data((folder / name).resolve())
    with np.load(folder / "other" / NAME) as arrays:
        np.savez(folder / "other" / NAME, **{name: array[::-1] for name, array in arrays.items()})
    for number in range(tries):
        kind, words = list(STRANGERS.items())[number % len(STRANGERS)]
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            if kind != "port":
                server.close()
            there = {"MASTER_ADDR": "no-host.invalid" if kind == "address" else "127.0.0.1", "MASTER_PORT": str(port)}
            own, started = folder / f"{kind}-{number}", time.monotonic()
            ranks = [
                alone(own, folder / ("other" if kind == "data" and rank else "one"), rank, kind, there)
                for rank in {"port": [0], "missing": [0], "alone": [1]}.get(kind, [0, 1])
            ]
            codes = [rank.wait(2 * MEETING) for rank in ranks]
            told = "".join(rank.told() for rank in ranks)
        seconds = time.monotonic() - started
        slowest = max(slowest, seconds)
        good = set(codes) == {1} and words in told and "Traceback" not in told
        said = "" if good and seconds < MEETING else f"{seconds:.0f} s, {codes}: {told[-400:]}"
        passed += not said
        notes += [f"try {number}, {kind}: {said}"] if said else []
    return Result(
        "E7",
        "in turn: ranks with another version of PyTorch, ranks with other data, the port of the meeting taken by "
        "another program, a host that does not exist, a rank 1 and a rank 0 that do not come",
        f"exit code 1 within {MEETING:.0f} s and a line that says which of these it was",
        tries,
        passed,
        (*notes, f"the slowest end took {slowest:.1f} s"),
    )


def alone(folder: Path, place: Path, rank: int, kind: str, there: dict[str, str]) -> Fork:
    """One rank of two, started by hand, with the data that lies in a place."""
    (folder / "seen").mkdir(parents=True, exist_ok=True)
    who = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **there}
    own = {"OBSERVED": str(folder.resolve() / "seen"), "FAULT": f"{kind}:1:0"}
    words = (NAME, str(folder.resolve() / "run"), *OPTIONS)
    return Fork(starting.alone, *words, path=folder / f"told-{rank}", changes=who | own, place=place)


def _told(outcome: Outcome, kind: str, rank: int, step: int) -> str:
    """What was wrong with how two processes failed: they did not, or nobody said who was lost, or why."""
    words = WORDS[kind].format(rank=rank, step=step, who=f"rank {rank}: " if rank else "")
    told = "\n".join(outcome.told) if kind != "bug" else outcome.said
    named = sorted(path.name for path in outcome.run.glob("failures/*"))
    wanted = [] if WORDS[kind] == LOST else [f"rank-{rank}.json"]
    good = outcome.code and words in told and named == wanted
    return "" if good else f"exit code {outcome.code}, failures {named}, told {told[-300:]}"


def orders(steps: dict[int, tuple[list[int], float]]) -> dict[int, list[int]]:
    """Of each step the examples, ranks in order."""
    return {step: ids for step, (ids, _) in steps.items()}
