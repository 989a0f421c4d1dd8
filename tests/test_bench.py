"""What the benchmark compares is comparable."""

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from bench import ours, plain
from bench.__main__ import RESULTS
from bench.gpu import MPS, compared, side_by_side
from bench.gpu import keep as keep_row
from bench.photos import write_photos
from bench.rounds import compare
from bench.studies import keep
from bench.train import CASES, Case
from plusx.data.loader import Batch
from plusx.models import count_macs, count_params, create_model


@pytest.mark.parametrize(
    ("name", "peer", "size"),
    [("resnet20", "resnet20", 32), ("resnet18", "resnet18", 224), ("resnet50-v1.5", "resnet50", 224)],
)
def test_both_sides_train_the_same_network(name: str, peer: str, size: int) -> None:
    with torch.device("meta"):
        network = plain.ResNet20(10) if peer == "resnet20" else getattr(models, peer)(num_classes=10)
        own = create_model(name, 10)
    assert count_params(network) == count_params(own)
    assert count_macs(network, (3, size, size)) == count_macs(own, (3, size, size))


def test_nets_are_compared_with_table_6() -> None:
    found = {net: compared(net, error) for net, error in (("plain20", 9.5), ("resnet20", 8.25), ("resnet56", 7.5))}
    assert {net: (row["paper"], row["difference"], row["within"]) for net, row in found.items()} == {
        "plain20": (None, None, None),
        "resnet20": (8.75, -0.5, True),
        "resnet56": (6.97, 0.53, False),
    }


def test_a_table_made_in_parts_is_one_table(tmp_path: Path) -> None:
    for net, error in (("resnet20", 9.0), ("plain20", 9.5), ("resnet20", 8.5)):
        keep_row(tmp_path / "gpu.json", {"net": net, **compared(net, error)}, "command")
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["net"], row["test_error"]) for row in document["nets"]] == [("plain20", 9.5), ("resnet20", 8.5)]


def test_runs_share_a_gpu_while_they_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with side_by_side() as shared:
        assert not shared
    control = tmp_path / MPS
    control.write_text(f'#!/bin/sh\necho "$CUDA_MPS_PIPE_DIRECTORY $@" >> {tmp_path}/calls\n[ "$1" ] || read word\n')
    control.chmod(0o755)
    with suppress(ZeroDivisionError), side_by_side() as shared:
        folder = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
        assert shared
        assert Path(folder).is_dir()
        raise ZeroDivisionError
    assert (tmp_path / "calls").read_text().splitlines() == [f"{folder} -d", f"{folder} "]
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    assert not Path(folder).exists()


def test_results_name_the_hardware_of_the_runs(tmp_path: Path) -> None:
    (tmp_path / "study" / "figures").mkdir(parents=True)
    for machine, cores in (({"processor": "A", "cores": "1 and 2"}, "1 and 2"), ({}, "unknown")):
        (tmp_path / "study" / "study.json").write_text(json.dumps({"machine": machine}))
        keep(tmp_path / "study", tmp_path / "kept")
        kept = json.loads((tmp_path / "kept" / "study.json").read_text())
        assert kept["cores"] == cores
        assert kept["cpu"] == machine.get("processor", "a CPU that they did not record")


def test_photos_are_the_same_each_time_and_as_large_as_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_photos(tmp_path / name, 2)
    first, second = ([p.read_bytes() for p in sorted((tmp_path / name).rglob("*.jpg"))] for name in ("a", "b"))
    assert first == second
    assert len(first) == 2
    assert first[0] != first[1]
    assert 80_000 < len(first[0]) < 110_000


def test_plain_loop_trains_from_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "small.npz", x_train=images, y_train=np.arange(24) % 10)
    measure, about = plain.prepare("resnet20", tmp_path / "small.npz", 32, 8, workers=0)
    assert measure(1, 4) > 0  # more steps than an epoch has
    assert about["precision"] == "fp32"


def test_plusx_trains_as_long_as_it_is_asked_to(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
    np.savez(
        tmp_path / "small.npz", x_train=images, y_train=np.arange(24) % 10, x_test=images, y_test=np.arange(24) % 10
    )
    measure, about = ours.prepare("resnet8", tmp_path / "small.npz", 32, 8)
    assert measure(1, 4) > 0  # more steps than an epoch has
    assert about["precision"] == "fp32"


class Loader:
    """Two batches of three images an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> list[Batch]:
        return [Batch(torch.zeros(3, 1), torch.zeros(3), torch.arange(3), 3)] * 2


def test_timed_loader_counts_the_timed_steps_alone() -> None:
    timed = ours.Timed(Loader(), untimed=2, timed=3)
    assert len(list(timed.epoch(0))) == timed.steps_per_epoch == 6
    assert timed.images == 9
    assert timed.end > timed.start > 0


def fake_measure(side: str, case: Case, source: Path) -> tuple[float, dict[str, str]]:
    return {"plain": 10.0, "plusx": 25.0}[side], {"side": side}


def test_rounds_alternate_and_medians_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    class Pool:
        """Runs at once, in this process."""

        def __init__(self, *_: object) -> None: ...

        def submit(self, measure: object, side: str, *rest: object) -> "Pool":
            order.append(side)
            self.found = fake_measure(side, CASES[0], tmp_path)
            return self

        def result(self) -> tuple[float, dict[str, str]]:
            return self.found

        def shutdown(self) -> None: ...

    monkeypatch.setattr("bench.rounds.ProcessPoolExecutor", Pool)
    found = compare(fake_measure, CASES[0], tmp_path, rounds=3)
    assert order == ["plain", "plusx", "plusx", "plain", "plain", "plusx"]
    assert found["ratio"] == 2.5
    assert found["rounds"] == {"plain": [10.0] * 3, "plusx": [25.0] * 3}


def test_the_peer_was_measured_as_pytorch_comes() -> None:
    """plusx sets how threads wait, for its own process alone."""
    results = json.loads((RESULTS / "speed-training.json").read_text())["training"]
    assert [r["settings"]["plain"]["openmp_spins"] for r in results] == ["default"] * len(CASES)
    assert [r["settings"]["plain"]["precision"] for r in results] == ["fp32"] * len(CASES)
