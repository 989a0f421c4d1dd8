"""Twenty steps of a tiny ResNet: what is recorded, and where."""

import json
import platform
from pathlib import Path
from typing import Any

import torch

from plusx.engine.metrics import Metrics
from plusx.engine.optim import build_optimizer, set_rates
from plusx.engine.schedule import learning_factor
from plusx.engine.step import train_step
from plusx.models import create_model
from tests.engine.tiny import Batch, tiny_config

PATH = Path(__file__).with_name("losses.json")
STEPS = 20


def environment() -> dict[str, str]:
    """What rounding depends on: PyTorch, the instructions that it uses, and the processor (its caches shape loops)."""
    info = Path("/proc/cpuinfo")
    fields = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    first = {name.strip(): value.strip() for name, _, value in reversed(fields)}
    processor = [first[name] for name in ("model name", "cpu family", "model", "stepping") if name in first]
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": " ".join(processor) or platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def losses() -> list[float]:
    """The loss of each step: ResNet-8 of width 8, 64 images of 16 px, SGD with momentum and weight decay, float32.

    The learning rate is small: at 0.02 another order of sums, one rounding apart, moves the last losses by 1e-4.
    """
    config = tiny_config(schedule__epochs=None, schedule__steps=STEPS, schedule__warmup=0.2, optim__lr=0.001)
    torch.manual_seed(0)
    network = create_model("resnet8", 10, width=8).to(memory_format=torch.channels_last).train()
    optimizer, running = build_optimizer(network, config.optim), Metrics("single")
    generator = torch.Generator().manual_seed(0)
    found = []
    for step in range(STEPS):
        images, targets = torch.randn(64, 3, 16, 16, generator=generator), (torch.arange(64) + step) % 10
        images += targets[:, None, None, None] / 5
        rate = config.optim.lr * learning_factor(config.schedule, step, STEPS)
        set_rates(optimizer, rate, config.optim.weight_decay)
        batch = Batch(images, targets, torch.arange(64))
        found.append(train_step(network, optimizer, batch, running, config, step + 1))
    return found


def recorded() -> dict[str, Any]:
    """The committed losses and the environment that they were recorded in."""
    document: dict[str, Any] = json.loads(PATH.read_text())
    return document


def record() -> None:
    """Writes the losses of this machine, on one thread."""
    torch.set_num_threads(1)
    PATH.write_text(json.dumps({"environment": environment(), "losses": losses()}, indent=1) + "\n")
