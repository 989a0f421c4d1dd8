"""Arrays in one `.npz` file: images and labels, with or without splits. Nothing in it is ever unpickled."""

import os
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plusx.config import DataConfig
from plusx.data.dataset import SPLIT_ALIASES, SPLITS, Dataset, Split, class_ids
from plusx.data.names import Names
from plusx.errors import DataError
from plusx.text import listed, plural, show

IMAGES = frozenset({"images", "image", "x", "data"})
LABELS = frozenset({"labels", "label", "y", "targets", "target"})
CLASSES = frozenset({"classes", "class_names", "label_names"})


def read(source: str, config: DataConfig) -> Dataset:
    """Arrays under keys such as `images, labels`, `x_train, y_train, x_test, y_test` or `val_images, val_labels`.

    Images are uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3. Labels are integers or text, (N,) or (N, 1),
    or 0 and 1, (N, K), for several labels an image. An array `classes` names the K classes of integer labels 0..K-1, or
    False and True.

    Raises:
        DataError: a file that is no `.npz`, pickled objects, other types or shapes, images without labels.
    """
    called, arrays = show(source), _load(source)
    found: dict[str, dict[str, NDArray[Any]]] = {}
    names: tuple[str, ...] = ()
    unknown = []
    for key, array in arrays.items():
        split, role = _meaning(key)
        if role in ("images", "labels"):
            if role in found.setdefault(split, {}):
                raise DataError(f"{called}: got two arrays of {split} {role}, one of them {show(key)}", "Keep one.")
            found[split][role] = array
        elif role == "classes":
            if names:
                message = f"{called}: got two arrays of class names, one of them {show(key)}"
                raise DataError(message, "Keep one.")
            names = tuple(str(v) for v in _decoded(array).ravel())
            if len(set(names)) < len(names):
                raise DataError(f"{called}: got the same class name twice in {show(key)}", "Names tell classes apart.")
        else:
            unknown.append(key)
    order: list[str] = [name for name in ("all", *SPLITS) if name in found]
    if not found or any(len(pair) < 2 for pair in found.values()) or (order[0] == "all" and len(order) > 1):
        raise DataError(
            f"{called}: got the arrays {listed(arrays) or 'none'}, expected images and labels of each split",
            "Name them images,labels or x_train,y_train,x_test,y_test.",
        )
    images = {name: planes(found[name]["images"], f"{called}: {name} images") for name in order}
    if len({i.shape[1] for i in images.values()}) > 1:
        raise DataError(f"{called}: got gray and colour splits, expected one of them", "Convert one of the splits.")
    classes, task, targets = _targets({n: found[n]["labels"] for n in order}, names, called)
    if "" in classes:
        raise DataError(f"{called}: got an empty class name", "Give every class a name; `none` is one too.")
    for name in order:
        if len(images[name]) != len(targets[name]):
            counts = f"{plural('image', len(images[name]))} and {plural('label', len(targets[name]))}"
            raise DataError(f"{called}: {name} has {counts}", "Give one label for each image.")
    splits = {name: in_memory(name, images[name], targets[name]) for name in order}
    notes = (f"left out: {plural('array', len(unknown))} not used: {listed(unknown)}",) if unknown else ()
    title = os.path.splitext(os.path.basename(source))[0]
    return Dataset(title, os.path.abspath(source), classes, task, splits, notes)


def in_memory(name: str, images: NDArray[np.uint8], targets: NDArray[Any]) -> Split:
    """A split of arrays: uint8 (N, C, H, W) and its targets."""
    return Split(name, targets, None, Names(f"{name}/{i}" for i in range(len(images))), np.ascontiguousarray(images))


