"""What the benchmark compares is comparable."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models

from bench import gpu, ours, plain, seeds
from bench.__main__ import RESULTS
from bench.gpu import MPS, compared, side_by_side
from bench.gpu import keep as keep_row
from bench.photos import write_photos
from bench.rounds import compare
from bench.studies import keep
from bench.studies import row as table_row
from bench.train import CASES, Case, prepared
from plusx.data.loader import Batch
from plusx.models import count_macs, count_params, create_model


def test_naming_the_processor_imports_nothing_that_the_sides_compared_would_inherit() -> None:
    code = "import sys; from bench.__main__ import cpu; print(cpu()); sys.exit('plusx' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=RESULTS.parents[1], check=True)


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


def pretend(*words: str) -> dict[str, Any]:
    """In the place of the command: a run's record, or a test whose accuracy is that of the folder's number."""
    if words[0] == "train":
        out = Path(words[words.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        errors = {"train": (0.5, 0.75), "test": (0.9, 0.875)}
        rows = [{"split": s, "step": 10 * (i + 1), "top1": errors[s][i]} for i in (0, 1) for s in errors]
        (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = dict.fromkeys(("model", "recipe", "epochs", "n_train", "watched", "selected"), "")
        return {**run, "seconds": 90.0, "images_per_second": 5.0, "final": {"top1": 0.875}}
    return {"split": "test", "n": 10_000, "top1": 0.7 + int(words[1][-1]) / 100, "loss": 0.3, "ece": 0.01}


def test_seeds_are_tested_as_asked_and_spread_as_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(seeds, "plusx", lambda *words: (asked.append(words), pretend(*words))[1])
    monkeypatch.setattr(seeds, "RESULTS", tmp_path)
    monkeypatch.setattr(seeds, "surroundings", dict)
    monkeypatch.setattr(seeds, "write_curve", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "runs"), "--protocol", "6-view", "--seeds", "2"])
    seeds.main()
    found = json.loads((tmp_path / "cifar10-fast.json").read_text())
    assert [(run["seed"], run["top1"]) for run in found["runs"]] == [(0, 0.7), (1, 0.71)]
    assert (found["mean"], found["std"]) == (pytest.approx(0.705), pytest.approx(0.01 / 2**0.5))
    runs = [str(tmp_path / "runs" / name) for name in "01"]
    assert asked[1::2] == [("evaluate", run, "cifar10", "--protocol", "6-view") for run in runs]
    assert [words[:6] for words in asked[::2]] == [
        ("train", "cifar10", "--recipe", "cifar10-fast", "--seed", seed) for seed in "01"
    ]


def test_errors_of_a_net_are_those_of_its_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "plusx", pretend)
    row = gpu.trained(tmp_path, "resnet20")
    assert (row["steps"], row["minutes"]) == (20, 1.5)
    assert row["curves"] == {"train_error": [(10, 50), (20, 25)], "test_error": [(10, 10), (20, 12.5)]}
    told = "resnet20: training error 25.00 %, test error 12.50 %"
    assert gpu.told(row) == f"{told}, the paper 8.75, difference +3.75: not within 0.5 points"
    assert gpu.told(row | compared("resnet20", 8.5)).endswith("difference -0.25: within 0.5 points")
    assert gpu.told(row | compared("plain20", 12.5)) == told


def test_a_rehearsal_is_short_and_on_the_cpu_and_every_call_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(gpu, "plusx", lambda *words: (asked.append(words), pretend(*words))[1])
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "surroundings", dict)
    for nets in (["plain20", "resnet56"], ["resnet20"]):
        monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "runs"), *nets, "--rehearse"])
        gpu.main()
    found = json.loads((tmp_path / "gpu-rehearsal.json").read_text())
    assert [row["net"] for row in found["nets"]] == ["plain20", "resnet20", "resnet56"]
    assert [call["nets"] for call in found["calls"]] == [["resnet56", "plain20"], ["resnet20"]]
    assert all({"engine.device=cpu", "schedule.steps=200"} <= set(words) for words in asked)


def test_a_net_that_fails_costs_no_other_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*words: str) -> dict[str, Any]:
        if "plain20" in words:
            raise RuntimeError("plain20 failed")
        return pretend(*words)

    monkeypatch.setattr(gpu, "plusx", failing)
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "surroundings", dict)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "runs"), "resnet20", "plain20", "--rehearse"])
    gpu.main()
    found = json.loads((tmp_path / "gpu-rehearsal.json").read_text())
    assert [row["net"] for row in found["nets"]] == ["resnet20"]
    assert len(found["calls"]) == 1
    assert "plain20 failed\n" in capsys.readouterr().out


def test_a_line_of_a_studys_table_has_the_papers_value_before_the_difference() -> None:
    row = {"arm": "a", "measure": "m", "n": 3, "mean": 9.5, "std": 0.25, "paper": 8.75, "difference": 0.75}
    assert table_row(row) == "| a | m | 3 | 9.5 | 0.25 | 8.75 | +0.75 |"
    assert table_row(row | {"n": 1, "std": None, "paper": None, "difference": None}) == "| a | m | 1 | 9.5 |  |  |  |"


def test_both_sides_of_a_comparison_have_their_stride_in_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in (ours, plain):
        monkeypatch.setattr(side, "prepare", lambda *words: words)
    found = {side: prepared.__wrapped__(side, CASES[2], tmp_path) for side in ("plusx", "plain")}
    assert found == {
        side: (name, tmp_path / "photos", 224, 16) for side, name in (("plusx", "resnet50-v1.5"), ("plain", "resnet50"))
    }
