"""Data for studies."""

from pathlib import Path
from typing import Any

import numpy as np


def part(folder: Path, n: int = 48) -> Path:
    """Noise in the place of the part of CIFAR-10."""
    rng = np.random.default_rng(0)
    path = folder / "cifar10-part.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"classes": np.array([f"c{k}" for k in range(10)])}
    for split in ("train", "test"):
        arrays |= {f"x_{split}": rng.integers(0, 256, (n, 3, 16, 16), np.uint8), f"y_{split}": np.arange(n) % 10}
    np.savez(path, **arrays)
    return path
