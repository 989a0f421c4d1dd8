"""What only a GPU can show. `make test-gpu` runs this; all other tests do not see the GPU."""

import copy
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import plusx as library
from plusx.engine import tensorfile, trainer
from plusx.engine.graphs import Graphed
from plusx.models import create_model
from tests.commands import ROOT, photos, plusx
from tests.studies.making import use_noise

DEVICE = "cuda"
TINY = ("--model", "resnet8", "--set", "model.width=8", "--set", f"engine.device={DEVICE}")
LONG = ("digits", *TINY, "--set", "schedule.steps=30", "--set", "engine.batch=128")  # two epochs and a half
PARTS = {
    "average, micro-batches, clipping": ("engine.ema=0.9", "engine.accumulate=3", "optim.clip_norm=1"),
    "adamw, cosine": ("optim.name=adamw", "optim.lr=0.01", "schedule.name=cosine"),
    "mixup, cutmix": ("augment.mixup=0.2", "augment.cutmix=1"),
    "crops, colour, squares": ("augment.crop=resized", "augment.colour=0.1", "augment.cutout=4", "augment.erase=0.5"),
    "policy, repeats": ("augment.policy=trivial", "augment.repeats=2", "data.mode=photo"),
    "mean image, translations": ("data.normalize=pixel", "augment.crop=translate", "augment.pad=2"),
    "whitened input": ("model.whiten_input=true",),
    "precise batch norm": ("engine.precise_bn=3",),
    "no norm": ("model.norm=none", "optim.lr=0.01"),
}

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


def settings(*changes: str) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(("--set", change) for change in changes))


@pytest.fixture(scope="module")
def colour_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three channels whose class is a colour."""
    draw, path = np.random.default_rng(0), tmp_path_factory.mktemp("arrays") / "colours.npz"
    labels = {split: np.arange(n) % 3 for split, n in (("train", 192), ("test", 48))}
    arrays = {}
    for split, y in labels.items():
        pixels = draw.normal(128, 40, (len(y), 16, 16, 3)) + 60 * np.eye(3)[y][:, None, None]
        arrays |= {f"x_{split}": pixels.clip(0, 255).astype(np.uint8), f"y_{split}": y}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", ["resnet8", "plain8", "preresnet8"])
@pytest.mark.parametrize("enabled", [False, True])
def test_replayed_training_has_the_same_bits(name: str, enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    torch.manual_seed(0)
    first = create_model(name, 3).to(DEVICE, memory_format=torch.channels_last)
    batches = [torch.randn(n, 3, 32, 32, device=DEVICE).to(memory_format=torch.channels_last) for n in (8, 8, 5, 8)]
    ends = []
    for wrapped in (False, True):
        module = copy.deepcopy(first)
        net = Graphed(module, 8) if wrapped else module
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for images in batches:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(DEVICE, torch.bfloat16, enabled=enabled):
                logits = net(images)
            F.cross_entropy(logits.float(), torch.arange(len(images), device=DEVICE) % 3).backward()
            optimizer.step()
        ends.append(module.state_dict())
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key


@pytest.mark.parametrize(
    "changes",
    [
        ("engine.precision=fp32", "engine.accumulate=2"),
        ("engine.precision=bf16", "engine.ema=0.9"),
        ("engine.precision=bf16", "engine.cuda_graphs=true"),
    ],
    ids=", ".join,
)
def test_a_stopped_run_ends_in_the_same_bits(
    tmp_path: Path, changes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", *LONG, *settings(*changes))
    assert plusx(*command, "--out", tmp_path / "straight").code == 0
    count, step = itertools.count(), trainer.train_step

    def stopping(*arguments: object) -> float:
        if next(count) in (4, 16):  # of the first command, in mid-epoch; of the second
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "train_step", stopping)
    codes = [plusx(*command, "--out", tmp_path / "cut").code for _ in range(3)]
    assert codes == [143, 143, 0]
    wanted, found = (tensorfile.read(tmp_path / name / "model.safetensors")[0] for name in ("straight", "cut"))
    assert [name for name, value in wanted.items() if not torch.equal(value, found[name])] == []


@pytest.mark.parametrize("protocol", ["1-crop", "10-crop", "multi-scale"])
def test_a_gpu_answers_like_a_cpu(tmp_path: Path, colour_digits: Path, protocol: str) -> None:
    run = tmp_path / "run"
    words = (*TINY, "--set", "schedule.steps=24", "--set", "data.size=32")
    assert plusx("train", colour_digits, "--out", run, *words).code == 0
    found = [library.evaluate(library.load(run, device=d), colour_digits, protocol=protocol) for d in ("cpu", DEVICE)]
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-4)
    assert found[0].top1 == found[1].top1 > 0.6
    assert (found[0].confusion == found[1].confusion).all()


def test_photos_train_and_are_answered(tmp_path: Path) -> None:
    data, run = photos(tmp_path / "photos"), tmp_path / "run"
    words = ("--model", "resnet18", "--set", "model.width=16", "--epochs", "2", "--set", "data.workers=2")
    words += ("--set", "data.size=64", "--set", f"engine.device={DEVICE}")
    assert plusx("train", data, "--out", run, *words).code == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluation = json.loads(plusx("evaluate", run, data, "--split", "val", "--json").out)
    assert evaluation["top1"] == max(row["top1"] for row in rows if row["split"] == "val")
    answers = library.load(run).predict(data)
    assert [len(answer["labels"]) for answer in answers] == [3] * 48


@pytest.mark.parametrize("name", list(PARTS))
def test_every_part_runs(tmp_path: Path, colour_digits: Path, name: str) -> None:
    ran = plusx("train", colour_digits, "--out", tmp_path, *TINY, *settings("schedule.steps=5", *PARTS[name]))
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)


@pytest.mark.parametrize("study", ["gradients", "responses", "depth", "mlp"])
def test_studies_look_into_networks(tmp_path: Path, study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_noise(monkeypatch)
    words = ("--seeds", "1", *settings("schedule.steps=20", "engine.batch=16", f"engine.device={DEVICE}"))
    ran = plusx("study", study, "--out", tmp_path, *words)
    assert ran.code == 0, ran.err
    assert (tmp_path / "index.html").exists()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A gibibyte of the GPU's memory."""
    gc.collect()  # runs of other tests
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**30 / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("little_memory")
def test_too_little_memory_is_told_and_the_run_goes_on_with_more(tmp_path: Path) -> None:
    command = ("train", "digits", "--model", "resnet110", "--out", tmp_path, "--set", "data.size=32")
    command += settings("schedule.steps=2", "engine.batch=1200", "engine.precision=fp32", f"engine.device={DEVICE}")
    ran = plusx(*command)
    assert ran.code == 1
    assert "step 1: out of memory with 1200 examples a batch." in ran.err
    assert "Set engine.accumulate=2" in ran.err
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert plusx(*command).code == 0


def test_more_processes_than_gpus_are_refused(tmp_path: Path) -> None:
    gpus = torch.cuda.device_count()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus + 1}"]
    command += ["-m", "plusx", "train", *LONG, "--out", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode != 0
    assert f"{gpus + 1} processes on a machine with GPUs for {gpus}." in ran.stderr
