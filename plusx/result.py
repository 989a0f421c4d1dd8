"""A finished run, as callers get it and as `result.json` holds it."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plusx import modelfile
from plusx.plan import Request, read_json, read_plan


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: where it is and what it reached. Fractions are 0..1.

    Attributes:
        watched: the split evaluated during training.
        selected: "best" or "last": which evaluation's weights are in the model file.
        best, final: `{epoch, top1, …}` of the best evaluation and `{top1, loss, …}` of the last.
        seconds: of the whole run, its evaluations and all its parts together.
        images_per_second: trained on, without the time for evaluations and checkpoints.
        already_finished: nothing was done, since the folder held this very run, finished.
        data_root: the folder searched first for a named data set, as it was given last.
    """

    folder: Path
    model: str
    recipe: str
    epochs: int
    n_train: int
    n_val: int
    n_test: int
    watched: str
    selected: str
    best: dict[str, Any] = field(hash=False)
    final: dict[str, Any] = field(hash=False)
    seconds: float
    images_per_second: float
    already_finished: bool = False
    data_root: str | None = None

    def __fspath__(self) -> str:
        """Its folder, so that whatever takes a run folder takes the run."""
        return str(self.folder)

    @property
    def model_file(self) -> Path:
        """The portable model; `plusx.load` reads it."""
        return self.folder / modelfile.FILE_NAME

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `plusx train --json` prints them."""
        paths = {"run": str(self.folder), "model_file": str(self.model_file), "report": str(self.report)}
        values = dataclasses.asdict(self)
        del values["folder"], values["data_root"]
        return paths | values


def finished_run(folder: Path, request: Request) -> Run | None:
    """The run that the folder holds, when it is this very request and finished.

    Raises:
        ConfigError: it is finished and another request's.
        ModelFileError: a record of it is damaged.
    """
    if not modelfile.finished(folder):
        return None  # also when the folder holds an unfinished run, which prepare compares
    root = request.changes().get("data.root", read_plan(folder / "config.json", request).config.data.root)
    names = {f.name for f in dataclasses.fields(Run)} - {"folder", "already_finished", "data_root"}
    values = read_json(folder / modelfile.RECORD, sorted(names))
    return Run(folder=folder, already_finished=True, data_root=root, **{name: values[name] for name in names})
