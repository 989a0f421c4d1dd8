"""The manifest of a run: which examples it saw, and proof that they are still the same."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from plusx.data.dataset import Dataset, Split
from plusx.data.download import file_sha256
from plusx.data.scan import Finding
from plusx.errors import DataError
from plusx.text import listed, plural
from plusx.threads import in_parallel

FORMAT = 1
FIELDS = ("path", "label", "size", "sha256")


class Changes(NamedTuple):
    """Names of examples that came, went, or have other content, another label or another split.

    None of them where the same examples stand in another order, or one stands there more often.
    """

    added: list[str]
    removed: list[str]
    changed: list[str]

    def __str__(self) -> str:
        parts = [f"{what}: {listed(names)}" for what, names in zip(self._fields, self, strict=True) if names]
        return f"{self.counts} ({'; '.join(parts)})" if parts else self.counts

    @property
    def counts(self) -> str:
        """`+2 -1 ~3`."""
        if not any(self):
            return "the same examples, in another order or number"
        return " ".join(f"{sign}{len(names):,}" for sign, names in zip("+-~", self, strict=True))


def build(dataset: Dataset, findings: Mapping[str, Finding]) -> dict[str, Any]:
    """The content of manifest.json, plain JSON.

    Every file is a row of its split: path below the root, label (a list when there may be several), bytes, SHA-256, as
    `scan` found them.
    Arrays in memory have one SHA-256 for each split, over images and targets. `hash` is the SHA-256 over classes and
    splits: it does not change when the data is moved.
    """
    splits = {
        name: _array_entry(split) if split.paths is None else _file_entry(dataset, split, findings)
        for name, split in dataset.splits.items()
    }
    content = {"format": FORMAT, "classes": list(dataset.classes), "task": dataset.task, "splits": splits}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return {"name": dataset.name, "root": dataset.root, "notes": list(dataset.notes), **content, "hash": digest}


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    """What changed between two manifests whose hashes differ."""
    before, after = _flat(old), _flat(new)
    return Changes(
        sorted(after.keys() - before.keys()),
        sorted(before.keys() - after.keys()),
        sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    )


def accepted(old: Mapping[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new manifest with a record of the change from the old one, after those made before.

    Raises:
        DataError: the classes are others, which no network of the run can answer.
    """
    if old["classes"] != new["classes"]:
        came, went = (listed(set(a["classes"]) - set(b["classes"])) for a, b in ((new, old), (old, new)))
        raise DataError(
            f"the classes of the data changed: added {came or 'none'}; removed {went or 'none'}.",
            "Start a new run with another --out; --weights takes what this one has learnt.",
        )
    change = {"from": old["hash"], "to": new["hash"], "change": compare(old, new).counts}
    return {**new, "accepted": [*old.get("accepted", ()), change]}


def leaks(manifest: Mapping[str, Any]) -> list[str]:
    """A note for each split of files that has some of train, byte for byte."""
    hashes = {name: [row[-1] for row in split.get("examples", ())] for name, split in manifest["splits"].items()}
    known = set(hashes.pop("train", ()))
    shared = {name: sum(one in known for one in rows) for name, rows in hashes.items()}
    return [
        f"{n:,} of {plural('image', len(hashes[name]))} of {name} also in train, byte for byte: "
        "its result is too good; `plusx check` lists them"
        for name, n in shared.items()
        if n
    ]


def held_out(manifest: Mapping[str, Any]) -> dict[str, bool]:
    """Files of train and val by name: whether each is in val, so that none that was trained on ever moves there."""
    rows = {name: manifest["splits"].get(name, {}).get("examples", ()) for name in ("val", "train")}  # the last wins
    return {row[0]: name == "val" for name, examples in rows.items() for row in examples}


def trained_on(manifest: Mapping[str, Any], paths: Sequence[str]) -> int:
    """How many files are, byte for byte, among those of train; read are those of a size that one of train has."""
    known = {tuple(row[-2:]) for row in manifest["splits"].get("train", {}).get("examples", ())}
    sizes = {row[0] for row in known}

    def is_known(path: str) -> bool:
        with suppress(OSError):  # whoever decodes it says so
            return (size := os.path.getsize(path)) in sizes and (size, file_sha256(path)) in known
        return False

    return sum(in_parallel(is_known, paths))


def _file_entry(dataset: Dataset, split: Split, findings: Mapping[str, Finding]) -> dict[str, Any]:
    assert split.paths is not None
    examples = [
        [name, dataset.label(split, i), findings[path].size, findings[path].sha256]
        for i, (name, path) in enumerate(zip(split.names, split.paths, strict=True))
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