def planes(images: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """Images as uint8 (N, C, H, W). A last axis of 1 or 3 is read as channels before a second one is.

    Raises:
        DataError: another type or shape.
    """
    if images.dtype != np.uint8:
        raise DataError(f"{what}: got {images.dtype}, expected uint8", "Scale the values to 0..255 and round them.")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise DataError(
            f"{what}: got the shape {images.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W)",
            "C, the number of channels, is 1 or 3.",
        )
    return images


def _load(source: str) -> dict[str, NDArray[Any]]:
    try:
        with open(source, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("not an archive of arrays")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                found = {key: archive[key] for key in archive.files}
                if strange := [key for key, member in found.items() if not isinstance(member, np.ndarray)]:
                    raise ValueError(f"no arrays: {listed(strange)}")
                return found
    except Exception as error:  # zipfile, its decompressors and numpy raise of every kind on damaged bytes
        reason = str(error) or type(error).__name__
        if "allow_pickle" in reason:
            reason = "pickled objects are never read"
        message = f"{show(source)}: cannot be read as .npz: {show(reason)}"
        raise DataError(message, "Write it with numpy.savez and plain arrays.") from error


def _decoded(array: NDArray[Any]) -> NDArray[Any]:
    """Bytes as the text that they are; anything else as it is."""
    return np.char.decode(array, "utf-8", "backslashreplace") if array.dtype.kind == "S" else array


def _meaning(key: str) -> tuple[str, str]:
    """A key -> (split, role): `x_train` -> ("train", "images")."""
    lower = key.lower()
    if lower in CLASSES:
        return "", "classes"
    words = lower.split("_")
    splits = [SPLIT_ALIASES[w] for w in words if w in SPLIT_ALIASES]
    rest = [w for w in words if w not in SPLIT_ALIASES]
    role = ""
    if len(rest) == 1 and len(splits) <= 1:
        role = "images" if rest[0] in IMAGES else "labels" if rest[0] in LABELS else ""
    return (splits or ["all"])[0], role


def _targets(
    labels: dict[str, NDArray[Any]], names: tuple[str, ...], source: str
) -> tuple[tuple[str, ...], str, dict[str, NDArray[Any]]]:
    """Labels as they came -> (classes, task, targets of each split)."""
    labels = {split: a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a for split, a in labels.items()}
    if all(a.ndim == 1 and a.dtype.kind in "biuUS" for a in labels.values()):
        classes, ids = _single(labels, names, source)
        return classes, "single", {split: np.array(column, np.int64) for split, column in ids.items()}
    widths = [a.shape[1] if a.ndim == 2 and a.dtype.kind in "biuf" else 0 for a in labels.values()]
    k = min(widths)
    if k == 0 or k < max(widths) or not all(np.isin(a, (0, 1)).all() for a in labels.values()):
        raise DataError(
            f"{source}: got labels {', '.join(f'{a.dtype} {a.shape}' for a in labels.values())}, "
            "expected integers or text (N,), or 0 and 1 (N, K)",
            "Give the class of each image as a number or a name.",
        )
    if names and len(names) != k:
        raise DataError(f"{source}: got {len(names)} class names for {k} columns of labels", "Name every column.")
    return names or tuple(map(str, range(k))), "multi", {split: a.astype(np.float32) for split, a in labels.items()}


def _single(
    labels: dict[str, NDArray[Any]], names: tuple[str, ...], source: str
) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """One label an image -> (classes, class ids of each split)."""
    values = {split: _decoded(a).tolist() for split, a in labels.items()}
    numbers = bool(names) and all(a.dtype.kind in "biu" for a in labels.values())
    if not numbers:
        values = {split: list(map(str, column)) for split, column in values.items()}
    seen = {v for column in values.values() for v in column}
    ids: dict[Any, int] = {k: k for k in range(len(names))} if numbers else class_ids(seen)
    if names and not numbers:  # in the order that they give
        ids = {name: k for k, name in enumerate(name for name in names if name in seen)}
    if other := seen - ids.keys():
        message = f"{source}: got {show(str(min(other)))}, expected one of the {len(names)} of the array classes"
        raise DataError(message, "Name every class in it; labels that are numbers count from 0.")
    return names if numbers else tuple(ids), {split: [ids[v] for v in column] for split, column in values.items()}
