"""Look at a whole data set before anybody trains on it. Nothing is changed."""

import contextlib
import dataclasses
import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from plusx.config import DataConfig
from plusx.data.dataset import Dataset, Progress, Split, untrainable
from plusx.data.decode import decode
from plusx.data.download import file_sha256
from plusx.data.facts import header
from plusx.data.sources import read
from plusx.data.split import class_notes, hold_out
from plusx.errors import DataError, ImageError
from plusx.text import listed, plural, show
from plusx.threads import in_parallel

USABLE = ("data.root", "data.val_fraction", "data.split_seed", "data.max_pixels", "data.background")
TINY = 10  # training images of a class below which a classifier learns little
UNEVEN = 10  # times the smallest class
SPREAD = 4  # times the smallest image, in its longer side


@dataclass(frozen=True)
class CheckReport:
    """What `plusx check` found; paths are short names below the data's root.

    Arguments:
        n: examples.
        classes: examples of each class in each split.
        bad: files that cannot be decoded: path, split, reason.
        duplicates: groups of the same image: paths, splits, labels, and `same`: "bytes", or "pixels" of other files.
        leaks: those of the groups that lie in more than one split.
        warnings: everything else that a person should know, one line each.
    """

    n: int
    classes: dict[str, dict[str, int]]
    bad: list[dict[str, str]]
    duplicates: list[dict[str, Any]]
    leaks: list[dict[str, Any]]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


class _Seen(NamedTuple):
    """One image: SHA-256 of its bytes and of its pixels, its size, what is odd about it, and why it is bad or ''."""

    content: str
    pixels: str
    width: int
    height: int
    oddities: tuple[str, ...]
    reason: str


def check(source: str, config: DataConfig, progress: Progress | None = None) -> CheckReport:
    """Read every image of the data set and report what is unreadable, odd, twice there or leaking between splits.

    Data without a val split is looked at as training would split it.

    Raises:
        DataError: there is no data set to look at.
    """
    dataset = read(source, config)
    warnings = [*dataset.notes, *dataset.faults, *untrainable(dataset)]
    with contextlib.suppress(DataError):  # what cannot be split is looked at as it is
        if not untrainable(dataset):
            dataset = hold_out(dataset, config)
            warnings += class_notes(dataset.classes, dataset.splits)
    examples = [(split, i) for split in dataset.splits.values() for i in range(len(split))]
    seen = list(in_parallel(lambda example: _look(*example, config), examples, progress))
    bad = [
        {"path": show(split.names[i]), "split": split.name, "reason": image.reason}
        for (split, i), image in zip(examples, seen, strict=True)
        if image.reason
    ]
    duplicates = _duplicates(dataset, examples, seen)
    leaks = [group for group in duplicates if len(set(group["splits"])) > 1]
    conflicts = [group["paths"][0] for group in duplicates if len({str(label) for label in group["labels"]}) > 1]
    if conflicts:
        warnings.append(f"{plural('image', len(conflicts))} under different labels: {listed(conflicts)}")
    warnings += [*class_warnings(dataset), *_image_warnings([image for image in seen if not image.reason])]
    counts = {split.name: split.counts(len(dataset.classes)) for split in dataset.splits.values()}
    classes = {name: {s: int(count[k]) for s, count in counts.items()} for k, name in enumerate(dataset.classes)}
    return CheckReport(len(examples), classes, bad, duplicates, leaks, warnings)


def _look(split: Split, i: int, config: DataConfig) -> _Seen:
    if split.images is not None:
        digest = hashlib.sha256(np.ascontiguousarray(split.images[i]).data).hexdigest()
        return _Seen(digest, digest, split.images.shape[3], split.images.shape[2], (), "")
    assert split.paths is not None
    path = split.paths[i]
    try:
        image = decode(path, max_pixels=config.max_pixels, channels=3, background=config.background)
        found = header(path)
        content = file_sha256(path)
    except ImageError as error:
        return _Seen("", "", 0, 0, (), show(error.reason))
    except OSError as error:
        return _Seen("", "", 0, 0, (), f"cannot be read: {error.strerror}")
    pixels = hashlib.sha256(f"{tuple(image.shape)} {image.dtype}".encode())
    pixels.update(image.contiguous().numpy().data)
    odd = {
        "more than 8 bits a channel": image.is_floating_point(),
        "CMYK colours": found.mode == "CMYK",
        "transparency": found.transparent,
        "a rotation in EXIF": found.turned,
        "several frames, of which the first is used": found.animated,
    }
    oddities = tuple(name for name, present in odd.items() if present)
    return _Seen(content, pixels.hexdigest(), image.shape[2], image.shape[1], oddities, "")


def _duplicates(dataset: Dataset, examples: list[tuple[Split, int]], seen: list[_Seen]) -> list[dict[str, Any]]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for n, image in enumerate(seen):
        if image.pixels:
            groups[image.pixels].append(n)
    found = []
    for members in groups.values():
        if len(members) > 1:
            rows = [examples[n] for n in members]
            found.append(
                {
                    "paths": [show(split.names[i]) for split, i in rows],
                    "splits": [split.name for split, _ in rows],
                    "labels": [dataset.label(split, i) for split, i in rows],
                    "same": "bytes" if len({seen[n].content for n in members}) == 1 else "pixels",
                }
            )
    return found


def class_warnings(dataset: Dataset, balanced: bool = False) -> list[str]:
    """What to say of classes with few images, or with far fewer than another, to train on; `balanced` weighs them."""
    train = dataset.splits.get("train", dataset.splits.get("all"))
    if train is None or not (counts := train.counts(len(dataset.classes))).any():
        return []
    tiny = [f"{name} ({n})" for name, n in zip(dataset.classes, counts, strict=True) if 0 < n < TINY]
    warnings = []
    if tiny:
        warnings.append(f"{plural('class', len(tiny))} with fewer than {TINY} training images: {listed(tiny)}")
    low, high = int(counts[counts > 0].min()), int(counts.max())
    if high >= UNEVEN * low:
        small, large = dataset.classes[int(np.flatnonzero(counts == low)[0])], dataset.classes[int(counts.argmax())]
        said = f"uneven classes: {show(large)} has {high:,} training images, {show(small)} {low:,}"
        advice = "; train with --set optim.class_weights=balanced makes rare ones count more"
        warnings.append(said if balanced else said + advice)
    return warnings


def _image_warnings(seen: list[_Seen]) -> list[str]:
    odd = Counter(name for image in seen for name in image.oddities)
    warnings = [f"{plural('image', n)} with {name}" for name, n in odd.items()]
    sizes = sorted({(max(image.width, image.height), image.width, image.height) for image in seen})
    if sizes and sizes[-1][0] >= SPREAD * sizes[0][0]:
        (_, w0, h0), (_, w1, h1) = sizes[0], sizes[-1]
        warnings.append(f"sizes from {w0}x{h0} to {w1}x{h1} px")
    return warnings
