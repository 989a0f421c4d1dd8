"""Runs of two processes, under torchrun or under its agent alone: the same run as one, whatever happens to a rank."""

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from plusx import load
from plusx.config import DataConfig
from plusx.data import EvalLoader, open_dataset
from plusx.engine import measure
from tests.distributed import ranks
from tests.forks import Fork

OPTIONS = ["schedule.epochs=2", "engine.batch=16", "model.name=resnet8", "model.width=8", "engine.checkpoint_steps=5"]
STEPS = 14  # of 111 images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """111 noisy images of three colours to train on, 300 to evaluate: shares of batches are unequal."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 128, (3, 3))
    arrays: dict[str, Any] = {}
    for split, n in (("train", 111), ("val", 300)):
        labels = np.arange(n) % 3
        pixels = colours[labels][:, None, None, :] + rng.integers(0, 128, (n, 8, 8, 3))
        arrays |= {f"x_{split}": pixels.astype(np.uint8), f"y_{split}": labels}
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **arrays)
    return path


class Outcome:
    """What a run left behind."""

    def __init__(self, folder: Path, code: int, said: str) -> None:
        self.run, self.seen, self.code, self.said = folder / "run", folder / "seen", code, said
        self.told = [line for line in said.splitlines() if line.startswith("plusx: ")]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """metrics.jsonl without clocks."""
        rows = map(json.loads, (self.run / "metrics.jsonl").read_text().splitlines())
        return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]

    def steps(self) -> dict[int, tuple[list[int], float]]:
        """Of each step the examples, ranks in order, and the loss."""
        found: dict[int, tuple[list[int], float]] = {}
        for path in sorted(self.seen.glob("rank-*.jsonl")):
            for row in map(json.loads, path.read_text().splitlines()):
                found[row["step"]] = (found.get(row["step"], ([], 0.0))[0] + row["ids"], row["loss"])
        return found

    def same_weights(self, other: "Outcome") -> bool:
        """Whether both model files hold the same bits."""
        ours, theirs = (load_file(o.run / "model.safetensors") for o in (self, other))
        return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def launch(
    folder: Path, data: Path, processes: int, *options: str, fault: str = "", restarts: int = 0, fresh: bool = False
) -> Fork:
    """Begins a run in `folder`, which may hold a part of it already, in a process group of its own."""
    (folder / "seen").mkdir(parents=True, exist_ok=True)
    words, path = [str(data), str(folder / "run"), *OPTIONS, *options], folder / f"told-{time.time_ns()}"
    changes = {"OBSERVED": str(folder / "seen"), "FAULT": fault or "none:-1:-1"}
    if processes == 1:
        return Fork(ranks.alone, *words, path=path, changes=changes)
    if fresh:
        return Fork(ranks.torchrun, processes, restarts, *words, path=path, changes=changes)
    return Fork(ranks.agent, path, processes, restarts, *words, path=path, changes=changes)


def ended(folder: Path, process: Fork) -> Outcome:
    """How a run ended, once nobody of it is left; it is killed when it takes too long."""
    code = process.wait()
    assert code is not None, process.told()
    with contextlib.suppress(ProcessLookupError):
        for _ in range(6000):
            os.killpg(process.pid, 0)
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"a rank outlived its agent: {process.told()}")
    return Outcome(folder, code, process.told())


