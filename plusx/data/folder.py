"""A folder of class folders, with train, val and test folders above them or without; and any folder of images."""

import glob
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from plusx.config import DataConfig
from plusx.data.dataset import SPLIT_ALIASES, SPLITS, Dataset, Split, class_ids, natural_key
from plusx.data.decode import EXTENSIONS
from plusx.data.names import Names
from plusx.errors import DataError
from plusx.text import listed, plural, show

Lister = Callable[[str], list[os.DirEntry[str]]]
ENDINGS = EXTENSIONS | {extension.upper() for extension in EXTENSIONS}  # nearly all are written so
UNREAD = {".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"}
PHOTOS = "photos of a kind that is not read"
IN_MEMORY = (
    "For pixels in memory, model.preprocess.load(...) takes an array, uint8 (C, H, W), or a file's bytes; "
    "model.labels(model.module(torch.stack(images).to(model.device))) answers a batch of what it returns."
)


def read(source: str, config: DataConfig) -> Dataset:
    """Every image of the class folders below `source`, at any depth; a class is a folder's name.

    Hidden files are never seen. All else that is left out is counted in a note: other files, images outside a class
    folder, links that leave the folder or lead back into it.

    Raises:
        DataError: a folder that cannot be read; two folders for one split; images without class folders.
    """
    root = absolute(source)
    left_out: Counter[str] = Counter()
    top = _subfolders(root, left_out)
    parts = _split_folders(top, root, left_out)
    trees = {name: _subfolders(path, left_out) for name, path in parts.items()} if parts else {"all": top}
    classes = class_ids(name for tree in trees.values() for name in tree)
    if not classes and left_out["images outside a class folder"]:
        raise DataError(
            f"{show(root)}: got {plural('image', left_out['images outside a class folder'])} and no class folders",
            "Put the images of each class in a folder with the class's name, or give a table with path,label.",
        )
    bare: list[str] = []
    splits = {name: _split(name, tree, classes, root, left_out, bare) for name, tree in trees.items()}
    notes = _notes(left_out)
    if bare:
        notes = (f"{plural('class folder', len(bare))} with no other images than {PHOTOS}: {listed(bare)}", *notes)
    return Dataset(os.path.basename(root), root, tuple(classes), "single", splits, notes)


def find_images(paths: str | Path | Iterable[str | Path], note: Callable[[str], object] = warnings.warn) -> list[str]:
    """Files, folders and globs -> files: folders with all below them in natural order, without what is hidden.

    A path that names nothing stays in the list, so that whoever opens it says so. A glob gives each file once, though
    it may match a folder and what lies in it.

    Arguments:
        paths: what the user named.
        note: told what is left out of the folders, counted as `read` counts it, and which of them hold no image.

    Raises:
        DataError: what is no path.
    """
    found: list[str] = []
    empty: list[str] = []
    left_out: Counter[str] = Counter()
    for path in _paths(paths):
        matches = [path]
        if not os.path.lexists(path) and glob.has_magic(path):
            matches = sorted(itertools.filterfalse(_round, glob.glob(path, recursive=True)), key=natural_key) or [path]
        files = [_images_below(match, left_out) if os.path.isdir(match) else [match] for match in matches]
        found += dict.fromkeys(itertools.chain.from_iterable(files))
        empty += [match for match, below in zip(matches, files, strict=True) if not below]
    for text in _notes(left_out):
        note(text)
    if found and empty:
        note(f"no images in {listed(empty)}")
    return found


def _round(path: str) -> bool:
    """Whether the way to a path goes through a link that leads back to where it lies, which a glob follows for ever."""
    ways = (Path(path), *Path(path).parents)
    return any(way.is_symlink() and _inside(os.path.realpath(way.parent), os.path.realpath(way)) for way in ways)


def _paths(given: Any) -> list[str]:
    """What the user named, as a list; bytes are no list of numbers."""
    single = isinstance(given, str | Path | bytes | bytearray | memoryview) or not np.iterable(given)
    paths = [given] if single else list(given)
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise DataError(f"got {type(path).__name__}, expected paths of files or folders, or globs", IN_MEMORY)
    return [os.fspath(path) for path in paths]


def _images_below(folder: str, left_out: Counter[str]) -> list[str]:
    """The images below a folder that the user named, links to files elsewhere too.

    Folders in it that cannot be read are left out and named.
    """

    def entries(path: str) -> list[os.DirEntry[str]]:
        try:
            return _entries(path)
        except DataError:
            left_out[f"folder {show(path)} that cannot be read"] += 1
            return []

    root = os.path.realpath(folder)
    names = _walk(root, root, left_out, entries, linked=True)
    return [os.path.join(folder, name) for name in sorted(names, key=natural_key)]


def _notes(left_out: Counter[str]) -> tuple[str, ...]:
    ranked = sorted(left_out.items(), key=lambda counted: (not counted[0].startswith(PHOTOS), counted))
    return tuple(f"left out: {what} ({n:,})" for what, n in ranked)


