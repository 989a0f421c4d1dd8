"""Assembly: data, plan, network, trainer, model file, report. The only module that knows all the parts.

`train` reads in the order things happen: claim the folder, prepare, fit, finish.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plusx import config as configs
from plusx import modelfile
from plusx.claim import claimed
from plusx.data import Dataset, EvalLoader, TrainLoader, open_dataset, source_of
from plusx.data.check import USABLE, CheckReport
from plusx.data.check import check as check_data
from plusx.data.copies import FOLDER as COPIES
from plusx.data.copies import Copies
from plusx.data.dataset import Progress
from plusx.data.transforms import eval_batch
from plusx.engine import Log, Metrics, Trainer, begun, distributed, measure
from plusx.engine.distributed import ALONE, World
from plusx.engine.isolation import alone
from plusx.errors import ConfigError, DataError, ModelFileError
from plusx.finish import calibrate, finish, write_model
from plusx.initial import fill, make_network, start_network
from plusx.plan import Plan, Request, read_json, recorded_request
from plusx.prepare import check_request, held_out_before, prepare, shown
from plusx.result import Run, finished_run


@alone()
def train(
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    model: str | None = None,
    recipe: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    epochs: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    accept_data_change: bool = False,
    overrides: Sequence[str] = (),
    on_step: Callable[[int, nn.Module], None] | None = None,
) -> Run:
    """Train on a data set and write a run folder; the same call on an unfinished folder continues it to the same bits.

    Arguments:
        data: an image folder, a table, an .npz file or a name; a path object is never a name.
        out: run folder; None is `runs/<data>`.
        model: a name from `plusx models`; None chooses from the data and says why.
        recipe: a name from `plusx recipes`; None likewise.
        weights: what to start from: a run, a model file, a state_dict in .safetensors or .pth, or `imagenet`.
        epochs: length of the run; the schedule rescales.
        size: side of the network's input, px.
        seed: of initialisation, order and augmentation.
        resume: insist that the folder holds a run to continue.
        accept_data_change: continue a run whose data changed, from its next epoch on; the manifest records it.
        overrides: `section.field=value`, as `--set`.
        on_step: called after each step with its number and the network, whose gradients are still those that the
            optimizer got; a step at which it fails is made again.

    Raises:
        PlusxError: whatever the user can fix, before training starts where possible.
        Stopped: after a signal, when the state is saved.
    """
    request = Request(
        data=source_of(data),
        model=model,
        recipe=recipe,
        weights=None if weights is None else os.fspath(weights),
        epochs=epochs,
        size=size,
        seed=seed,
        overrides=configs.several(overrides),
    )
    request.data_config()  # a mistyped field is told before anything is read or made
    folder = Path(out) if out is not None else default_folder(request)
    with distributed.joined(folder, request.changes().get("engine.device")) as world:
        if resume and not (folder / "config.json").exists():
            raise ConfigError(f"--resume: {folder} holds no run of this command.", "Leave --resume out to start one.")
        if os.path.isdir(request.data) and folder.resolve().is_relative_to(Path(request.data).resolve()):
            raise ConfigError(f"{folder} lies in the data folder {request.data}.", "Name one outside of it with --out.")
        if (finished := finished_run(folder, request)) is not None:
            verify(finished)
            return finished
        if world.leads and not (folder / "config.json").exists():
            check_request(request)
        dataset = open_dataset(request.data, request.data_config(), before=held_out_before(folder))
        if dataset.watched is None:
            raise DataError(
                f"{request.data}: has neither a val nor a test split, and --set data.val_fraction=0 makes none.",
                "Leave data.val_fraction out.",
            )
        with claimed(folder) if world.leads else nullcontext():
            events = world.leads and request.changes().get("engine.tensorboard", False)
            log = Log(folder if world.leads else None, tensorboard=events, quiet=not world.leads)
            if out is None:
                log.line(f"run folder: {folder}")
            with world.in_order("prepared"):
                plan, dataset, manifest_hash = prepare(folder, request, dataset, log, accept_data_change, world.rank)
            world.compare(identity(plan, manifest_hash))
            result = make_trainer(folder, plan, dataset, manifest_hash, log, on_step, world).fit()
            with world.in_order("finished"):
                if world.leads:
                    calibrate(folder, plan, dataset, manifest_hash, log)
                    finish(folder, plan, dataset, result, log)
        run = finished_run(folder, request) if shown(folder / modelfile.RECORD, world.rank) else None
        assert run is not None, "rank 0 finished it"
        return dataclasses.replace(run, already_finished=False)


def verify(run: Run) -> None:
    """Reads the model file of a finished run.

    Raises:
        ModelFileError: it is missing or damaged.
    """
    try:
        modelfile.load(run.folder)
    except ModelFileError as error:
        message = f"{run.folder} is finished, but its model file cannot be used: {error.message}"
        raise ModelFileError(message, "Restore a copy of it, or train again with another --out.") from error


def identity(plan: Plan, manifest_hash: str) -> dict[str, str]:
    """What must be the same on every rank; the CPU may differ, and with it the last bits."""
    return {**modelfile.versions(), "the data": manifest_hash, "the configuration": str(configs.to_dict(plan.config))}


def check(
    data: str | os.PathLike[str], *, overrides: Sequence[str] = (), progress: Progress | None = None
) -> CheckReport:
    """Read every file of a data set and report what a person should look at; changes nothing.

    Raises:
        DataError: no such data.
        ConfigError: a field that says nothing about how data is read.
    """
    request = Request(data=source_of(data), overrides=configs.several(overrides))
    configs.taken(request.overrides, USABLE, "checking", "All else is for training.")
    return check_data(request.data, request.data_config(), progress)


def default_folder(request: Request) -> Path:
    """`runs/<data>`, or the first of `runs/<data>-2`, … that is free or holds this very request."""
    path = Path(request.data).resolve()
    name = path.name if path.is_dir() else path.stem if path.exists() else request.data
    i = 1
    while True:
        folder = Path("runs") / (name if i == 1 else f"{name}-{i}")
        made = folder / "config.json"
        with suppress(KeyError, TypeError, ConfigError):  # the record of another version is no such request
            if not made.exists() or not request.differences(recorded_request(read_json(made))):
                return folder
        i += 1


def make_trainer(
    folder: Path,
    plan: Plan,
    dataset: Dataset,
    manifest_hash: str,
    log: Log,
    on_step: Callable[[int, nn.Module], None] | None = None,
    world: World = ALONE,
) -> Trainer:
    """Network, batches, evaluation, and what becomes the model file: all that training needs."""
    config, classes = plan.config, dataset.classes
    device, watched = world.device(config.engine.device), dataset.watched
    assert watched is not None, "train refuses data with nothing to watch"
    assert config.engine.batch is not None, "the recipe or choose fills this"
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    goes_on = begun(folder)  # from the weights of a checkpoint
    network = make_network(config, len(classes)) if goes_on else start_network(config, dataset, plan.preprocess)
    start = None if goes_on else plan.request.weights
    if start is not None:
        fill(network, start, classes, log)
    common: dict[str, Any] = {"workers": config.data.workers, "device": device}
    side = config.data.copies
    with log.counting("images into memory") as progress:
        train_batches = TrainLoader(
            dataset.splits["train"],
            plan.preprocess,
            config.augment,
            n_classes=len(classes),
            mode=config.data.mode,
            batch=config.engine.batch,
            seed=config.seed,
            progress=progress,
            colours=plan.colours,
            copies=Copies(folder / COPIES, side, plan.preprocess) if side else None,
            rank=world.rank,
            processes=world.size,
            **common,
        )
    # Whole batches, so that each is computed as one process would.
    part = watched.part(world.rank, world.size, eval_batch(plan.preprocess.size))
    eval_batches = EvalLoader(part, plan.preprocess, keep=True, **common)

    def keep(module: nn.Module, metrics: Metrics, row: dict[str, Any]) -> None:
        measured = {"data": dataset.name, "split": watched.name, "epoch": row["epoch"], **metrics.to_dict()}
        write_model(folder, plan, dataset, manifest_hash, module, measured)

    def lost() -> str:
        path = folder / modelfile.FILE_NAME
        try:
            modelfile.read(path)
        except ModelFileError as error:
            if isinstance(error.__cause__, OSError) and path.exists():  # the disk failed, which does not damage a file
                raise
            return error.message
        return ""

    weights = None
    if config.optim.class_weights == "balanced":
        weights = torch.from_numpy(dataset.splits["train"].balance(len(classes))).to(device)
    return Trainer(
        network.to(device),
        train=train_batches,
        evaluate=lambda module: measure(module, eval_batches, dataset.task, len(classes), device),
        watched=watched.name,
        data=manifest_hash,
        config=config,
        task=dataset.task,
        folder=folder,
        on_selected=keep,
        lost=lost,
        log=log,
        on_step=on_step,
        class_weights=weights,
        save_start=start is not None,
        world=world,
    )
