"""Hold out a validation split where a data set has none: seeded, stratified, the same on every machine."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from plusx.config import DataConfig
from plusx.data.dataset import Dataset, Split
from plusx.errors import DataError
from plusx.text import listed, plural

AUTO_FRACTION = 0.2  # neither val nor test given
AUTO_FRACTION_BESIDE_TEST = 0.1  # a test split is given, so that val only chooses


def hold_out(dataset: Dataset, config: DataConfig, before: Mapping[str, bool] | None = None) -> Dataset:
    """Name the training split, and cut `val` from it where none is given.

    Named sets keep their authors' splits unless `data.val_fraction` asks for more.

    Arguments:
        dataset: as it is found.
        config: `val_fraction` and `split_seed`.
        before: for examples of an earlier state of the data whether they were held out; they stay where they were.

    Raises:
        DataError: every class has a single image, so that none can be held out, or all that were held out are gone.
    """
    splits = dict(dataset.splits)
    train = splits.pop("train", None) or splits.pop("all")
    fraction = config.val_fraction
    if fraction is None:
        fraction = 0.0 if dataset.benchmark else AUTO_FRACTION_BESIDE_TEST if "test" in splits else AUTO_FRACTION
    notes = []
    if "val" in splits and config.val_fraction is not None:
        notes.append("data.val_fraction is not used: the data has a val split")
    if "val" not in splits and fraction > 0:
        held = choose(train, len(dataset.classes), fraction, config.split_seed)
        if before:
            files = _files(train).tolist()
            known = {f: before[name] for f, name in zip(files, train.names, strict=True) if name in before}
            held = np.array([known.get(f, new) for f, new in zip(files, held.tolist(), strict=True)])
        if not held.any():
            if before:
                hint = "Restore them, or start a new run with another --out."
                raise DataError("none of the images that the run held out is left", hint)
            message = "got a single image of each class, so that none can be held out for validation"
            raise DataError(message, "Add images, or a val folder.")
        splits["val"], train = train.take(held, "val"), train.take(~held)
        share = f"{plural('image', int(held.sum()))} of {len(held):,} held out"
        part = f"{fraction:.0%} of each class, rounded, at least one"
        notes.append(f"val: {share} of train, {part}, seed {config.split_seed}")
    ordered = {"train": dataclasses.replace(train, name="train")}
    ordered |= {name: splits[name] for name in ("val", "test") if name in splits}
    return dataset.changed(splits=ordered, notes=(*notes, *class_notes(dataset.classes, ordered)))


def choose(split: Split, n_classes: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which examples to hold out: `fraction` of each class, rounded, at least one and never all of a class.

    The choice within a class is a rank of hashes of (seed, name): neither the order of the files nor the version of
    numpy matters, and adding a file moves few others. With several labels an image, the rarest class chooses first.
    Examples of one file count once and stay together, under whatever labels.

    Returns:
        bool (N,).
    """
    keyed = hashlib.blake2b(digest_size=8, key=str(seed).encode()[:64])
    digests = bytearray()
    for name in split.names.encoded():
        state = keyed.copy()  # a third of the time of a new one
        state.update(name)
        digests += state.digest()
    rank, files = np.frombuffer(digests, ">u8").astype(np.uint64), _files(split)
    if split.targets.ndim == 2:
        members = [np.flatnonzero(split.targets[:, k]) for k in range(n_classes)]
        members.append(np.flatnonzero(~split.targets.any(1)))  # images without a label, as one more class
    else:
        edges = np.cumsum(np.bincount(split.targets, minlength=n_classes))[:-1]
        members = np.split(np.argsort(split.targets, kind="stable"), edges)
    members = [np.unique(files[ids]) for ids in members]
    held, decided = np.zeros(len(split), bool), np.zeros(len(split), bool)
    for ids in sorted(members, key=len):
        ids = ids[np.argsort(rank[ids], kind="stable")]
        want = min(len(ids) - 1, max(1, round(fraction * len(ids))))
        free = ids[~decided[ids]]
        held[free[: max(0, want - int(held[ids].sum()))]] = True
        decided[ids] = True
    for ids in members:
        if len(ids) and held[ids].all():  # rarer classes took every image of this one
            held[ids[0]] = False
    return np.asarray(held[files])


def _files(split: Split) -> NDArray[np.int64]:
    """For each example the first one of the same file, (N,)."""
    if split.paths is None or split.paths.share(split.names):  # images in memory; a folder, which has each file once
        return np.arange(len(split))
    known = np.fromiter(map(hash, split.paths.encoded()), np.int64, len(split))  # of this process, and never kept
    if len(np.unique(known)) == len(known):
        return np.arange(len(split))
    _, first, which = np.unique(known, return_index=True, return_inverse=True)
    return np.asarray(first[which])


def class_notes(classes: tuple[str, ...], splits: dict[str, Split]) -> list[str]:
    """What a person should know about the classes of each split."""
    counts = {name: split.counts(len(classes)) for name, split in splits.items()}
    notes = []
    single = [classes[k] for k in np.flatnonzero(counts["train"] == 1)]
    if single:
        notes.append(f"{plural('class', len(single))} with one training image: {listed(single)}")
    for name in splits:
        lacking = [classes[k] for k in np.flatnonzero(counts[name] == 0)]
        if lacking:
            notes.append(f"{name} has no image of {plural('class', len(lacking))}: {listed(lacking)}")
    return notes
