"""What ranks share, without starting any."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from plusx.data.dataset import Split
from plusx.data.loader import Batch
from plusx.data.names import Names
from plusx.data.sampling import batch_bounds, share
from plusx.engine import distributed
from plusx.engine.distributed import RankError, World, _reach, joined
from plusx.engine.precise import reestimate
from plusx.engine.stop import StopSignals
from plusx.engine.synced import SyncedBatchNorm, synchronize
from plusx.errors import ConfigError, DataError


@pytest.mark.parametrize("n", [4, 5, 16, 17, 129])
@pytest.mark.parametrize("size", [1, 2])
def test_shares_of_a_step_are_disjoint_complete_and_pairs(n: int, size: int) -> None:
    parts = [share(100, 100 + n, rank, size) for rank in range(size)]
    assert [i for part in parts for i in range(*part)] == list(range(100, 100 + n))
    assert all((first - 100) % 2 == 0 and last - first >= 2 for first, last in parts)


@pytest.mark.parametrize(("n", "size"), [(4096 * 2, 4096), (100_003, 4096)])
def test_shares_of_thousands_of_ranks_are_as_equal_as_pairs_allow(n: int, size: int) -> None:
    lengths = [last - first for first, last in (share(0, n, rank, size) for rank in range(size))]
    assert sum(lengths) == n
    assert max(lengths) - min(lengths) <= 3


def test_too_many_processes_for_a_batch_are_refused() -> None:
    batch_bounds(64, 16, 8)
    with pytest.raises(DataError, match=r"a step of 16 examples is too small for 9 processes"):
        batch_bounds(64, 16, 9)
    with pytest.raises(DataError, match=r"a step of 9 examples"):
        batch_bounds(57, 16, 8)


def test_processes_without_a_gpu_of_their_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        world = World(rank, 2)
        assert world.device("cpu") == torch.device("cpu")
        if rank == 0:
            assert world.device("cuda") == torch.device("cuda", 0)
        else:
            with pytest.raises(ConfigError, match=r"2 processes on a machine with GPUs for 1\."):
                world.device("cuda")


@pytest.mark.parametrize(("n", "size"), [(7, 4), (300, 3), (1, 2), (1000, 1)])
def test_parts_of_a_split_are_whole_batches_each_once(n: int, size: int) -> None:
    split = Split("val", np.arange(n), None, Names(map(str, range(n))), np.zeros((n, 1, 2, 2), np.uint8))
    parts = [split.part(rank, size, 16) for rank in range(size)]
    assert [name for part in parts for name in part.names] == list(split.names)
    assert all(part.targets[0] % 16 == 0 for part in parts if len(part))


def test_alone_nothing_is_exchanged() -> None:
    world = World()
    values = torch.ones(2)
    assert world.total(values) is values
    assert world.highest(3, 0) == [3, 0]
    world.compare({"a": "1"})
    with world.in_order("topic"):
        assert world.leads


@pytest.mark.parametrize("rank", [0, 1])
def test_nobody_waits_for_the_words_of_a_rank_that_failed(rank: int) -> None:
    store = dist.HashStore()
    store.set("failure", json.dumps({"rank": 1 - rank, "message": "the disk is full.", "hint": "Free it."}))
    world = World(rank, 2, store)
    with pytest.raises(RankError, match="the disk is full"):
        world.compare({"a": "1"}) if world.leads else world.told("prepared")


class Clock:
    """Time that passes where somebody sleeps. Until `end` it shows that a rank lives."""

    def __init__(self, store: dist.HashStore, rank: int, end: float) -> None:
        self.store, self.rank, self.end, self.now = store, rank, end, 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 10 * self.end, "waits for ever"
        if self.now < self.end:
            self.store.set(f"alive/{self.rank}", str(self.now))


@pytest.mark.parametrize(
    ("rank", "stop", "patience"),
    [
        (0, False, distributed.SILENT_SECONDS),
        (1, False, distributed.SILENT_SECONDS),
        (1, True, distributed.LEAVING_SECONDS),
    ],
)
def test_nobody_waits_for_the_words_of_a_rank_that_shows_no_life(
    rank: int, stop: bool, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed, and where torchrun or another rank holds the store, no connection breaks."""
    store = dist.HashStore()
    clock = Clock(store, 1 - rank, end=100)
    monkeypatch.setattr(distributed, "time", clock)
    world = World(rank, 2, store)
    world.signals = StopSignals()
    world.signals.received = signal.SIGTERM if stop else None
    with pytest.raises(RankError, match=f"rank {1 - rank} lost at step 0"):
        world.compare({"a": "1"}) if world.leads else world.told("prepared")
    assert 0 < clock.now - clock.end - patience < distributed.ROLL_CALL_SECONDS + 1


