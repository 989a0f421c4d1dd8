"""k steps, a stop, a resume: every tensor, counter and row as in the straight run, wherever k lies."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plusx.config import Config
from plusx.engine import checkpoint
from plusx.engine.stop import Stopped
from plusx.engine.trainer import Trainer
from plusx.errors import ModelFileError
from tests.engine.tiny import CLOCKS, Train, at_batch, run, tiny_config, without_clocks
from tests.forks import Fork

CLOCK_FIELDS = {*CLOCKS, "train_seconds", "epoch_seconds"}
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"schedule__warmup": 0.2},
    "nesterov, average, micro-batches": {"optim__nesterov": True, "engine__ema": 0.9, "engine__accumulate": 3},
    "adamw, clipping": {"optim__name": "adamw", "optim__lr": 0.01, "optim__clip_norm": 0.5},
    "bf16, average": {"engine__precision": "bf16", "engine__ema": 0.8, "schedule__name": "cosine"},
    "frozen body": {"optim__freeze": "body"},
    "in steps, every second epoch": {
        "schedule__epochs": None,
        "schedule__steps": 13,
        "engine__evaluate_every": 2,
        "schedule__name": "multistep",
        "schedule__milestones": (0.5,),
    },
    "plateau, warm once it learns": {
        "schedule__name": "plateau",
        "schedule__patience": 1,
        "schedule__warmup_error": 0.95,
        "optim__lr": 0.3,
    },
    "precise batch norm of an average": {"engine__precise_bn": 2, "engine__ema": 0.9},
}


def clockless(value: Any) -> Any:
    """The same without what a clock decides."""
    if isinstance(value, dict):
        return {k: clockless(v) for k, v in value.items() if k not in CLOCK_FIELDS}
    return [clockless(v) for v in value] if isinstance(value, list) else value


def final_state(folder: Path, trainer: Trainer) -> tuple[Any, dict[str, Tensor], list[dict[str, Any]], Tensor]:
    """The document and tensors of the newest checkpoint, the rows of metrics.jsonl and the random state."""
    newest = checkpoint.load(checkpoint.stored(folder / "checkpoints")[0])
    live = {f"live/{name}": value for name, value in trainer.module.state_dict().items()}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return clockless(newest.document), newest.tensors | live, without_clocks(rows), torch.get_rng_state()


def assert_same_end(folder: Path, trainer: Trainer, wanted: tuple[Any, ...]) -> None:
    document, tensors, rows, generator = final_state(folder, trainer)
    assert document == wanted[0]
    assert tensors.keys() == wanted[1].keys()
    assert [name for name in tensors if not torch.equal(tensors[name], wanted[1][name])] == []
    assert rows == wanted[2]
    assert all(torch.equal(generator, own) for own in wanted[3:])


def straight(folder: Path, config: Config) -> tuple[Trainer, list[list[int]], tuple[Any, ...]]:
    trainer, train, _ = run(folder, config)
    trainer.fit()
    return trainer, train.seen, final_state(folder, trainer)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def pull_the_plug() -> None:
    """Nothing is saved, as after kill -9."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", list(SETTINGS))
def test_stopped_before_any_step(tmp_path: Path, name: str) -> None:
    config = tiny_config(**SETTINGS[name])
    trainer, seen, wanted = straight(tmp_path / "straight", config)
    for k in range(trainer.total):
        folder = tmp_path / f"stop-{k}"
        first = Train(before=at_batch(k, terminate))
        with pytest.raises(Stopped):
            run(folder, config, first)[0].fit()
        torch.rand(k + 1)  # a new process is in another random state
        second, train, _ = run(folder, config)
        second.fit()
        assert first.seen + train.seen == seen  # no step lost, none repeated
        assert_same_end(folder, second, wanted)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_the_plug_pulled_again_and_again(tmp_path: Path, name: str) -> None:
    config = tiny_config(engine__checkpoint_steps=2, **SETTINGS[name])
    _, seen, wanted = straight(tmp_path / "straight", config)
    folder, draw, repeated = tmp_path / "cut", random.Random(name), 0
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run(folder, config, train := Train(before=at_batch(draw.randrange(1, 4), pull_the_plug)))[0].fit()
        repeated += len(train.seen)
    last, train, _ = run(folder, config)
    last.fit()
    assert train.seen == seen[len(seen) - len(train.seen) :]
    assert repeated + len(train.seen) <= len(seen) + 4 * 2
    assert_same_end(folder, last, wanted)


