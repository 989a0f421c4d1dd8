"""A run's state on disk: all of it in one checkpoint, and from the newest that is whole again."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plusx.engine import checkpoint
from plusx.engine.checkpoint import Checkpoint
from plusx.engine.distributed import World
from plusx.engine.log import Log
from plusx.engine.metrics import Metrics
from plusx.engine.optim import AveragedWeights, load_state_tensors, state_tensors
from plusx.engine.position import Length, Position, moved, without_model
from plusx.errors import ModelFileError

CHECKPOINTS = "checkpoints"  # in a run folder


@dataclass(frozen=True, kw_only=True, eq=False)
class Saved:
    """The checkpoints of a run; rank 0 alone writes, and every rank holds the same.

    Arguments:
        folder: of the checkpoints; made at the first.
        module: the network.
        average: of its weights, where there is one.
        optimizer: with its state.
        length: of the run.
        data: identifies the examples; a checkpoint of others goes on at its next epoch.
        best: the model file holds the best evaluation's weights, not the last one's.
        log: where the run tells how it goes.
        world: the processes of the run.
    """

    folder: Path
    module: nn.Module
    average: AveragedWeights | None
    optimizer: Optimizer
    length: Length
    data: str
    best: bool
    log: Log
    world: World

    def write(self, at: Position, running: Metrics, leaving: bool = False) -> None:
        """Writes a checkpoint; other ranks wait for rank 0, however slow its disk, unless they leave.

        Raises:
            TrainingError: it cannot be written; those before are still there.
        """
        optimizer = {f"optim/{name}": value for name, value in state_tensors(self.optimizer, self.module).items()}
        state = self._weights() | optimizer | {"running/totals": running.totals}
        tensors = {name: value.cpu() for name, value in state.items()}
        topic = f"saved/{at.step}/{at.evaluated}"
        if self.world.leads:
            checkpoint.save(self.folder, at.step, self._document(at), tensors)
            self.world.tell(topic)
        elif not leaving:
            self.world.told(topic)

    def newest(self, lost: Callable[[], str]) -> Checkpoint | None:
        """The newest checkpoint that is whole, made to fit the data and the model file that are there; None: no one.

        Arguments:
            lost: why the model file can no longer be read; "" where it can.

        Raises:
            ModelFileError: checkpoints that are all damaged.
        """
        if not self.world.leads:
            name = self.world.told("checkpoint")
            return checkpoint.load(self.folder / name) if name else None
        for folder in (self.folder, self.folder.parent):
            checkpoint.clean(folder)
        found, notes = checkpoint.newest(self.folder)
        for note in notes:
            self.log.line(note)
        if found and found.document["data"] != self.data:
            found = self._moved(found)
        if found and found.document["position"]["best"] and (why := lost()):
            found = self._without_model(found, why)
        self.world.tell("checkpoint", found and found.path.name)
        return found

    def restore(self, found: Checkpoint, running: Metrics) -> Position:
        """Makes network, average, optimizer and the counts of the epoch those of a checkpoint; returns its position.

        Raises:
            ModelFileError: it is of another network or plan.
        """
        per_epoch = found.document["steps_per_epoch"]
        if per_epoch != self.length.per_epoch:
            message = f"{found.path}: made with {per_epoch} steps an epoch, this run has {self.length.per_epoch}."
            raise ModelFileError(message, "Use the same data and batch, or another run folder.")
        optimizer = {n.removeprefix("optim/"): t for n, t in found.tensors.items() if n.startswith("optim/")}
        weights = {n: t for n, t in found.tensors.items() if n.startswith(("model/", "ema/"))}
        _copy_into(self._weights(), weights, found.path)
        load_state_tensors(self.optimizer, self.module, optimizer)
        counted = found.tensors["running/totals"]
        running.totals[: len(counted)].copy_(counted)  # five in checkpoints of earlier versions
        return Position(**found.document["position"])

    def _document(self, at: Position) -> dict[str, Any]:
        return {"position": dataclasses.asdict(at), "steps_per_epoch": self.length.per_epoch, "data": self.data}

    def _weights(self) -> dict[str, Tensor]:
        average = self.average.module.state_dict() if self.average else {}
        named = {f"model/{name}": value for name, value in self.module.state_dict().items()}
        return named | {f"ema/{name}": value for name, value in average.items()}

    def _moved(self, found: Checkpoint) -> Checkpoint:
        """A checkpoint of other data, now at the start of its next epoch, in the place of all others."""
        before, tensors = Position(**found.document["position"]), dict(found.tensors)
        at = moved(before, found.document["steps_per_epoch"], self.length)
        if not self.length.in_epochs and at.step < self.length.steps:  # in mid-epoch, whose counts begin anew
            tensors["running/totals"], at.epoch_seconds = torch.zeros_like(tensors["running/totals"]), 0.0
        epoch = at.step // self.length.per_epoch + 1
        self.log.line(f"going on with the changed data from epoch {epoch}, after step {at.step:,}")
        return self._in_place_of_all(at.step, self._document(at), tensors)

    def _without_model(self, found: Checkpoint, why: str) -> Checkpoint:
        """A checkpoint that does not count on a model file that is lost, in the place of all others."""
        at = without_model(Position(**found.document["position"]), self.length, self.best)
        self.log.line(f"the next evaluation writes the model file anew: {why}")
        if self.best:
            self.log.line("the best evaluation so far counts no more: its weights are lost")
        document = found.document | {"position": dataclasses.asdict(at)}
        return self._in_place_of_all(at.step, document, found.tensors)

    def _in_place_of_all(self, step: int, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Checkpoint:
        path = checkpoint.save(self.folder, step, document, tensors)
        for other in checkpoint.stored(self.folder):
            if other != path:
                other.unlink()
        return checkpoint.load(path)


def begun(folder: Path) -> bool:
    """Whether a run folder holds checkpoints to continue from."""
    return bool(checkpoint.stored(folder / CHECKPOINTS))


def _copy_into(own: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    """Fills tensors in place, all or none."""
    wrong = own.keys() ^ given.keys() or {n for n in own if own[n].shape != given[n].shape}
    if wrong:
        message = f"{path}: of another network; {len(wrong)} tensors differ, {min(wrong)} is the first."
        raise ModelFileError(message, "Use the run's own configuration, or another run folder.")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(given[name])