def start(folder: Path, data: Path, processes: int, *options: str, **how: Any) -> Outcome:
    """A run in `folder` from its beginning to its end; `how` is for `launch`."""
    return ended(folder, launch(folder, data, processes, *options, **how))


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Two processes, undisturbed."""
    outcome = start(tmp_path_factory.mktemp("two"), data, 2)
    assert outcome.code == 0, outcome.said
    return outcome


def test_two_processes_with_synchronised_batch_norm_are_one(data: Path, tmp_path: Path) -> None:
    one = start(tmp_path / "one", data, 1)
    two = start(tmp_path / "two", data, 2, "engine.sync_bn=true")
    assert one.code == two.code == 0, two.said
    assert len(one.steps()) == len(two.steps()) == STEPS
    for step, (ids, loss) in one.steps().items():
        shared, same = two.steps()[step]
        assert shared == ids
        if step <= 5:  # rounding grows from step to step
            assert same == pytest.approx(loss, abs=2e-6)
    assert two.run.joinpath("log.txt").read_text().count("finished: ") == 1


def test_examples_are_counted_once_however_they_are_shared(data: Path, two: Outcome) -> None:
    classifier, split = load(two.run, device="cpu"), open_dataset(str(data), DataConfig()).splits["val"]
    alone, last = measure(classifier.module, EvalLoader(split, classifier.preprocess), "single", 3), two.rows[-1]
    assert alone.n == 300
    assert (alone.top1, alone.top5) == (last["top1"], last["top5"])
    assert alone.loss == pytest.approx(last["loss"], rel=1e-5)
    assert [row["split"] for row in two.rows] == ["train", "val"] * 2


@pytest.mark.parametrize("fault", ["kill:1:7", pytest.param("kill:0:12", marks=pytest.mark.slow), "save:0:12"])
def test_a_killed_rank_is_named_and_restarting_ends_in_the_same_bits(
    data: Path, two: Outcome, tmp_path: Path, fault: str
) -> None:
    outcome = start(tmp_path, data, 2, fault=fault, restarts=3, fresh=fault == "kill:1:7")
    assert outcome.code == 0, outcome.said
    kind, rank, step = fault.split(":")
    step = step if kind == "kill" else r"\d+"
    assert len(outcome.told) == 1  # torchrun ends with SIGKILL who does not notice within 30 s
    assert re.fullmatch(f"plusx: rank {rank} lost at step {step}. The same command continues the run.", outcome.told[0])
    assert outcome.rows == two.rows
    assert outcome.same_weights(two)


def test_of_four_ranks_only_the_dead_one_is_called_lost(data: Path, tmp_path: Path) -> None:
    outcome = start(tmp_path, data, 4, fault="kill:1:5")
    assert outcome.code != 0
    assert outcome.told == ["plusx: rank 1 lost at step 5. The same command continues the run."]


def test_a_slow_rank_is_waited_for(data: Path, tmp_path: Path) -> None:
    """Longer than a collective waits: it reads its images, and evaluates them."""
    outcome = start(tmp_path, data, 2, "schedule.epochs=1", fault="slow:1:7")
    assert outcome.code == 0, outcome.said
    assert [row["split"] for row in outcome.rows] == ["train", "val"]


def test_ranks_do_not_wait_for_gradients_of_a_frozen_body(data: Path, tmp_path: Path) -> None:
    outcome = start(tmp_path, data, 2, "optim.freeze=body", "schedule.epochs=1")
    assert outcome.code == 0, outcome.said
    assert len(outcome.steps()) == STEPS / 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("image:1:9", "rank 1: photo.jpg: cut off."),
        ("memory:1:3", "rank 1: step 3: out of memory with 16 examples a batch."),
        ("nan:1:4", "rank 1: step 4: the loss is nan; not finite are the pixels of 1 example (ids 106)"),
    ],
)
def test_the_rank_that_failed_says_why_and_nobody_else(data: Path, tmp_path: Path, fault: str, message: str) -> None:
    outcome = start(tmp_path, data, 2, fault=fault)
    assert outcome.code != 0
    assert len(outcome.told) == 1, outcome.told
    assert outcome.told[0].startswith(f"plusx: {message}")
    failures = sorted(p.name for p in (outcome.run / "failures").iterdir())
    assert failures == ["rank-1.json"]


def test_a_signal_to_one_rank_stops_all_and_one_process_goes_on_in_the_same_order(
    data: Path, two: Outcome, tmp_path: Path
) -> None:
    stopped = start(tmp_path, data, 2, fault="term:1:9")
    assert stopped.told == ["plusx: stopped by SIGTERM after step 9 of 14. The same command continues it."]
    assert not (stopped.run / "failures").exists()
    alone = start(tmp_path, data, 1)
    assert "continuing after step 9 of 14" in alone.said
    orders = [{step: ids for step, (ids, _) in o.steps().items()} for o in (alone, two)]
    assert orders[0] == orders[1]


def test_a_ctrl_c_that_everybody_hears_and_the_agent_passes_on_is_one(data: Path, tmp_path: Path) -> None:
    process = launch(tmp_path, data, 2)
    while process.alive() and not list(tmp_path.glob("seen/*")):
        time.sleep(0.01)
    process.send(signal.SIGINT, group=True)
    stopped = ended(tmp_path, process)
    assert len(stopped.told) == 1, stopped.said
    assert re.fullmatch(r"plusx: stopped by Ctrl-C after step \d+ of 14\. The same command .*", stopped.told[0])
