"""Data for studies."""

import numpy as np
import pytest

from plusx.config import DataConfig
from plusx.data.arrays import in_memory
from plusx.data.dataset import Dataset
from plusx.data.sources import SOURCES


def noise(source: str, config: DataConfig) -> Dataset:
    """48 images of noise a split, of ten classes."""
    rng = np.random.default_rng(0)
    splits = {
        name: in_memory(name, rng.integers(0, 256, (48, 3, 16, 16), np.uint8), np.arange(48) % 10)
        for name in ("train", "test")
    }
    return Dataset(source, "/noise", tuple(f"c{k}" for k in range(10)), "single", splits, mirror=True, benchmark=True)


def use_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts noise in the place of the part of CIFAR-10."""
    monkeypatch.setitem(SOURCES, "cifar10-part", noise)
