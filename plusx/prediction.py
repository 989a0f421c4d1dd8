"""Labels for files, folders and globs, and tables of them."""

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from plusx.data.folder import find_images
from plusx.engine.isolation import standard
from plusx.engine.tensorfile import replacing
from plusx.errors import PlusxError
from plusx.modelfile import Answer, Classifier, check_top, load, unfinished
from plusx.text import plural

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that starts so (OWASP ASVS 1.2.10)


@standard()
def predict(
    model: str | os.PathLike[str] | Classifier,
    paths: str | Path | Iterable[str | Path],
    *,
    top: int = 5,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], object] = warnings.warn,
) -> list[Answer]:
    """Answers in the order of the files; a file that cannot be read gets an `error`, the others are answered.

    Arguments:
        model: a run or its folder, a model file, or what `load` returned.
        paths: files, folders (with all below them, natural order, without what is hidden) and globs.
        top: labels an answer.
        progress: called with (answered, all).
        note: called with what is left out of folders, counted by kind, and for the folder of an unfinished run.

    Returns:
        `{"path", "labels": [{"label", "probability"}, …]}` or `{"path", "error"}` for each file.

    Raises:
        ModelFileError: a model file that cannot be used.
        PlusxError: no file at all, what is no path, or `top` below 1.
    """
    check_top(top)
    classifier = model if isinstance(model, Classifier) else load(model)
    files = find_images(paths, note)
    if not files:
        raise PlusxError("No image files found.", "Give files, folders that hold images, or quoted globs.")
    if unfinished(model):
        note(f"{model}: the run is not finished")
    answers = []
    for answer in classifier.answers(files, top):
        answers.append(answer)
        if progress is not None:
            progress(len(answers), len(files))
    return answers


def writer(path: str | Path) -> Callable[[Sequence[Answer], Path], None]:
    """What writes a file with the suffix of `path`.

    Raises:
        PlusxError: none of .csv, .jsonl and .parquet, a folder, or no folder in which it can be made.
    """
    writers = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        hint = "For JSON, name a .jsonl file, or print one value with --json." if suffix == ".json" else ""
        raise PlusxError(f"{path}: got the suffix {suffix!r}, expected one of {', '.join(writers)}.", hint)
    if os.path.isdir(path):
        raise PlusxError(f"{path}: a folder, expected a file.", "Choose another --out.")
    folder = Path(path).absolute().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        reason = "cannot be written to" if folder.exists() else "does not exist"
        raise PlusxError(f"{path}: its folder {reason}.", "Make the folder, or choose another --out.")
    return writers[suffix]


def write(answers: Sequence[Answer], path: str | Path, note: Callable[[str], object] = warnings.warn) -> None:
    """Writes answers as .csv, .jsonl or .parquet, whole or not at all.

    A CSV has the columns path, error, label_1, probability_1, label_2, …; text that a spreadsheet would run gets a
    leading `'`, and `note` is told how often. The other two hold the answers as they are.

    Raises:
        PlusxError: another suffix, or a file that cannot be written.
    """
    write_rows = writer(path)
    try:
        with replacing(Path(path)) as temporary:
            write_rows(answers, temporary)
    except OSError as error:
        raise PlusxError(f"{path}: cannot be written: {error.strerror or error}.", "Choose another --out.") from error
    changed = sum(cell != _harmless(cell) for answer in answers for cell in _cells(answer))
    if changed and write_rows is _write_csv:
        what = f"{path}: an apostrophe keeps a spreadsheet from running {plural('text', changed)}"
        note(f"{what}; .jsonl and .parquet have them as they are")


def _write_csv(answers: Sequence[Answer], path: Path) -> None:
    width = max((len(answer.get("labels", ())) for answer in answers), default=0)
    ranks = range(1, width + 1)
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow(["path", "error", *(f"{name}_{rank}" for rank in ranks for name in ("label", "probability"))])
        for answer in answers:
            cells = [_harmless(cell) for cell in _cells(answer)]
            table.writerow(cells + [""] * (2 + 2 * width - len(cells)))


def _cells(answer: Answer) -> list[Any]:
    labels = [value for label in answer.get("labels", ()) for value in (label["label"], label["probability"])]
    return [answer["path"], answer.get("error", ""), *labels]


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _write_jsonl(answers: Sequence[Answer], path: Path) -> None:
    with path.open("w", encoding="ascii") as file:
        file.writelines(json.dumps(answer) + "\n" for answer in answers)


def _write_parquet(answers: Sequence[Answer], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = pa.struct([("label", pa.string()), ("probability", pa.float64())])
    schema = pa.schema([("path", pa.string()), ("error", pa.string()), ("labels", pa.list_(label))])
    pq.write_table(pa.Table.from_pylist(_utf8(list(answers)), schema=schema), path)


def _utf8(value: Any) -> Any:
    """Parquet holds UTF-8 alone; what of a file's or class's name is none becomes escapes, as in CSV."""
    if isinstance(value, dict):
        return {key: _utf8(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_utf8(item) for item in value]
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