@pytest.mark.parametrize("call", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("end", [terminate, pull_the_plug])
def test_stopped_in_an_evaluation(tmp_path: Path, end: Callable[[], None], call: int) -> None:
    config = tiny_config(engine__ema=0.9)
    _, seen, wanted = straight(tmp_path / "straight", config)
    trainer, first, _ = run(tmp_path / "cut", config)
    count = iter(range(100))

    def in_the_way(module: nn.Module, _: Any) -> None:
        if next(count) == call:  # a batch of an evaluation: two batches each
            end()

    assert trainer.average is not None
    trainer.average.module.register_forward_pre_hook(in_the_way)
    with pytest.raises((Stopped, KeyboardInterrupt)):
        trainer.fit()
    second, train, _ = run(tmp_path / "cut", config)
    second.fit()
    steps = len(first.seen) + len(train.seen)
    assert steps == len(seen) if end is terminate else steps <= len(seen) + 5
    assert_same_end(tmp_path / "cut", second, wanted)


@pytest.mark.parametrize("after", [1, 2])
def test_killed_between_the_files_of_an_evaluation(tmp_path: Path, after: int) -> None:
    """Rows and the kept model are written before the checkpoint: a kill in between repeats them, never doubles them."""
    config = tiny_config(engine__select="last")
    _, _, wanted = straight(tmp_path / "straight", config)
    trainer, _, selected = run(tmp_path / "cut", config)
    keep = trainer.on_selected

    def dying(module: nn.Module, metrics: Any, row: Any) -> None:
        keep(module, metrics, row)
        if len(selected) == after:
            pull_the_plug()

    trainer.on_selected = dying
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    rows, left = tmp_path / "cut" / "metrics.jsonl", list[int]()
    look = Train(before=at_batch(0, lambda: left.append(rows.read_text().count("\n"))))
    second, _, again = run(tmp_path / "cut", config, look)
    second.fit()
    assert left == [2 * (after - 1)]  # those of the checkpoint
    assert again[0] == selected[-1]
    assert_same_end(tmp_path / "cut", second, wanted)


@pytest.mark.parametrize("n", [20, 40, 70])
@pytest.mark.parametrize("k", [1, 5, 7, 12])
def test_changed_data_begin_at_the_next_epoch(tmp_path: Path, n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the epoch has more steps now, or fewer, and whatever is killed on the way."""
    config, folder = tiny_config(engine__checkpoint_steps=1), tmp_path / "run"
    with pytest.raises(Stopped):
        run(folder, config, Train(before=at_batch(k, terminate)))[0].fit()
    before = checkpoint.load(checkpoint.stored(folder / "checkpoints")[0])
    shutil.copytree(folder, tmp_path / "cut")
    trainer, train, selected = run(folder, config, Train(n), data="others")
    trainer.fit()
    epochs = -(-k // 5)
    assert len(train.seen) == (3 - epochs) * train.steps_per_epoch
    assert trainer.total == 3 * train.steps_per_epoch
    wanted = final_state(folder, trainer)
    rows = wanted[0]["position"]["rows"]
    kept = [row for row in before.document["position"]["rows"] if row["epoch"] < 3]
    assert rows[: len(kept)] == clockless([row | {"step": row["step"] // 5 * train.steps_per_epoch} for row in kept])
    assert [row["epoch"] for row in rows if row["split"] == "val"] == sorted(
        {*range(1, k // 5 + 1), *range(epochs + 1, 4), 3}
    )
    assert all(row["step"] == row["epoch"] * train.steps_per_epoch for row in rows)
    assert selected[0][0] > epochs * train.steps_per_epoch or epochs == 3  # the old best does not count
    words = f"from epoch {epochs + 1}, after step {epochs * train.steps_per_epoch:,}\n"
    assert words in (folder / "log.txt").read_text()

    killed = [run(tmp_path / "cut", config, Train(n), data="others")[0]]
    killed += [run(tmp_path / "cut", config, Train(n, before=at_batch(1, pull_the_plug)), data="others")[0]]
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: pull_the_plug())  # saved, and the old ones not yet removed
        with pytest.raises(KeyboardInterrupt):
            killed[0].fit()
    if epochs < 3:
        with pytest.raises(KeyboardInterrupt):
            killed[1].fit()
    second, _, _ = run(tmp_path / "cut", config, Train(n), data="others")
    second.fit()
    assert_same_end(tmp_path / "cut", second, wanted)


def test_data_that_change_after_the_last_evaluation_are_evaluated_in_its_place(tmp_path: Path) -> None:
    config = tiny_config(schedule__epochs=1)
    first = run(tmp_path, config)[0]
    keep = first.on_selected
    first.on_selected = lambda *kept: (keep(*kept), terminate())
    with pytest.raises(Stopped):
        first.fit()
    assert first.at.best is not None
    first.at.best |= {"top1": 2.0}  # of the old data
    first._save()
    trainer = run(tmp_path, config, data="others")[0]
    assert trainer.fit().best["top1"] <= 1
    assert [(row["step"], row["split"]) for row in trainer.at.rows] == [(5, "train"), (5, "val")]


@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_lost_model_file_is_written_anew(tmp_path: Path, epochs: int, select: str) -> None:
    """Stopped after the first evaluation, be it the last one too."""
    config = tiny_config(schedule__epochs=epochs, engine__select=select)
    first = run(tmp_path, config)[0]
    keep = first.on_selected
    first.on_selected = lambda *kept: (keep(*kept), terminate())
    with pytest.raises(Stopped):
        first.fit()
    best = first.at.best
    assert best is not None
    first.at.best = best | {"top1": 2.0}  # nothing will be better
    first._save()
    trainer, _, selected = run(tmp_path, config)
    trainer.lost = lambda: "it is gone."
    trainer.fit()
    assert selected[-1][0] == trainer.total
    assert trainer.at.best is not None
    assert (trainer.at.best["top1"] == 2.0) == (select == "last")
    val = [row["step"] for row in trainer.at.rows if row["split"] == "val"]
    assert val == [5, 10, 15][:epochs]
    text = (tmp_path / "log.txt").read_text()
    assert "the next evaluation writes the model file anew: it is gone." in text
    assert ("the best evaluation so far counts no more" in text) == (select == "best")


def test_a_lost_model_file_does_not_hide_another_plan(tmp_path: Path) -> None:
    run(tmp_path)[0].fit()
    for _ in range(2):
        trainer = run(tmp_path, train=Train(48))[0]
        trainer.lost = lambda: "it is gone."
        with pytest.raises(ModelFileError, match="made with 5 steps an epoch, this run has 6"):
            trainer.fit()


def test_a_model_file_that_was_never_written_is_not_lost(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, train=Train(before=at_batch(3, terminate)))[0].fit()
    trainer = run(tmp_path)[0]
    trainer.lost = lambda: pytest.fail("it was asked for")
    trainer.fit()


def test_checkpoints_of_earlier_versions_have_five_totals(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, train=Train(before=at_batch(3, terminate)))[0].fit()
    path, document, tensors = checkpoint.load(checkpoint.stored(tmp_path / "checkpoints")[0])
    checkpoint.save(path.parent, 3, document, tensors | {"running/totals": tensors["running/totals"][:5].clone()})
    trainer = run(tmp_path)[0]
    counted: list[int] = []
    trainer.on_step = lambda *_: counted.append(trainer.running.n)
    trainer.fit()
    assert counted[:3] == [32, 40, 8]


@pytest.mark.parametrize("n", [72, 16])
def test_a_length_in_steps_stays_when_the_data_change(tmp_path: Path, n: int) -> None:
    config, folder = (
        tiny_config(schedule__epochs=None, schedule__steps=18, engine__checkpoint_steps=1),
        tmp_path / "run",
    )
    first, _, _ = run(folder, config, Train(before=at_batch(8, terminate)))
    first.on_step = lambda step, _: setattr(first.at, "epoch_seconds", 9000.0)
    with pytest.raises(Stopped):
        first.fit()
    made: dict[int, tuple[int, bool]] = {}
    trainer, _, _ = run(folder, config, Train(n), data="others")
    trainer.on_step = lambda step, _: made.update({step: (trainer.running.n, trainer.at.epoch_seconds < 9000)})
    trainer.fit()
    assert list(made) == list(range(9, 19))
    assert made[9] == (8, True)  # none of the old data, nor of the time that they took
    rows = final_state(folder, trainer)[0]["position"]["rows"]
    at = [row["step"] for row in rows if row["split"] == "val"]
    assert at == sorted(set(at))
    assert at[-1] == 18
    per_epoch = n // 8
    last = next(row for row in reversed(rows) if row["split"] == "train")
    assert last["top1"] * 8 * (18 % per_epoch or per_epoch) == pytest.approx(trainer.running.correct)


def test_what_killed_saves_left_is_removed(tmp_path: Path) -> None:
    config = tiny_config(schedule__epochs=1)
    for left in (".tmp595xzb", ".model.safetensors.tmp", "checkpoints/.tmpAbC123"):
        (tmp_path / left).parent.mkdir(exist_ok=True)
        (tmp_path / left).write_bytes(b"half")
    run(tmp_path, config)[0].fit()
    assert list(tmp_path.rglob("*tmp*")) == []


def test_the_newest_checkpoint_damaged(tmp_path: Path) -> None:
    config = tiny_config(engine__checkpoint_steps=2)
    _, _, wanted = straight(tmp_path / "straight", config)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", config, Train(before=at_batch(9, terminate)))[0].fit()
    newest, before = checkpoint.stored(tmp_path / "cut" / "checkpoints")
    damaged = bytearray(newest.read_bytes())
    damaged[-5] ^= 4
    newest.write_bytes(damaged)
    second, train, _ = run(tmp_path / "cut", config)
    second.fit()
    assert len(train.seen) == 15 - 8
    assert (
        f"{newest.name}: damaged, its SHA-256 is another. Using {before.name}."
        in (tmp_path / "cut" / "log.txt").read_text()
    )
    assert_same_end(tmp_path / "cut", second, wanted)


KILLS = 20


def kill_runs(folder: Path, kills: int) -> None:
    """Trains in processes that are killed, up to five times a run."""
    torch.set_num_threads(1)
    draw, folders = random.Random(0), 0
    while kills:
        folders += 1
        for _ in range(5):
            if not (child := os.fork()):
                train = Train(before=lambda epoch, step: time.sleep(0.02))
                config = tiny_config(schedule__epochs=6, engine__ema=0.9, engine__checkpoint_steps=2)
                try:
                    run(folder / str(folders), config, train)[0].fit()
                except BaseException as error:
                    os.write(2, repr(error).encode())
                    os._exit(1)
                os._exit(0)
            time.sleep(draw.uniform(0.05, 0.6))
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                break  # this run is finished
            kills -= 1
            if not kills:
                break


def test_killed_for_real(tmp_path: Path) -> None:
    """SIGKILL at random moments of processes that train and save, up to five times a run."""
    config = tiny_config(schedule__epochs=6, engine__ema=0.9, engine__checkpoint_steps=2)
    _, _, wanted = straight(tmp_path / "straight", config)
    (tmp_path / "cut").mkdir()
    process = Fork(kill_runs, tmp_path / "cut", KILLS, path=tmp_path / "told")
    assert process.wait() == 0, process.told()
    folders, resumed = list((tmp_path / "cut").iterdir()), 0
    assert len(folders) >= KILLS / 5
    for folder in folders:
        last, train, _ = run(folder, config)
        last.fit()
        resumed += 0 < len(train.seen) < 30
        assert_same_end(folder, last, wanted[:3])
    assert resumed  # some were killed between their first checkpoint and their end
