"""The training loop: what it does at its edges."""

import functools
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plusx.config import ScheduleConfig
from plusx.engine import checkpoint
from plusx.engine.distributed import World
from plusx.engine.infer import measure
from plusx.engine.precise import reestimate
from plusx.engine.schedule import SCHEDULES, SoFar
from plusx.engine.stop import Stopped
from plusx.engine.trainer import Trainer
from plusx.errors import ConfigError, DataError, DivergedError, ModelFileError, TrainingError
from tests.engine.tiny import CLASSES, Eval, Train, at_batch, examples, net, run, tiny_config


def steps(folder: Path) -> list[int]:
    return [int(path.stem.removeprefix("step-")) for path in checkpoint.stored(folder / "checkpoints")]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_reports(tmp_path: Path) -> None:
    trainer, train, selected = run(tmp_path, tiny_config(schedule__epochs=6))
    result = trainer.fit()
    assert (result.steps, result.epochs) == (30, 6)
    assert result.final["top1"] >= 0.8
    assert result.images_per_second > 0
    assert result.seconds > 0
    rows = read_rows(tmp_path)
    assert rows == result.history
    keys = ["step", "epoch", "split", "loss", "top1", "top5", "lr", "images_per_second", "seconds"]
    assert [list(row) for row in rows] == [keys] * 12
    assert [(r["step"], r["epoch"], r["split"]) for r in rows[:3]] == [(5, 1, "train"), (5, 1, "val"), (10, 2, "train")]
    best = max((r for r in rows if r["split"] == "val"), key=lambda r: (r["top1"], -r["loss"]))
    assert {k: result.best[k] for k in ("epoch", "top1")} == {k: best[k] for k in ("epoch", "top1")}
    assert selected[-1] == (best["step"], best["top1"])
    assert train.closed == 6
    assert all(len(ids) == 8 for ids in train.seen)
    assert steps(tmp_path) == [30, 25]


def test_the_last_evaluation_is_of_the_final_weights(tmp_path: Path) -> None:
    trainer, _, _ = run(tmp_path)
    result = trainer.fit()
    again = measure(trainer.module, Eval(), "single", CLASSES)
    assert (again.top1, again.loss) == (result.final["top1"], result.final["loss"])


def test_best_keeps_improvements_and_last_keeps_every_evaluation(tmp_path: Path) -> None:
    for select in ("best", "last"):
        trainer, _, selected = run(tmp_path / select, tiny_config(schedule__epochs=8, engine__select=select))
        trainer.fit()
        if select == "last":
            assert [step for step, _ in selected] == [5, 10, 15, 20, 25, 30, 35, 40]
        else:
            accuracy = [top1 for _, top1 in selected]
            assert accuracy == sorted(accuracy)
            assert len(selected) < 8


def test_a_run_in_steps_ends_and_evaluates_in_mid_epoch(tmp_path: Path) -> None:
    config = tiny_config(schedule__epochs=None, schedule__steps=7)
    result = run(tmp_path, config)[0].fit()
    assert [(r["step"], r["epoch"], r["split"]) for r in result.history] == [
        (5, 1, "train"),
        (5, 1, "val"),
        (7, 2, "train"),
        (7, 2, "val"),
    ]
    assert (result.steps, result.epochs) == (7, 2)


def test_evaluations_every_two_epochs_and_at_the_end(tmp_path: Path) -> None:
    result = run(tmp_path, tiny_config(schedule__epochs=5, engine__evaluate_every=2))[0].fit()
    assert [r["step"] for r in result.history] == [10, 10, 20, 20, 25, 25]
    assert (tmp_path / "log.txt").read_text().count("\n") == 5  # a line for every epoch


def test_averaged_weights_are_what_is_evaluated_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _, _ = run(tmp_path, tiny_config(engine__ema=0.9))
    assert trainer.average is not None
    follow, followed = trainer.average.update, list[int]()
    monkeypatch.setattr(trainer.average, "update", lambda step: (followed.append(step), follow(step)))
    result = trainer.fit()
    assert followed == list(range(1, 16))
    assert measure(trainer.average.module, Eval(), "single", CLASSES).loss == result.final["loss"]
    assert measure(trainer.module, Eval(), "single", CLASSES).loss != result.final["loss"]


def test_multi_label_trains(tmp_path: Path) -> None:
    result = run(tmp_path, tiny_config(schedule__epochs=8, optim__lr=0.5), task="multi")[0].fit()
    assert result.final["top1"] > 0.6