def test_ranks_meet_when_the_last_one_comes() -> None:
    store, came = dist.HashStore(), []
    worlds = [World(rank, 3, store) for rank in range(3)]
    threads = [threading.Thread(target=lambda w=world: (w.meet("here"), came.append(w.rank))) for world in worlds[1:]]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    assert came == []
    worlds[0].meet("here")
    for thread in threads:
        thread.join()
    assert sorted(came) == [1, 2]


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.02)


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_synchronised_batch_norm_of_one_process_is_batch_norm(group: None) -> None:
    torch.manual_seed(0)
    plain, synced = (nn.Sequential(nn.BatchNorm2d(5)) for _ in range(2))
    nn.init.normal_(plain[0].weight)
    synced.load_state_dict(plain.state_dict())
    assert isinstance(synchronize(synced)[0], SyncedBatchNorm)
    for _ in range(3):
        x = 3 * torch.randn(4, 5, 6, 6) + 2
        pair = [x.clone().requires_grad_(), x.clone().requires_grad_()]
        outputs = [net(one) for net, one in zip((plain, synced), pair, strict=True)]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
        for out in outputs:
            out.square().mul(x).sum().backward()
        torch.testing.assert_close(pair[1].grad, pair[0].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(synced.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(synced[0].weight.grad, plain[0].weight.grad, rtol=1e-4, atol=1e-3)
    assert torch.equal(synced.eval()(x), synced.eval()(x))
    assert synced.train()(x.bfloat16()).dtype == torch.bfloat16


def test_precise_statistics_do_not_depend_on_those_before(group: None) -> None:
    torch.manual_seed(0)
    plain, net = nn.Sequential(nn.BatchNorm2d(5)), synchronize(nn.Sequential(nn.BatchNorm2d(5)))
    batches = [Batch(3 * torch.randn(4, 5, 6, 6) + 2, torch.zeros(4), torch.arange(4), 4) for _ in range(3)]
    found = []
    for _ in range(2):
        reestimate(net, batches, "fp32", torch.contiguous_format)
        found.append(net[0].running_mean.clone())
    assert torch.equal(*found)
    reestimate(plain, batches, "fp32", torch.contiguous_format)
    torch.testing.assert_close(net.state_dict(), plain.state_dict())
    assert all(part.training for part in net.modules())


def test_a_stop_that_was_asked_for_is_no_failure(tmp_path: Path) -> None:
    world = World(1, 2, dist.HashStore())
    for number, end in enumerate((SystemExit(143), KeyboardInterrupt(), ValueError("a bug"))):
        world.record(end, tmp_path)
        assert len(list(tmp_path.glob("failures/*"))) == (number == 2)


def test_a_rank_that_waits_for_others_still_answers_and_hears_of_their_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its main thread is in a collective or an evaluation: `watch` speaks for it."""
    for name, value in {"BEAT_SECONDS": 0.1, "ROLL_CALL_SECONDS": 1.5, "PASSING_SECONDS": 2}.items():
        monkeypatch.setattr(distributed, name, value)
    store, done, sent = dist.HashStore(), threading.Event(), []
    monkeypatch.setattr(os, "kill", lambda *words: sent.append(words))
    one, other = World(0, 4, store), World(3, 4, store)
    thread = threading.Thread(target=other.watch, args=(done, os.getpid()))
    thread.start()
    try:
        for _ in range(2):  # each sign of life is another
            assert str(one.lost()).startswith("rank 1, 2 lost at step 0.")
        one.stopping()
        wait_until(lambda: bool(sent))
        time.sleep(0.5)  # some beats: it is told once
    finally:
        done.set()
        thread.join()
    assert sent == [(os.getpid(), signal.SIGTERM)]


@pytest.mark.parametrize(
    ("host", "first"), [("no-host.invalid", True), ("no-host.invalid", False), ("127.0.0.1", False)]
)
def test_a_meeting_place_that_cannot_be_reached_is_no_longer_waited_for(host: str, first: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    with pytest.raises(RuntimeError, match=r"not known|refused|failure"):
        _reach(host, port, time.monotonic(), first=first)


def test_machines_of_one_name_keep_their_neighbours_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    for machine, process in (("0", 7000), ("1", 8000)):
        for rank in ("1", "0"):
            for name, value in {"GROUP_RANK": machine, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr(os, "getpid", lambda pid=process + int(rank): pid)
            store.set(f"process/{machine}/0", str(process))
            found = distributed._neighbour(store)
        assert found == process + 1


def test_a_meeting_place_may_come_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    later: list[socket.socket] = []
    timer = threading.Timer(0.7, lambda: later.append(socket.create_server(("127.0.0.1", port))))
    timer.start()
    _reach("127.0.0.1", str(port), time.monotonic() + 20, first=False)
    timer.join()
    later[0].close()


def test_a_process_that_only_half_knows_its_ranks_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(RankError, match="WORLD_SIZE is 2, but MASTER_ADDR is not set"), joined(tmp_path, None):
        pass


def test_whoever_tells_a_failure_leaves_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else torchrun, which ends all once one has left, would end it before it has said why."""
    store, slept = dist.HashStore(), []
    monkeypatch.setattr(distributed.time, "sleep", slept.append)
    World(1, 3, store).record(DataError("photo.jpg: cut off."), tmp_path)
    assert not slept
    assert (tmp_path / "failures" / "rank-1.json").exists()
    error = RankError("rank 1: photo.jpg: cut off.")
    World(0, 3, store).record(error, tmp_path)
    assert slept == [distributed.ROLL_CALL_SECONDS]
    assert error.told_elsewhere
