"""A table of paths and labels: CSV, TSV or Parquet with the columns path, label and, if wanted, split."""

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from plusx.config import DataConfig
from plusx.data.dataset import SPLIT_ALIASES, SPLITS, Dataset, Split, class_ids
from plusx.data.folder import absolute
from plusx.data.names import Names
from plusx.errors import DataError
from plusx.text import listed, plural, show

SEPARATOR = "|"  # between the labels of one image
COLUMNS = ("path", "label", "split")


def read(source: str, config: DataConfig) -> Dataset:
    """The rows of a table; paths are relative to its folder, labels are text, other columns are left alone.

    A `|` in any label, or a Parquet column of lists, makes the task "multi"; an image may then have no label.

    Raises:
        DataError: a table that cannot be read, lacks a column or has it twice, has empty cells, or a split of another
            name.
    """
    columns = _columns(source)
    for name in ("path", "label"):
        if name not in columns:
            raise DataError(
                f"{show(source)}: got the columns {listed(columns) or 'none'}, expected path and label",
                "Name the columns path,label and, if wanted, split; the separator of a .csv is a comma.",
            )
    paths = [_text(v) for v in columns["path"]]
    listing = any(isinstance(v, list) for v in columns["label"])
    multi = listing or any(SEPARATOR in _text(v) for v in columns["label"])
    labels = [_labels(v, multi) for v in columns["label"]]
    _refuse_empty(source, "path", paths)
    if not (listing or any(len(row) > 1 for row in labels)):
        _refuse_empty(source, "label", labels)
    classes = class_ids(label for row in labels for label in row)
    targets = _targets(labels, classes, multi)
    base, place = absolute(os.path.dirname(source)), functools.cache(absolute)
    parts = (os.path.split(os.path.join(base, p)) for p in paths)
    files = [os.path.join(place(folder), name) for folder, name in parts]
    whole = Split("all", targets, Names(files), Names(paths))
    splits = _by_split(source, whole, columns["split"]) if "split" in columns else {"all": whole}
    notes, faults = [], []
    if bare := sum(not row for row in labels):
        notes.append(f"{plural('image', bare)} without a label, which count as examples of no class")
    if repeated := len(files) - len(set(files)):
        notes.append(f"{plural('row', repeated)} of {len(paths):,} name a file that another row names too")
    if missing := [p for p, full in zip(paths, files, strict=True) if not os.path.exists(full)]:
        faults.append(f"{len(missing):,} of {plural('file', len(paths))} do not exist: {listed(missing)}")
    name = os.path.splitext(os.path.basename(source))[0]
    return Dataset(name, base, tuple(classes), "multi" if multi else "single", splits, tuple(notes), tuple(faults))


def _columns(source: str) -> dict[str, list[Any]]:
    """Our columns that the table has, or every column's name when it lacks one. No other column is read."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    suffix = os.path.splitext(source)[1].lower()
    parse = pc.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)
    try:
        if suffix == ".parquet":
            names = pq.read_schema(source).names
        else:
            with pc.open_csv(source, parse_options=parse) as beginning:
                names = beginning.schema.names
        ours = [name for name in names if name in COLUMNS]
        if repeated := [name for name in COLUMNS if ours.count(name) > 1]:
            raise DataError(f"{show(source)}: got the column {repeated[0]} more than once", "Keep one of them.")
        if not {"path", "label"} <= set(ours):
            return {name: [] for name in names}
        if suffix == ".parquet":
            with pq.ParquetFile(source) as file:
                table = file.read(ours)
        else:
            as_text = pc.ConvertOptions(column_types=dict.fromkeys(ours, pa.string()), include_columns=ours)
            table = pc.read_csv(source, parse_options=parse, convert_options=as_text)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{show(source)}: cannot be read as {suffix[1:]}: {show(reason)}",
            "Save it as UTF-8 text with a header line.",
        ) from error
    return {name: table.column(name).to_pylist() for name in ours}


def _text(value: Any) -> str:
    """A cell as text; None and NaN are empty ones."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return (os.fsdecode(value) if isinstance(value, bytes) else str(value)).strip()


def _labels(value: Any, multi: bool) -> tuple[str, ...]:
    parts = value if isinstance(value, list) else _text(value).split(SEPARATOR) if multi else [value]
    return tuple(dict.fromkeys(text for part in parts if (text := _text(part))))


def _refuse_empty(source: str, what: str, values: Sequence[Any]) -> None:
    if empty := [f"{i + 1:,}" for i, value in enumerate(values) if not value]:
        raise DataError(
            f"{show(source)}: {plural('row', len(empty))} without a {what}: data row {listed(empty)}",
            "Fill the cells or remove the rows.",
        )


def _targets(labels: list[tuple[str, ...]], classes: dict[str, int], multi: bool) -> Any:
    if not multi:
        return np.array([classes[row[0]] for row in labels], np.int64)
    targets = np.zeros((len(labels), len(classes)), np.float32)
    for i, row in enumerate(labels):
        targets[i, [classes[label] for label in row]] = 1
    return targets


def _by_split(source: str, whole: Split, cells: list[Any]) -> dict[str, Split]:
    given = [_text(cell) for cell in cells]
    strange = sorted({cell or "an empty cell" for cell in given if cell.lower() not in SPLIT_ALIASES})
    if strange:
        raise DataError(
            f"{show(source)}: in the column split got {listed(strange)}, expected train, val or test",
            "Rename them, or remove the column to have a split made.",
        )
    names = np.array([SPLIT_ALIASES[cell.lower()] for cell in given])
    return {name: whole.take(names == name, name) for name in SPLITS if (names == name).any()}