def test_a_signal_in_the_last_moments_is_not_lost(tmp_path: Path) -> None:
    class Late(Train):
        def close(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    heard: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        run(tmp_path, train=Late())[0].fit()
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert heard == [signal.SIGTERM]  # by what hears it when no run does


def test_a_finished_run_does_nothing(tmp_path: Path) -> None:
    first = run(tmp_path)[0].fit()
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").iterdir()}
    trainer, train, selected = run(tmp_path)
    assert trainer.fit() == first
    assert train.seen == selected == []
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").iterdir()} == files


def test_checkpoints_by_steps_and_by_minutes(tmp_path: Path) -> None:
    saved: list[int] = []

    def look(epoch: int, step: int) -> None:
        saved.extend(s for s in steps(folder) if s not in saved)

    folder = tmp_path / "steps"
    run(folder, tiny_config(engine__checkpoint_steps=2), Train(before=look))[0].fit()
    assert sorted(saved) == [2, 4, 5, 6, 8, 10, 12, 14]
    saved.clear()
    folder = tmp_path / "minutes"
    run(folder, tiny_config(engine__checkpoint_minutes=1e-9), Train(before=look))[0].fit()
    assert sorted(saved) == list(range(1, 15))
    saved.clear()
    folder = tmp_path / "off"
    run(folder, tiny_config(engine__checkpoint_minutes=0), Train(before=look))[0].fit()
    assert sorted(saved) == [5, 10]


def test_times_are_those_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, saved = [0.0], list[int]()
    monkeypatch.setattr("plusx.engine.trainer.time.perf_counter", lambda: clock[0])

    def later(seconds: float) -> None:
        saved.extend(step for step in steps(tmp_path) if step not in saved)
        clock[0] += seconds

    trainer = run(tmp_path, tiny_config(engine__checkpoint_minutes=1), Train(before=lambda *_: later(20)))[0]
    evaluate = trainer.evaluate
    trainer.evaluate = lambda module: (later(50), evaluate(module))[1]
    result = trainer.fit()
    assert sorted(saved) == [3, 5, 8, 10, 13, 15]
    assert [row["seconds"] for row in result.history] == [150, 150, 300, 300, 450, 450]
    assert [row["images_per_second"] for row in result.history] == [0.4, 0.6] * 3
    assert (result.seconds, result.images_per_second) == (450, 0.4)


def test_random_numbers_are_those_of_seed_and_step(tmp_path: Path) -> None:
    seen: list[int] = []
    for seed in (1, 2):
        trainer = run(tmp_path / str(seed), tiny_config(seed=seed, schedule__epochs=1))[0]
        trainer.on_step = lambda *_: seen.append(torch.initial_seed())
        trainer.fit()
    assert seen == [seed << 32 | step for seed in (1, 2) for step in range(5)]


def test_those_who_wait_for_a_save_take_no_other_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(World, "tell", lambda world, topic, value=None: told.append(topic))
    run(tmp_path, tiny_config(schedule__epochs=1, engine__checkpoint_steps=5))[0].fit()
    assert [topic for topic in told if topic.startswith("saved/")] == ["saved/5/0", "saved/5/5"]


def test_nan_stops_names_the_example_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    train = Train()
    train.before = at_batch(5, lambda: train.data.images.__setitem__(13, math.nan))
    with pytest.raises(DivergedError, match=r"step \d+: the loss is nan; not finite are the pixels of 1 .*ids 13\)"):
        run(tmp_path, train=train)[0].fit()
    assert steps(tmp_path) == [5]
    assert checkpoint.load(checkpoint.stored(tmp_path / "checkpoints")[0]).document["position"]["step"] == 5
    assert len(read_rows(tmp_path)) == 2


def test_a_diverging_run_never_saves_what_is_not_finite(tmp_path: Path) -> None:
    trainer, _, selected = run(tmp_path, tiny_config(optim__lr=1e20))
    with pytest.raises(DivergedError, match=r"Lower optim\.lr, .* in a new --out\.$"):
        trainer.fit()
    assert steps(tmp_path) == []
    assert selected == []


def test_an_evaluation_that_is_not_finite_stops_and_selects_nothing(tmp_path: Path) -> None:
    trainer, _, selected = run(tmp_path, tiny_config(engine__checkpoint_steps=3))
    real = trainer.evaluate

    def poisoned(module: torch.nn.Module) -> Any:
        trainer.module.bn1.running_mean.fill_(math.nan)
        return real(module)

    trainer.evaluate = poisoned
    with pytest.raises(DivergedError, match=r"the loss on val is not finite\. Lower optim\.lr, .* in a new --out\.$"):
        trainer.fit()
    assert selected == []
    assert steps(tmp_path) == [3]


def fail(error: Exception) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_a_failing_loader_stops_after_saving_every_step_made(tmp_path: Path) -> None:
    train = Train(before=at_batch(7, fail(DataError("img.png: gone"))))
    with pytest.raises(DataError, match=r"img\.png"):
        run(tmp_path, train=train)[0].fit()
    assert steps(tmp_path) == [7, 5]
    assert train.closed == 2
    assert train.ended


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("can't allocate memory")]
)
def test_out_of_memory_saves_the_state_before_the_step_and_advises(tmp_path: Path, error: Exception) -> None:
    straight = run(tmp_path / "straight")[0]
    straight.fit()
    trainer, _, _ = run(tmp_path / "cut")
    count = iter(range(1, 100))

    def short_of_memory(*_: Any) -> None:  # in the head, after batch norm has moved its statistics
        if next(count) == 10:  # 5 steps, 2 batches of evaluation, 3 steps
            raise error

    handle = trainer.module.fc.register_forward_pre_hook(short_of_memory)
    with pytest.raises(TrainingError, match=r"step 8: out of memory with 8 examples.*engine\.accumulate=2"):
        trainer.fit()
    handle.remove()
    assert steps(tmp_path / "cut") == [7, 5]
    resumed = run(tmp_path / "cut")[0]
    resumed.fit()
    final = resumed.module.state_dict()
    assert all(torch.equal(value, final[name]) for name, value in straight.module.state_dict().items())


