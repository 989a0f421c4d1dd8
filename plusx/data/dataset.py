"""What a data set is: splits of examples in a fixed order, classes that are names, notes for people."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plusx.data.names import Names
from plusx.text import listed, plural

Progress = Callable[[int, int], None]
"""Called with (done, total); total is 0 when nobody knows it."""

SPLITS = ("train", "val", "test")  # in the order of every list of them
SPLIT_ALIASES = dict(zip(SPLITS, SPLITS, strict=True))
SPLIT_ALIASES |= {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


@dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split, in a fixed order; an example's id is its position.

    Arguments:
        name: train, val, test, or all where a source has no splits.
        targets: class ids, int64 (N,); or 0 and 1 for several labels an image, float32 (N, K).
        paths: absolute paths, or None for images in memory.
        names: short names for people: the path below the data's root, or `train/123`.
        images: uint8 (N, C, H, W), or None for files.
    """

    name: str
    targets: NDArray[Any]
    paths: Names | None
    names: Names
    images: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def source(self, i: int) -> str | NDArray[np.uint8]:
        """Where the pixels of an example come from: the path of its file, or the image in memory (C, H, W)."""
        if self.images is not None:
            return np.asarray(self.images[i])
        assert self.paths is not None
        return self.paths[i]

    def take(self, keep: NDArray[np.bool_], name: str | None = None) -> "Split":
        """The examples where `keep` (N,) is true, in the same order."""
        ids = np.flatnonzero(keep)
        images = None if self.images is None else self.images[ids]
        names, paths = (self.names.take(ids), None) if self.paths is None else self.names.take_both(self.paths, ids)
        return Split(name or self.name, self.targets[ids], paths, names, images)

    def part(self, rank: int, size: int, batch: int) -> "Split":
        """The examples that one of `size` processes evaluates: whole batches in a row, each in exactly one part."""
        batches = -(-len(self) // batch)
        first, last = (batch * (batches * r // size) for r in (rank, rank + 1))
        ids = np.arange(len(self))
        return self if size == 1 else self.take((first <= ids) & (ids < last))

    def counts(self, n_classes: int) -> NDArray[np.int64]:
        """Examples of each class, (K,)."""
        multi = self.targets.ndim == 2
        totals = self.targets.sum(axis=0) if multi else np.bincount(self.targets, minlength=n_classes)
        return np.asarray(totals, np.int64)

    def balance(self, n_classes: int) -> NDArray[np.float32]:
        """Weights (K,) of classes for a loss in which each counts the same; over the examples their mean is 1.

        Of several labels an image, absent over present examples of each, or 1 where more are present.
        """
        counts = self.counts(n_classes)
        rare = len(self) / (n_classes * counts) if self.targets.ndim == 1 else (len(self) / counts - 1).clip(1)
        return rare.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Splits with one list of classes.

    Arguments:
        name: short name for people.
        root: folder or file it was read from.
        classes: names; a class id is a position in this list, in every split.
        task: "single", or "multi" for several labels an image.
        splits: by name: train, val, test; or all, where the source has none and none was asked for.
        notes: counted notices for people; nothing is left out without one.
        faults: what keeps it from being used as it is; `open_dataset` raises them, `check` lists them.
        mirror: whether a mirrored image keeps its label; None when nobody can know.
        benchmark: a named set whose splits are fixed.
    """

    name: str
    root: str
    classes: tuple[str, ...]
    task: str
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    mirror: bool | None = None
    benchmark: bool = False

    def label(self, split: Split, i: int) -> str | list[str]:
        """The class of an example; the list of them where there may be several."""
        if self.task == "multi":
            return [self.classes[k] for k in np.flatnonzero(split.targets[i])]
        return self.classes[int(split.targets[i])]

    @property
    def watched(self) -> Split | None:
        """The split that is evaluated during training: val, else test."""
        return self.splits.get("val", self.splits.get("test"))

    def changed(self, *, splits: dict[str, Split] | None = None, notes: tuple[str, ...] = ()) -> "Dataset":
        """A copy with other splits and more notes."""
        return dataclasses.replace(
            self, splits=self.splits if splits is None else splits, notes=tuple(dict.fromkeys((*self.notes, *notes)))
        )


def no_images(dataset: Dataset) -> list[str]:
    """That there is nothing in it; empty when there is."""
    return [] if any(len(split) for split in dataset.splits.values()) else ["no images found"]


def untrainable(dataset: Dataset) -> list[str]:
    """Why no classifier can be trained on it; empty when one can."""
    if nothing := no_images(dataset):
        return nothing
    train = dataset.splits.get("train", dataset.splits.get("all"))
    if train is None:
        return [f"got {listed(dataset.splits)}, expected a train split"]
    problems = []
    if len(dataset.classes) < 2:
        problems.append(f"got one class ({listed(dataset.classes)}), expected at least 2")
    counts = {name: split.counts(len(dataset.classes)) for name, split in dataset.splits.items()}
    empty = [k for k in range(len(dataset.classes)) if counts[train.name][k] == 0]
    for name in dataset.splits:
        strange = [dataset.classes[k] for k in empty if counts[name][k]]
        if strange:
            problems.append(f"{name} has images of {plural('class', len(strange))} that train lacks: {listed(strange)}")
    bare = [dataset.classes[k] for k in empty if not any(c[k] for c in counts.values())]
    if bare:
        problems.append(f"{plural('class', len(bare))} without images: {listed(bare)}")
    return problems


def class_ids(names: Iterable[str]) -> dict[str, int]:
    """Each class by its name -> its id, in natural order."""
    return {name: k for k, name in enumerate(sorted(set(names), key=natural_key))}


def natural_key(text: str) -> tuple[Any, ...]:
    """A sort key that puts 2 before 10: digit runs compare by value, at any length."""
    parts = re.split(r"([0-9]+)", text)
    values = (p.lstrip("0") if i % 2 else p for i, p in enumerate(parts))
    return tuple((len(v), v) if i % 2 else v for i, v in enumerate(values)), text
