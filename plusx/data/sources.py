"""Open whatever DATA names. A new kind of source is a reader and one entry in `SOURCES`."""

import difflib
import functools
import os
from collections.abc import Callable, Mapping

from plusx.config import DataConfig
from plusx.data import arrays, folder, named, part, table
from plusx.data.dataset import Dataset, no_images, untrainable
from plusx.data.split import hold_out
from plusx.errors import DataError
from plusx.text import listed, plural, show

FOLDER = "/"
SOURCES: dict[str, Callable[[str, DataConfig], Dataset]] = {
    "digits": named.digits,
    "fashion-mnist": functools.partial(named.read, named.FASHION_MNIST),
    "cifar10": functools.partial(named.read, named.CIFAR10),
    "cifar10-part": part.read,
    "cifar100": functools.partial(named.read, named.CIFAR100),
    FOLDER: folder.read,
    ".csv": table.read,
    ".tsv": table.read,
    ".parquet": table.read,
    ".npz": arrays.read,
}
"""Readers by name of a data set, or by how a path ends; `/` is a folder."""


def source_of(data: str | os.PathLike[str]) -> str:
    """The text for what a caller gave: `Path("digits")` and `digits/` are never a set's name, but `./digits`.

    Raises:
        DataError: no text and no path, such as an array, or an empty one.
    """
    if not isinstance(data, str | os.PathLike):
        what = f"data: got a {type(data).__name__}, expected a path or the name of a data set"
        raise DataError(what, 'Arrays go into a file first: numpy.savez("data.npz", images=…, labels=…).')
    given = os.fspath(data)
    if not given:
        raise DataError("data: got an empty text, expected a path or the name of a data set", "This folder is `.`.")
    text = given.rstrip("/") or "/"  # a shell's completion adds the slash
    named = text in SOURCES and data == text  # no path object, and no slash
    return text if named or text not in SOURCES else os.path.join(os.curdir, text)


def open_dataset(
    source: str, config: DataConfig, *, training: bool = True, before: Mapping[str, bool] | None = None
) -> Dataset:
    """The data set that `source` names: a folder, a table, an `.npz`, or a name such as `digits`.

    Arguments:
        source: what the user typed. A name wins over a folder; `./digits` is a folder.
        config: `root`, `val_fraction` and `split_seed` matter here.
        training: hold out `val` where there is none and refuse what cannot be trained on. Without it the splits are
            those found, and data without splits is one split `all`.
        before: which examples were held out earlier, by name; they stay where they were.

    Raises:
        DataError: nothing there, unreadable, without images, or unfit for training; the message lists every reason.
    """
    dataset = read(source, config)
    problems = [*dataset.faults, *(untrainable(dataset) if training else no_images(dataset))]
    if problems:
        raise DataError(
            f"{show(source)}: {'; '.join([*problems, *dataset.notes])}",
            "`plusx check` lists everything about the data.",
        )
    return hold_out(dataset, config, before) if training else dataset


def read(source: str, config: DataConfig) -> Dataset:
    """The data set as it is found: faults listed in it rather than raised, nothing held out.

    A split without images is as none, and noted; where there is no image at all, all splits stay.
    """
    found = _reader(source)(source, config)
    if found.task == "multi":
        several = sum(int((split.targets.sum(1) > 1).sum()) for split in found.splits.values())
        whole = plural("image", sum(map(len, found.splits.values())))
        found = found.changed(notes=(f"any number of labels an image: {several:,} of {whole} have more than one",))
    left = {name: split for name, split in found.splits.items() if len(split)}
    empty = [name for name in found.splits if name not in left]
    if not left or not empty:
        return found
    note = f"left out: {plural('split', len(empty))} without images: {listed(empty)}"
    return found.changed(splits=left, notes=(note,))


def _reader(source: str) -> Callable[[str, DataConfig], Dataset]:
    """What reads `source`, by its name, its being a folder, or its ending."""
    if source in SOURCES and source != FOLDER:
        return SOURCES[source]
    if os.path.isdir(source):
        return SOURCES[FOLDER]
    suffix = os.path.splitext(source)[1].lower()
    if not os.path.isfile(source):
        raise DataError(f"{show(source)}: no such folder, file or data set", _advice(source))
    if suffix not in SOURCES:
        kinds = ", ".join(key for key in SOURCES if key.startswith("."))
        message = f"{show(source)}: got a file, expected a folder or a file that ends in {kinds}"
        raise DataError(message, "Unpack an archive, and give the folder.")
    return SOURCES[suffix]


def _advice(source: str) -> str:
    """Close names: of data sets, and of what lies where `source` was expected."""
    if source.startswith("~") and os.path.exists(whole := os.path.expanduser(source)):
        return f"The shell expands no ~ in quotes; give {show(whole)}."
    parent, base = os.path.split(source.rstrip("/"))
    try:
        beside = {os.path.join(parent, name): name for name in os.listdir(parent or ".")}
    except OSError:
        beside = {}
    alike = difflib.get_close_matches(base, beside.values(), 3)
    close = [path for path, name in beside.items() if name in alike]
    close += difflib.get_close_matches(source, [key for key in SOURCES if key[0] not in "./"], 2)
    names = ", ".join(key for key in SOURCES if key[0] not in "./")
    return f"Did you mean {', '.join(map(show, close))}?" if close else f"The named data sets are {names}."