class DynamoError(RuntimeError):
    __module__ = "torch._dynamo.exc"


def test_a_compiler_that_fails_is_a_clear_error(tmp_path: Path) -> None:
    trainer, _, _ = run(tmp_path)
    trainer.module.register_forward_pre_hook(lambda *_: fail(DynamoError("no C++ compiler\n\nmore"))())
    with pytest.raises(TrainingError, match=r"step 1: torch.compile failed: no C\+\+ compiler.*engine\.compile=false"):
        trainer.fit()


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_networks_train_and_keep_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    plain = run(tmp_path / "plain")[0]
    wanted = plain.fit()
    original, given = torch.compile, {}

    def compiled(net: nn.Module, **options: Any) -> Any:
        given.update(options)
        return original(net, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", compiled)
    trainer = run(tmp_path / "compiled", tiny_config(engine__compile=True))[0]
    result = trainer.fit()
    # Else the first size of batch gets a static graph and the next a dynamic one, so that a run which goes on just
    # before the smaller batch would compute otherwise than one that was never stopped.
    assert given == {"dynamic": False}
    assert trainer.net is not trainer.module
    assert result.final["loss"] == pytest.approx(wanted.final["loss"], abs=0 if backend == "eager" else 0.2)
    assert trainer.module.state_dict().keys() == plain.module.state_dict().keys()
    saved = checkpoint.load(trainer.saved.folder / "step-000000015.safetensors").tensors
    assert not [name for name in saved if "_orig" in name]


def test_replayed_steps_are_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(tmp_path / "plain")[0]
    plain.fit()
    shapes: list[torch.Size] = []

    def record(module: nn.Module, sample: tuple[Tensor]) -> nn.Module:
        shapes.append(sample[0].shape)
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    trainer = run(tmp_path / "replayed", tiny_config(engine__cuda_graphs=True, engine__device="cuda"))[0]
    trainer.fit()
    assert [shape[0] for shape in shapes] == [trainer.config.engine.batch]
    final = trainer.module.state_dict()
    assert all(torch.equal(value, final[name]) for name, value in plain.module.state_dict().items())


def test_replayed_steps_are_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.engine.tiny.Trainer", functools.partial(Trainer, world=World(0, 2)))
    with pytest.raises(ConfigError, match=r"engine\.cuda_graphs: got 2 processes, expected one"):
        run(tmp_path, tiny_config(engine__cuda_graphs=True, engine__device="cuda"))


def test_another_error_in_a_step_saves_nothing(tmp_path: Path) -> None:
    trainer, _, _ = run(tmp_path)
    trainer.optimizer.register_step_post_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert steps(tmp_path) == []


def test_a_failed_save_is_not_tried_again_and_keeps_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def full(folder: Path, step: int, *_: Any) -> Path:
        calls.append(step)
        raise TrainingError("disk full")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(TrainingError, match="disk full"):
        run(tmp_path)[0].fit()
    assert calls == [5]


def test_a_model_that_cannot_be_kept_leaves_a_checkpoint_from_which_it_is_tried_again(tmp_path: Path) -> None:
    trainer, _, _ = run(tmp_path)
    trainer.on_selected = lambda *_: fail(TrainingError("disk full"))()
    with pytest.raises(TrainingError, match="disk full"):
        trainer.fit()
    assert steps(tmp_path) == [5]
    again, _, selected = run(tmp_path)
    again.fit()
    assert selected[0][0] == 5
    assert [row["step"] for row in read_rows(tmp_path)] == [5, 5, 10, 10, 15, 15]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signals_save_and_stop_with_their_code(tmp_path: Path, number: int, code: int) -> None:
    train = Train(before=at_batch(3, lambda: os.kill(os.getpid(), number)))
    with pytest.raises(Stopped, match="after step 3 of 15") as caught:
        run(tmp_path, train=train)[0].fit()
    assert caught.value.exit_code == code
    assert steps(tmp_path) == [3]
    assert train.closed == 1


def test_a_signal_in_the_last_save_stops_before_all_that_follows(tmp_path: Path) -> None:
    trainer, _, selected = run(tmp_path, tiny_config(schedule__epochs=1))
    keep = trainer.on_selected
    trainer.on_selected = lambda *kept: (keep(*kept), os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped) as caught:
        trainer.fit()
    assert caught.value.exit_code == 143
    assert len(selected) == 1
    assert run(tmp_path, tiny_config(schedule__epochs=1))[0].fit().steps == 5


def test_another_network_or_plan_is_refused_on_resume(tmp_path: Path) -> None:
    run(tmp_path, tiny_config(engine__ema=0.5))[0].fit()
    with pytest.raises(ModelFileError, match=r"of another network; \d+ tensors differ, ema/"):
        run(tmp_path)[0].fit()
    wider = run(tmp_path, tiny_config(engine__ema=0.5))[0]
    for module in (wider.module, wider.average.module if wider.average else wider.module):
        module.fc = nn.Linear(8, CLASSES + 1)
    with pytest.raises(ModelFileError, match=r"of another network; 4 tensors differ, ema/fc\.bias is the first"):
        wider.fit()
    with pytest.raises(ModelFileError, match="made with 5 steps an epoch, this run has 6"):
        run(tmp_path, train=Train(48))[0].fit()


def test_frozen_body_trains_the_head_only(tmp_path: Path) -> None:
    trainer, _, _ = run(tmp_path, tiny_config(optim__freeze="body"))
    before = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    trainer.fit()
    moved = {name for name, value in trainer.module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"fc.weight", "fc.bias"}


def test_the_rate_rises_once_the_training_error_is_low(tmp_path: Path) -> None:
    config = tiny_config(schedule__epochs=40, schedule__name="multistep", schedule__warmup_error=0.8)
    trainer, _, _ = run(tmp_path, config)
    rates: list[float] = []
    errors: list[float] = []
    counts: list[int] = []  # right answers of an epoch so far

    def look(step: int, module: nn.Module) -> None:
        rates.append(trainer.at.rate)
        errors.append(trainer.at.train_error)
        counts.append(trainer.running.correct)

    trainer.on_step = look
    trainer.fit()
    first = rates.index(0.1)
    assert 0 < first < len(rates)
    assert rates == [pytest.approx(0.01)] * first + [0.1] * (len(rates) - first)
    assert errors[first - 1] < 0.8 <= min(errors[: first - 1])
    average = 1.0
    for i, error in enumerate(errors[:first]):
        right = counts[i] - (counts[i - 1] if i % 5 else 0)
        average += 0.02 * (1 - right / 8 - average)
        assert error == pytest.approx(average)


def test_gradients_of_the_step_are_there_to_look_at(tmp_path: Path) -> None:
    trainer, _, _ = run(tmp_path, tiny_config(schedule__epochs=1, optim__lr=0.0))
    seen: list[tuple[int, float]] = []

    def look(step: int, module: torch.nn.Module) -> None:
        gradient = module.get_parameter("conv1.weight").grad
        assert gradient is not None
        seen.append((step, float(gradient.norm())))

    trainer.on_step = look
    trainer.fit()
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5]
    assert all(norm > 0 for _, norm in seen)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), RuntimeError("odd")])
