"""The manifest of a run: which examples it saw, and proof that they are still the same."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from plusx.config import DataConfig
from plusx.data.dataset import Dataset, Progress, Split, listed
from plusx.data.scan import Finding, scan

FORMAT = 1
FIELDS = ("path", "label", "size", "sha256")


class Changes(NamedTuple):
    """Names of examples that came, went, or have other content, another label or another split."""

    added: list[str]
    removed: list[str]
    changed: list[str]

    def __str__(self) -> str:
        parts = [f"{what}: {listed(names)}" for what, names in zip(self._fields, self, strict=True) if names]
        return "; ".join(parts) or "nothing"


def build(dataset: Dataset, config: DataConfig, progress: Progress | None = None) -> dict[str, Any]:
    """The content of manifest.json, plain JSON.

    Every file is a row of its split: path below the root, label (a list when there may be several), bytes, SHA-256.
    Arrays in memory have one SHA-256 for each split, over images and targets. `hash` is the SHA-256 over classes and
    splits: it does not change when the data is moved.
    """
    findings = scan(dataset, config, progress)
    splits = {
        name: _array_entry(split) if split.paths is None else _file_entry(dataset, split, findings[name])
        for name, split in dataset.splits.items()
    }
    content = {"format": FORMAT, "classes": list(dataset.classes), "task": dataset.task, "splits": splits}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return {"name": dataset.name, "root": dataset.root, "notes": list(dataset.notes), **content, "hash": digest}


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    """What changed between two manifests; all empty exactly when their examples are equal."""
    before, after = _flat(old), _flat(new)
    return Changes(
        sorted(after.keys() - before.keys()),
        sorted(before.keys() - after.keys()),
        sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    )


def _file_entry(dataset: Dataset, split: Split, findings: list[Finding]) -> dict[str, Any]:
    examples = [
        [name, dataset.label(split, i), found.size, found.sha256]
        for i, (name, found) in enumerate(zip(split.names, findings, strict=True))
    ]
    return {"n": len(split), "fields": list(FIELDS), "examples": examples}


def _array_entry(split: Split) -> dict[str, Any]:
    assert split.images is not None
    digest = hashlib.sha256(np.ascontiguousarray(split.images).data)
    digest.update(np.ascontiguousarray(split.targets).data)
    return {"n": len(split), "shape": list(split.images.shape[1:]), "sha256": digest.hexdigest()}


def _flat(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Every example, or split of arrays, by name."""
    rows: dict[str, Any] = {}
    for name, split in manifest["splits"].items():
        if "examples" in split:
            rows.update({row[0]: (name, *map(str, row[1:])) for row in split["examples"]})
        else:
            rows[name] = (split["n"], split["sha256"])
    return rows
