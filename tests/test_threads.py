"""Work ahead: in order, on as many threads as this process may use, and no further ahead than it says."""

import os
import threading
from pathlib import Path

import pytest

from plusx import evaluation, threads
from plusx.modelfile import load
from plusx.run import train
from plusx.threads import ahead, in_parallel, own_cores
from tests.data.making import class_folders


def test_cores_are_those_of_this_process_or_all_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert own_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert own_cores() == 64


def test_results_come_in_order_and_no_more_is_begun_than_was_asked_for() -> None:
    begun: list[int] = []
    results = ahead(lambda n: begun.append(n) or n * n, range(100), 3, 5)
    assert next(results) == 0
    assert len(begun) <= 6
    assert list(results) == [n * n for n in range(1, 100)]


def test_what_was_not_begun_is_given_up_with_the_results() -> None:
    """Ctrl-C among many files waits for those alone that are being read."""
    begun, never = [], threading.Event()
    results = ahead(lambda n: begun.append(n) or never.wait(0.02), range(100), 1, 60)
    next(results)
    results.close()
    assert len(begun) < 30


def test_progress_is_told_at_times_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SLICE", 4)
    told: list[tuple[int, int]] = []
    assert list(in_parallel(str, range(10), lambda *x: told.append(x), 2)) == [str(n) for n in range(10)]
    assert told == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize(("asked", "used"), [(None, 3), (0, 3), (2, 2)])
def test_as_many_threads_as_cores_unless_fewer_are_asked_for(
    asked: int | None, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    meet = threading.Barrier(used, timeout=20)  # passed only where so many work at a time
    names = set(
        in_parallel(lambda _: meet.wait() < used and threading.current_thread().name, range(6 * used), None, asked)
    )
    assert len(names) == used


def test_files_are_decoded_on_every_core_whatever_the_run_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = class_folders(tmp_path / "data", {"a": 8, "b": 8})
    words = ("schedule.steps=1", "model.width=4", "engine.threads=1")
    run = train(str(data), model="resnet8", out=tmp_path / "run", overrides=words)
    classifier = load(run.folder)
    assert classifier.meta["config"]["data"]["workers"] == 0  # images in memory: no processes that decode
    asked: list[int] = []

    def noted(function: object, items: object, number: int, count: int) -> object:
        asked.append(number)
        return ahead(function, items, number, count)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    monkeypatch.setattr(threads, "ahead", noted)
    for workers in (0, 7):
        classifier.meta["config"]["data"]["workers"] = workers
        evaluation.evaluate(classifier, data)
    assert set(asked) == {3}
    evaluation.evaluate(classifier, data, overrides="data.workers=2")
    assert set(asked) == {2, 3}