def test_a_step_whose_watcher_failed_is_made_again(error: Exception, tmp_path: Path) -> None:
    config = tiny_config(engine__checkpoint_steps=2)
    trainer, _, _ = run(tmp_path, config)
    seen: list[int] = []

    def look(step: int, module: torch.nn.Module) -> None:
        if step == 3:
            raise error
        seen.append(step)

    trainer.on_step = look
    with pytest.raises((type(error), TrainingError)):
        trainer.fit()
    again, _, _ = run(tmp_path, config)
    again.on_step = lambda step, module: seen.append(step)
    again.fit()
    assert seen == list(range(1, 16))


def test_a_test_split_cannot_make_the_rate_plateau(tmp_path: Path) -> None:
    config = tiny_config(schedule__name="plateau", schedule__patience=1)
    trainer, _, _ = run(tmp_path, config)
    rows = [{"split": split, "top1": top1} for top1 in (0.5, 0.6) for split in ("train", "test")]
    trainer.at.rows = [*rows, {"split": "test", "top1": 0.1}, {"split": "train", "top1": 0.7}]

    def rate(watched: str) -> float:
        trainer.watched = watched
        trainer._errors = trainer._watched_errors()
        return trainer._rate(20)

    assert (rate("test"), rate("val")) == (0.1, 0.1)
    trainer.at.rows.append({"split": "val", "top1": 0.9})
    trainer.at.rows.append({"split": "val", "top1": 0.8})
    assert (rate("test"), rate("val")) == (0.1, pytest.approx(0.01))


