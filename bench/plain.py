"""The peer: a plain PyTorch training loop as torchvision's classification reference does it.

float32, the default memory format, PIL transforms in a DataLoader with worker processes, torchvision's own networks,
SGD, and the loss and top-1/top-5 counted at every step. For 32 px, where torchvision has no network, an option-A
ResNet-20 in the usual style.
"""

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, models, transforms

Measure = Callable[[int, int], float]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.extra = stride, channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra // 2))
        return F.relu(out + x)


class ResNet20(nn.Module):
    """The paper's CIFAR network with n = 3 and option A."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        plan = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks = nn.Sequential(*(Block(*widths) for widths in plan))
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(F.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


class Arrays(Dataset[tuple[Tensor, int]]):
    """Images of an `.npz` as torchvision's CIFAR10 serves them: one PIL image at a time."""

    def __init__(self, path: Path, transform: Callable[[Image.Image], Tensor]) -> None:
        with np.load(path) as arrays:
            self.images, self.labels = arrays["x_train"], arrays["y_train"]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def loader(source: Path, size: int, batch: int, workers: int) -> DataLoader[Any]:
    """Shuffled, augmented float32 (N, 3, size, size): translated arrays from an `.npz`, random crops from a folder."""
    tail = [
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float32),
        transforms.Normalize(MEAN, STD),
    ]
    dataset: Dataset[tuple[Tensor, int]]
    if source.is_file():
        dataset = Arrays(source, transforms.Compose([transforms.RandomCrop(size, padding=4), *tail]))
    else:
        dataset = datasets.ImageFolder(
            str(source / "train"), transforms.Compose([transforms.RandomResizedCrop(size), *tail])
        )
    return DataLoader(dataset, batch, shuffle=True, num_workers=workers)


def counts(logits: Tensor, targets: Tensor) -> tuple[int, int]:
    """Examples (N, K) right at top-1 and top-5, as the reference prints them at each step."""
    _, ranks = logits.topk(5, 1)
    hits = ranks.eq(targets[:, None])
    return int(hits[:, :1].sum()), int(hits.sum())


def prepare(model: str, source: Path, size: int, batch: int, workers: int = 2) -> tuple[Measure, dict[str, Any]]:
    """A function from (untimed, timed) steps to images/s of the timed ones, and the settings."""
    torch.manual_seed(0)
    batches = loader(source, size, batch, workers)
    network = ResNet20(10) if model == "resnet20" else getattr(models, model)(num_classes=10)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    network.train()

    def measure(untimed: int, timed: int) -> float:
        epochs = itertools.chain.from_iterable(batches for _ in itertools.count())
        start, seen = 0.0, 0
        for step in range(untimed + timed):
            if step == untimed:
                start, seen = time.perf_counter(), 0
            images, targets = next(epochs)
            logits = network(images)
            loss = criterion(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item(), counts(logits, targets)
            seen += len(images)
        return seen / (time.perf_counter() - start)

    about = {"precision": "fp32", "channels_last": False, "workers": workers, "threads": torch.get_num_threads()}
    return measure, about | {"openmp_spins": os.environ.get("GOMP_SPINCOUNT", "default")}
