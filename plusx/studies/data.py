"""The data of quick budgets: a part of CIFAR-10 at a quarter of its pixels, written once as an `.npz`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plusx.config import DataConfig
from plusx.data import open_dataset
from plusx.engine.tensorfile import replacing

TRAIN, TEST = 10_000, 2_000  # images of a part


def cifar_part(folder: Path, root: str | None) -> Path:
    """The first 10,000 training and 2,000 test images of CIFAR-10, averaged to 16 px, as `cifar10-part.npz`.

    Raises:
        DataError: CIFAR-10 is not there and cannot be downloaded.
    """
    path = folder / "cifar10-part.npz"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset("cifar10", DataConfig(root=root))
    arrays: dict[str, Any] = {"classes": np.array(dataset.classes)}
    for name, count in (("train", TRAIN), ("test", TEST)):
        split = dataset.splits[name]
        assert split.images is not None, "CIFAR-10 is in memory"
        arrays[f"x_{name}"] = halved(split.images[:count])
        arrays[f"y_{name}"] = split.targets[:count]
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return path


def halved(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (N, C, 2H, 2W) -> (N, C, H, W): means of 2x2 pixels, rounded."""
    n, channels, height, width = images.shape
    blocks = images.reshape(n, channels, height // 2, 2, width // 2, 2)
    means: NDArray[np.uint8] = np.rint(blocks.mean((3, 5))).astype(np.uint8)
    return means