def test_every_schedule_sees_the_errors_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[float]] = {}

    def following(config: ScheduleConfig, step: int, total: int, warmup: int, so_far: SoFar) -> float:
        seen[step] = list(so_far.errors)
        return 1.0

    monkeypatch.setitem(SCHEDULES, "cosine", following)
    trainer, _, _ = run(tmp_path, tiny_config(schedule__name="cosine", engine__checkpoint_steps=4))
    trainer.on_step = lambda step, module: os.kill(os.getpid(), signal.SIGTERM) if step == 7 else None
    with pytest.raises(Stopped):
        trainer.fit()
    trainer, _, _ = run(tmp_path, tiny_config(schedule__name="cosine", engine__checkpoint_steps=4))
    errors = [1 - row["top1"] for row in trainer.fit().history if row["split"] == "val"]
    assert seen == {step: errors[: step // 5] for step in range(15)}


@pytest.mark.parametrize("count", [2, 12])
def test_precise_batch_norm_is_the_mean_over_the_batches_that_would_come_next(count: int, tmp_path: Path) -> None:
    trainer, train, _ = run(tmp_path, tiny_config(engine__precise_bn=count))
    trainer.fit()
    assert len(train.seen) == 15 + count
    coming = [batch for epoch in (3, 4, 5) for batch in train.epoch(epoch)][:count]
    assert len(coming) == count
    x = [trainer.module.conv1(batch.images) for batch in coming]
    mean = torch.stack([part.mean((0, 2, 3)) for part in x]).mean(0)
    var = torch.stack([part.var((0, 2, 3)) for part in x]).mean(0)
    norm = trainer.module.get_submodule("bn1")
    torch.testing.assert_close(norm.running_mean, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.running_var, var, rtol=1e-5, atol=0)
    assert norm.momentum == 0.1
    assert int(norm.get_buffer("num_batches_tracked")) == 15


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precise_batch_norm_computes_as_training_does(precision: str, dtype: torch.dtype) -> None:
    module, seen = net(), list[torch.dtype]()
    module.conv2.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    reestimate(module, [examples(8)], precision, torch.channels_last)
    assert seen == [dtype]


@pytest.mark.parametrize("message", ["DefaultCPUAllocator: can't allocate memory", "could not create a primitive"])
def test_too_little_memory_to_evaluate_and_to_save_is_told(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise RuntimeError(message)

    trainer = run(tmp_path)[0]
    trainer.evaluate = refused
    monkeypatch.setattr(checkpoint, "save", refused)
    with pytest.raises(TrainingError, match="step 6: out of memory with 8 examples a batch"):
        trainer.fit()
    assert steps(tmp_path) == []
    assert f"step 5 is not saved: {message}" in (tmp_path / "log.txt").read_text()
    monkeypatch.undo()
    trainer = run(tmp_path)[0]
    trainer.fit()
    assert trainer.at.step == 15
