"""Checkpoints: one safetensors file each, two kept, and what cannot be trusted is never loaded.

The document, JSON as a tensor of bytes, lies under the same SHA-256 as every other tensor. File names carry the step,
so the newest is known without a pointer and without a clock.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plusx.engine import tensorfile
from plusx.errors import NEW_RUN, DivergedError, ModelFileError, TrainingError

FORMAT = 1
KEPT = 2
MAX_ITEMS = 100_000_000  # values in the document; some runs keep a row of metrics after each of 64,000 steps
DOCUMENT = "document"


class Checkpoint(NamedTuple):
    """What was saved: a JSON document and tensors by name."""

    path: Path
    document: dict[str, Any]
    tensors: dict[str, Tensor]


def save(folder: Path, step: int, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Writes a checkpoint, reads it back, and then removes all but the newest two up to this step.

    Raises:
        DivergedError: a value that is not finite, which is never written.
        TrainingError: a disk that cannot take it; the checkpoints before are still there.
    """
    odd = tensorfile.unusable(tensors)
    if odd:
        raise DivergedError(f"step {step}: no checkpoint is written, {odd}.", f"Lower optim.lr: {NEW_RUN}.")
    text = json.dumps({"format": FORMAT, **document}, allow_nan=False).encode()
    everything = {**tensors, DOCUMENT: torch.frombuffer(bytearray(text), dtype=torch.uint8)}
    path = folder / f"step-{step:09d}.safetensors"
    try:
        folder.mkdir(exist_ok=True)  # a run folder that somebody removed does not come back as a half
        tensorfile.write(path, everything, {"sha256": tensorfile.digest(everything)})
        older = [p for p in stored(folder) if p.name < path.name]
        for old in older[KEPT - 1 :]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be changed: {error.strerror}.", "Check the disk and its space."
        ) from error
    return path


def load(path: Path) -> Checkpoint:
    """A checkpoint, verified.

    Raises:
        ModelFileError: cut off, damaged, foreign, or from a later version.
    """
    tensors, metadata = tensorfile.read(path)
    if metadata.get("sha256") != tensorfile.digest(tensors):
        raise ModelFileError(f"{path}: damaged, its SHA-256 is another.", "Resume from another checkpoint.")
    try:
        document = tensorfile.parse_json(tensors.pop(DOCUMENT).numpy().tobytes().decode(), MAX_ITEMS)
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"{path}: not a checkpoint of plusx.", "Give a file of a run's checkpoints/.") from error
    if document.get("format") != FORMAT:
        made = document.get("format")
        raise ModelFileError(f"{path}: format {made}, this version reads {FORMAT}.", "Use the version that wrote it.")
    return Checkpoint(path, document, tensors)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and why newer ones were passed over; those are renamed `.damaged`.

    Raises:
        ModelFileError: there are checkpoints and none of them is whole, or one cannot be read.
    """
    bad: list[tuple[Path, ModelFileError]] = []
    for path in stored(folder):
        try:
            found = load(path)
        except ModelFileError as error:
            if isinstance(error.__cause__, OSError):  # the disk failed, which says nothing about the file
                raise
            bad.append((path, error))
            continue
        for damaged, _ in bad:  # or it would count as one of the two that are kept
            damaged.rename(damaged.with_suffix(".damaged"))
        return found, [f"{error.message} Using {path.name}." for _, error in bad]
    if bad:
        hint = f"Delete {folder} to start again from the beginning."
        raise ModelFileError(f"none of {len(bad)} checkpoints can be used: {bad[0][1].message}", hint)
    return None, []


def stored(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first, by their step."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def clean(folder: Path) -> None:
    """Removes what a killed save left behind."""
    for path in [*folder.glob(".*.tmp"), *folder.glob(".tmp*")]:
        path.unlink(missing_ok=True)
