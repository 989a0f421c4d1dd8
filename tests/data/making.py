"""Small data sets for the tests of the sources."""

from pathlib import Path

import numpy as np
from PIL import Image

from plusx.config import DataConfig

CONFIG = DataConfig()


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> Path:
    """Write a random picture of (width, height) and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)
    return path


def class_folders(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """`{"cat": 3}` -> root/cat/0.png … 2.png, all different."""
    for name, n in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            seed += 1
            picture(root / name / f"{i}.png", seed)
    return root