def _split_folders(top: dict[str, str], root: str, left_out: Counter[str]) -> dict[str, str]:
    """The folders that hold class folders under a split's name; a folder of images called `test` is a class."""
    parts: dict[str, str] = {}
    for name, path in top.items():
        split = SPLIT_ALIASES.get(name.lower())
        if not split or not any(_known(e.is_dir) and not hidden(e.name) for e in _entries(path)):
            continue
        if not _inside(os.path.realpath(path), root):
            left_out["links that leave the folder"] += 1
            continue
        if split in parts:
            raise DataError(
                f"{show(root)}: got {show(os.path.basename(parts[split]))} and {show(name)}, which both mean {split}",
                "Keep one of the two folders.",
            )
        parts[split] = path
    if parts:
        beside = [name for name, path in top.items() if path not in parts.values()]
        left_out.update(f"folder {show(name)} beside the splits, with all that is in it" for name in beside)
    return {name: parts[name] for name in SPLITS if name in parts}


def absolute(folder: str) -> str:
    """An absolute path in the words of the given one, unless a `..` after a link leads elsewhere than the words say."""
    textual = os.path.abspath(folder)
    if os.path.exists(folder) and (real := os.path.realpath(folder)) != os.path.realpath(textual):
        return real
    return textual


def hidden(name: str) -> bool:
    """Files and folders that systems leave behind: never classes, never examples."""
    return name.startswith(".") or name.lower() in ("__macosx", "thumbs.db", "desktop.ini")


def is_image(name: str) -> bool:
    """Whether a file name ends as one of the accepted formats does."""
    return name[name.rfind(".") :].lower() in EXTENSIONS


def _split(
    name: str, tree: dict[str, str], classes: dict[str, int], root: str, left_out: Counter[str], bare: list[str]
) -> Split:
    top, sizes = os.path.join(root, ""), [0] * len(classes)

    def found() -> Iterator[str]:  # one class at a time: millions of paths never are in memory as text
        for label, k in classes.items():
            here: Counter[str] = Counter()
            names = _walk(tree[label], root, here) if label in tree else []
            sizes[k] = len(names)
            if not names and any(what.startswith(PHOTOS) for what in here):
                bare.append(os.path.relpath(tree[label], root))
            left_out.update(here)
            yield from names

    names = Names(found())
    return Split(name, np.repeat(np.arange(len(sizes)), sizes), names.below(top), names)


def _subfolders(folder: str, left_out: Counter[str]) -> dict[str, str]:
    """The visible folders right below `folder`, naturally sorted; files beside them are counted."""
    found = {}
    for entry in _entries(folder):
        if hidden(entry.name):
            continue
        if _known(entry.is_dir):
            found[entry.name] = entry.path
        else:
            left_out["images outside a class folder" if is_image(entry.name) else _other(entry.name)] += 1
    return {name: found[name] for name in sorted(found, key=natural_key)}


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=attrgetter("name"))
    except OSError as error:
        raise DataError(f"{show(folder)}: cannot be read: {error.strerror}", "Check its permissions.") from error


def _walk(top: str, root: str, left_out: Counter[str], entries: Lister = _entries, linked: bool = False) -> list[str]:
    """The image files below `top`, by their paths below `root`, sorted. Each real folder is read once, so that loops of
    links end. Links to files outside of `root` count where `linked` says so, those to folders never."""
    found: list[str] = []
    pending, seen = [top], set()
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        link = os.path.islink(folder)
        if link and not _inside(real, root):
            left_out["links that leave the folder"] += 1
            continue
        if real in seen or (link and _inside(os.path.realpath(os.path.dirname(folder)), real)):
            left_out["links to a folder already read"] += 1
            continue
        seen.add(real)
        below = os.path.join(folder, "")[len(os.path.join(root, "")) :]
        for entry in entries(folder):
            name = entry.name
            if name[name.rfind(".") :] in ENDINGS and name[0] != "." and entry.is_file(follow_symlinks=False):
                found.append(below + name)  # as nearly all of millions, without a call of ours
            elif hidden(name):
                continue
            elif _known(entry.is_dir):
                pending.insert(0 if entry.is_symlink() else len(pending), entry.path)  # links last: real names win
            elif not is_image(name):
                left_out[_other(name)] += 1
            elif not linked and entry.is_symlink() and not _inside(os.path.realpath(entry.path), root):
                left_out["links that leave the folder"] += 1
            elif not _known(entry.is_file):
                left_out["broken links, pipes or devices"] += 1
            else:
                found.append(below + name)
    return sorted(found)


def _known(question: Callable[[], bool]) -> bool:
    """False where the system cannot tell: of a link to itself, or to where we may not look."""
    try:
        return question()
    except OSError:
        return False


def _inside(real: str, folder: str) -> bool:
    """Whether the resolved path `real` is `folder` or below it."""
    return os.path.join(real, "").startswith(os.path.join(os.path.realpath(folder), ""))


def _other(name: str) -> str:
    """How a file that is no image is counted: by its extension, when that is a plain one."""
    extension = os.path.splitext(name)[1].lower()
    if extension in UNREAD:
        return f"{PHOTOS} ({extension}): convert them to JPEG"
    return f"files of type {extension}" if extension[1:].isalnum() and len(extension) < 8 else "files of another type"
