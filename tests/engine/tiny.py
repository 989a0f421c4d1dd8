"""A network, examples and runs small enough to train in a test."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from plusx.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EngineConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    replace,
)
from plusx.engine.infer import measure
from plusx.engine.log import Log
from plusx.engine.metrics import Metrics
from plusx.engine.trainer import Trainer

CLASSES = 4
CLOCKS = ("seconds", "images_per_second")


class Batch(NamedTuple):
    images: Tensor
    targets: Tensor
    ids: Tensor

    @property
    def total(self) -> int:
        return len(self.ids)


def examples(n: int, seed: int = 0, multi: bool = False) -> Batch:
    """n noisy images of 8 px whose mean colour tells the class."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % CLASSES
    colours = torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(1))
    images = torch.randn(n, 3, 8, 8, generator=generator) + colours[targets][:, :, None, None]
    labels = torch.nn.functional.one_hot(targets, CLASSES).float()
    return Batch(images, labels if multi else targets, torch.arange(n))


class Train:
    """A training loader: batches of 8, the order a function of (seed, epoch); `before` is called before each batch."""

    def __init__(self, n: int = 40, multi: bool = False, before: Callable[[int, int], None] | None = None) -> None:
        self.data, self.n, self.steps_per_epoch = examples(n, multi=multi), n, n // 8
        self.before = before or (lambda epoch, step: None)
        self.seen: list[list[int]] = []
        self.closed = 0  # epochs
        self.ended = False

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(epoch))
        try:
            for step in range(start, self.steps_per_epoch):
                self.before(epoch, step)
                torch.rand(3)  # loaders may draw from the global generator
                ids = order[8 * step : 8 * step + 8]
                self.seen.append(ids.tolist())
                yield Batch(self.data.images[ids], self.data.targets[ids], ids)
        finally:
            self.closed += 1

    def close(self) -> None:
        self.ended = True


class Eval:
    """An evaluation loader of 30 examples, 16 a batch."""

    def __init__(self, n: int = 30, multi: bool = False) -> None:
        self.data, self.n = examples(n, seed=7, multi=multi), n

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.n, 16):
            yield Batch(*(part[start : start + 16] for part in self.data))


class Net(nn.Sequential):
    """Two convolutions with batch norm, dropout, and a head called fc."""

    head_name = "fc"

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        for name, layer in {
            "conv1": nn.Conv2d(3, 8, 3, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(8),
            "relu": nn.ReLU(),
            "conv2": nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            "bn2": nn.BatchNorm2d(8),
            "relu2": nn.ReLU(),
            "pool": nn.AdaptiveAvgPool2d(1),
            "flat": nn.Flatten(),
            "drop": nn.Dropout(dropout),
            "fc": nn.Linear(8, CLASSES),
        }.items():
            self.add_module(name, layer)


def net(dropout: float = 0.2) -> Net:
    torch.manual_seed(3)
    return Net(dropout)


def tiny_config(**changes: Any) -> Config:
    """A config; changes are written `optim__lr=0.1`."""
    base = Config(
        recipe="tiny",
        data=DataConfig(),
        augment=AugmentConfig(crop="none"),
        model=ModelConfig(),
        optim=OptimConfig(name="sgd", lr=0.1, weight_decay=1e-3),
        schedule=ScheduleConfig(name="linear", epochs=3),
        engine=EngineConfig(batch=8, precision="fp32", select="best"),
    )
    return replace(base, {key.replace("__", "."): value for key, value in changes.items()})


class Run(NamedTuple):
    trainer: Trainer
    train: Train
    selected: list[tuple[int, float]]


def run(
    folder: Path, config: Config | None = None, train: Train | None = None, task: str = "single", data: str = "examples"
) -> Run:
    """A trainer of the tiny network in a folder, on a fresh network as a new process would make it."""
    folder.mkdir(exist_ok=True)
    selected: list[tuple[int, float]] = []
    loader = train or Train(multi=task == "multi")

    def keep(module: nn.Module, metrics: Metrics, row: dict[str, Any]) -> None:
        assert not module.training
        selected.append((row["step"], metrics.top1))

    trainer = Trainer(
        net(),
        train=loader,
        evaluate=partial(measure, loader=Eval(multi=task == "multi"), task=task, n_classes=CLASSES),
        watched="val",
        data=data,
        config=config or tiny_config(),
        task=task,
        folder=folder,
        on_selected=keep,
        log=Log(folder, console=Console(quiet=True)),
    )
    return Run(trainer, loader, selected)


def without_clocks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in rows]


def at_batch(number: int, action: Callable[[], None]) -> Callable[[int, int], None]:
    """Does something once, before the batch of that number over the whole run."""
    count = itertools.count()

    def before(epoch: int, step: int) -> None:
        if next(count) == number:
            action()

    return before
