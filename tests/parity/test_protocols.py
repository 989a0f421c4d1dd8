"""The test protocols and ensembles against loops that anyone would write: one view of one image at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from plusx import modelfile
from plusx.config import DataConfig
from plusx.data import EvalLoader, open_dataset
from plusx.data.transforms import Preprocess
from plusx.engine.infer import predict_logits
from plusx.engine.metrics import Metrics
from plusx.evaluation import Evaluation, evaluate
from plusx.models import create_model

CLASSES = ("cat", "dog", "emu", "fox", "gnu", "hen", "yak")
RULES = Preprocess(size=16, resize=19, fit="crop", channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
SMALLER = replace(RULES, size=14, resize=14, mean=(0.5, 0.5, 0.5))
# Landscape, portrait, square, odd, at the sizes of the transform and below, and longer than four shorter sides.
SHAPES = ((24, 40), (40, 24), (30, 30), (25, 31), (19, 19), (16, 16), (9, 7), (8, 60), (61, 9), (24, 40), (33, 20))
N = 14
SIDES = (12, 17, 23)  # px
Answer = Callable[["Member", Tensor], list[Tensor]]


@dataclass
class Member:
    """A model, and the file that holds it."""

    network: nn.Module
    path: Path
    rules: Preprocess = RULES
    temperature: float = 1.0
    classes: Sequence[str] = CLASSES


@dataclass
class Spy:
    """What `evaluate` counts: its logits and targets, in order."""

    logits: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def probabilities(self, task: str) -> Tensor:
        logits = torch.cat(self.logits).double()
        return logits.softmax(1) if task == "single" else logits.sigmoid()


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    found, update = Spy(), Metrics.update

    def noted(metrics: Metrics, logits: Tensor, targets: Tensor, loss: Tensor | None = None) -> None:
        found.logits.append(logits)
        found.targets.append(targets)
        update(metrics, logits, targets, loss)

    monkeypatch.setattr(Metrics, "update", noted)
    return found


def member(folder: Path, *, seed: int = 0, task: str = "single", name: str = "resnet8", **given: Any) -> Member:
    """A model file with random weights and random batch-norm statistics."""
    torch.manual_seed(seed)
    classes = given.get("classes", CLASSES)
    network = create_model(name, len(classes), width=8).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                assert tensor is not None
                tensor.uniform_(low, high)
    network.fc.weight.data.mul_(4)  # sure answers: the mean of probabilities is far from that of logits
    made = Member(network, folder / f"{name}-{seed}.safetensors", **given)
    facts = {"metrics": {}, "recipe": "small", "config": {}, "manifest_hash": "", "temperature": made.temperature}
    modelfile.save(made.path, network, classes=list(classes), task=task, preprocess=made.rules, **facts)
    return made


def pictures(folder: Path, task: str) -> tuple[Path, list[Tensor], Tensor]:
    """A table of lossless pictures of mixed sizes, their pixels (3, H, W), and targets in the order of CLASSES."""
    draw = np.random.default_rng(7)
    (folder / "data").mkdir()
    images, labels, rows = [], np.zeros((N, len(CLASSES)), np.float32), ["path,label,split"]
    for i in range(N):
        tone = draw.uniform(0, 200, (1, 1, 3))
        pixels = (tone + draw.uniform(0, 56, (*SHAPES[i % len(SHAPES)], 3))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "data" / f"{i}.png")
        labels[i, [i % len(CLASSES)] if task == "single" else draw.choice(len(CLASSES), 1 + i % 3, False)] = 1
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
        rows.append(f"{i}.png,{'|'.join(CLASSES[k] for k in np.flatnonzero(labels[i]))},test")
    table = folder / "data" / "table.csv"
    table.write_text("\n".join(rows))
    targets = torch.from_numpy(labels)
    return table, images, targets.argmax(1) if task == "single" else targets


def resized(pixels: Tensor, side: int) -> Tensor:
    """(3, H, W) with its shorter side `side`, in 0..1; of a long image the middle four shorter sides."""
    height, width = pixels.shape[1:]
    shorter = min(height, width)
    if height > 4 * shorter:
        pixels = pixels[:, (height - 4 * shorter) // 2 :][:, : 4 * shorter]
    if width > 4 * shorter:
        pixels = pixels[:, :, (width - 4 * shorter) // 2 :][:, :, : 4 * shorter]
    height, width = pixels.shape[1:]
    shape = (height * side // shorter, width * side // shorter)
    return F.interpolate(pixels[None].float() / 255, shape, mode="bilinear", antialias=True)[0]


def normalised(image: Tensor, rules: Preprocess) -> Tensor:
    return torch.stack([(image[c] - rules.mean[c]) / rules.std[c] for c in range(3)])


def one_crop(m: Member, pixels: Tensor) -> list[Tensor]:
    image, size = resized(pixels, m.rules.resize), m.rules.size
    top, left = (image.shape[1] - size) // 2, (image.shape[2] - size) // 2
    return [normalised(image[:, top : top + size, left : left + size], m.rules)]


def ten_crops(m: Member, pixels: Tensor) -> list[Tensor]:
    views, image, size = [], resized(pixels, m.rules.resize), m.rules.size
    for flipped in (image, torch.flip(image, [2])):
        views += [flipped[:, :size, :size], flipped[:, :size, -size:]]
        views += [flipped[:, -size:, :size], flipped[:, -size:, -size:]]
    centre = one_crop(m, pixels)[0]
    return [*(normalised(view, m.rules) for view in views), centre, torch.flip(centre, [2])]


def six_views(m: Member, pixels: Tensor) -> list[Tensor]:
    centre, views = one_crop(m, pixels)[0], []
    for step in (0, 1, -1):  # rows and columns beyond the edge are those as far within it
        where = [min(abs(i), 2 * (m.rules.size - 1) - i) for i in range(step, m.rules.size + step)]
        moved = centre[:, where][:, :, where]
        views += [moved, torch.flip(moved, [2])]
    return views


def multi_scale(m: Member, pixels: Tensor, sides: Sequence[int] = SIDES) -> list[Tensor]:
    return [normalised(resized(pixels, side), m.rules) for side in sides]


def reference(members: Sequence[Member], images: Sequence[Tensor], answer: Answer, task: str) -> Tensor:
    """Probabilities (N, K), in the order of CLASSES."""
    rows = []
    for pixels in images:
        row = torch.zeros(len(CLASSES), dtype=torch.float64)
        for m in members:
            views, mean = answer(m, pixels), torch.zeros(len(CLASSES), dtype=torch.float64)
            for view in views:
                with torch.no_grad():
                    logits = m.network(view[None])[0].double()
                mean += (logits.softmax(0) if task == "single" else logits.sigmoid()) / len(views)
            # Calibrated after the mean: a power of each probability, that all of an example add up to 1 again.
            power = mean ** (1 / m.temperature)
            other = (1 - mean) ** (1 / m.temperature)
            p = power / power.sum() if task == "single" else power / (power + other)
            for k, name in enumerate(CLASSES):
                row[k] += p[m.classes.index(name)] / len(members)
        rows.append(row)
    return torch.stack(rows)


def check_counts(result: Evaluation, p: Tensor, targets: Tensor) -> None:
    """The counts are those of the probabilities, of each example exactly once."""
    assert result.n == N
    if result.task == "multi":
        assert result.top1 == sum(bool(((p[i] > 0.5) == (targets[i] > 0.5)).all()) for i in range(N)) / N
        assert result.loss == pytest.approx(F.binary_cross_entropy(p, targets.double()).item(), abs=1e-6)
        return
    ranks = [int((p[i] > p[i, targets[i]]).sum()) for i in range(N)]
    assert (result.top1, result.top5) == (sum(r < 1 for r in ranks) / N, sum(r < 5 for r in ranks) / N)
    assert 0 < result.top1 < result.top5 < 1
    matrix = np.zeros((len(CLASSES), len(CLASSES)), int)
    for i in range(N):
        matrix[targets[i], p[i].argmax()] += 1
    assert np.array_equal(result.confusion, matrix)
    assert result.loss == pytest.approx(float(-p[range(N), targets].log().mean()), abs=1e-6)
    wrong = sorted((float(p[i].max()) for i in range(N) if p[i].argmax() != targets[i]), reverse=True)
    assert [m.probability for m in result.mistakes] == pytest.approx(wrong, abs=1e-6)


PROTOCOLS: dict[str, Answer] = {
    "1-crop": one_crop,
    "6-view": six_views,
    "10-crop": ten_crops,
    "multi-scale": lambda m, pixels: multi_scale(m, pixels, (16, 18, 27, 34, 46)),  # {224 … 640} * 16 / 224
    "multi-scale=12,17,23": multi_scale,
}


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_is_the_mean_over_its_views(protocol: str, task: str, tmp_path: Path, spy: Spy) -> None:
    table, images, targets = pictures(tmp_path, task)
    one = member(tmp_path, task=task, temperature=1.7)
    result = evaluate(one.path, table, protocol=protocol)
    assert torch.equal(torch.cat(spy.targets), targets)
    wanted = reference([one], images, PROTOCOLS[protocol], task)
    assert (spy.probabilities(task) - wanted).abs().max() < 1e-6
    check_counts(result, wanted, targets)
    assert (result.protocol, result.models) == (protocol, (str(one.path),))


def test_the_temperature_changes_no_answer_of_several_views(tmp_path: Path, spy: Spy) -> None:
    """It is fitted on labels of the very split that may be evaluated."""
    table, *_ = pictures(tmp_path, "single")
    answers = []
    for temperature in (0.25, 1.0, 4.0):
        spy.logits.clear()
        evaluate(member(tmp_path, temperature=temperature).path, table, protocol="10-crop")
        answers.append(torch.cat(spy.logits).argsort(1))
    assert answers[0].equal(answers[1])
    assert answers[2].equal(answers[1])


def test_one_crop_has_the_bits_of_evaluation_in_training(tmp_path: Path, spy: Spy) -> None:
    table, *_ = pictures(tmp_path, "single")
    one = member(tmp_path, temperature=1.7)
    evaluate(one.path, table, batch=5)
    split = open_dataset(str(table), DataConfig(), training=False).splits["test"]
    answers = predict_logits(one.network, EvalLoader(split, one.rules, batch=5))
    assert all(torch.equal(mine, logits.double() / 1.7) for mine, (logits, *_) in zip(spy.logits, answers, strict=True))


@pytest.mark.parametrize("name", ["resnet18", "preresnet8", "resnet9", "resnet18-d"])
def test_every_kind_of_convolutional_network_takes_every_scale(name: str, tmp_path: Path, spy: Spy) -> None:
    table, images, _ = pictures(tmp_path, "single")
    one = member(tmp_path, name=name)
    evaluate(one.path, table, protocol="multi-scale=1,12,33")
    wanted = reference([one], images, lambda m, pixels: multi_scale(m, pixels, (1, 12, 33)), "single")
    assert (spy.probabilities("single") - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("protocol", ["10-crop", "multi-scale=12,17,23"])
@pytest.mark.parametrize("batch", [1, 40])
def test_the_batch_changes_no_count(protocol: str, batch: int, tmp_path: Path) -> None:
    table, *_ = pictures(tmp_path, "single")
    one = member(tmp_path)
    told: list[tuple[int, int]] = []
    whole = evaluate(one.path, table, protocol=protocol)
    part = evaluate(one.path, table, protocol=protocol, batch=batch, progress=lambda *x: told.append(x))
    assert told[-1] == (part.n, N)
    assert (part.n, part.top1, part.top5, part.per_class) == (whole.n, whole.top1, whole.top5, whole.per_class)
    assert part.loss == pytest.approx(whole.loss, abs=1e-6)


@pytest.mark.parametrize(
    ("protocol", "task"), [("1-crop", "single"), ("10-crop", "multi"), ("multi-scale=12,17,23", "single")]
)
def test_an_ensemble_is_the_mean_over_its_members(protocol: str, task: str, tmp_path: Path, spy: Spy) -> None:
    """Each with its own preprocessing, temperature and order of classes."""
    table, images, targets = pictures(tmp_path, task)
    order = ("yak", "gnu", "cat", "hen", "dog", "fox", "emu")
    members = [
        member(tmp_path, task=task, temperature=1.7),
        member(tmp_path, seed=1, task=task, classes=order, rules=SMALLER),
        member(tmp_path, seed=2, task=task, temperature=0.6, rules=replace(RULES, resize=24)),
    ]
    result = evaluate(
        members[0].path, table, protocol=protocol, others=[members[1].path, modelfile.load(members[2].path)]
    )
    wanted = reference(members, images, PROTOCOLS[protocol], task)
    assert (spy.probabilities(task) - wanted).abs().max() < 1e-6
    check_counts(result, wanted, targets)
    assert list(result.per_class) == list(CLASSES)
    assert result.models == tuple(str(m.path) for m in members)
    assert result.to_dict()["models"] == list(result.models)
