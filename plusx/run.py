"""Assembly: data, plan, model, trainer, model file, report. The only module that knows all the parts.

`train` reads in the order things happen: claim the folder, decide, fit, finish. Every decision is on disk before the
first step, so that the same command continues from what was decided, not from a new guess.
"""

import dataclasses
import fcntl
import os
import platform
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from plusx import config as configs
from plusx import modelfile, weights
from plusx.config import Config, DataConfig
from plusx.data import (
    IMAGENET_COLOURS,
    Colours,
    Dataset,
    Preprocess,
    channel_statistics,
    eval_loader,
    manifest,
    mean_image,
    open_dataset,
    sample,
    scan,
    train_loader,
)
from plusx.data.check import CheckReport
from plusx.data.check import check as check_data
from plusx.data.dataset import Progress, listed
from plusx.data.facts import facts as data_facts
from plusx.data.transforms import eval_batch
from plusx.engine import (
    FitResult,
    Log,
    Metrics,
    Trainer,
    begun,
    distributed,
    fit_temperature,
    measure,
    predict_logits,
    resolve_precision,
)
from plusx.engine.distributed import ALONE, World
from plusx.errors import ConfigError, DataError, ModelFileError, PlusxError
from plusx.evaluation import Evaluation, evaluate
from plusx.models import Network, count_macs, count_params, create_model, whiten_input, whiten_stem
from plusx.plan import Plan, Request, decide, own_cores, read_json, read_plan, write_json, write_plan
from plusx.recipes import Choice
from plusx.report import ReportData, build

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0..1, as published with weights
LEAST_CALIBRATION = 50  # images; fewer without a mistake cannot tell how sure to be
TINY_MACS = 8_000_000  # of a network; below, what bfloat16 gains lies around what a trial can tell from noise
WHITENING_SAMPLE = 2000  # images whose patches the stem's first filters are made from


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: where it is and what it reached. Fractions are 0..1.

    Attributes:
        watched: the split evaluated during training.
        selected: "best" or "last": which evaluation's weights are in the model file.
        best, final: `{epoch, top1, …}` of the best evaluation and `{top1, loss, …}` of the last.
        already_finished: nothing was done, since the folder held this very run, finished.
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
    best: dict[str, Any]
    final: dict[str, Any]
    seconds: float
    images_per_second: float
    already_finished: bool = False

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
        del values["folder"]
        return paths | values


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
        data: an image folder, a table, an .npz file or a name.
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
        data=os.fspath(data).rstrip("/") or "/",  # a shell's completion adds the slash
        model=model,
        recipe=recipe,
        weights=None if weights is None else os.fspath(weights),
        epochs=epochs,
        size=size,
        seed=seed,
        overrides=tuple(overrides),
    )
    request.data_config()  # a mistyped field is told before anything is read or made
    folder = Path(out) if out is not None else default_folder(request)
    with distributed.joined(folder, request.changes().get("engine.device")) as world:
        if resume and not (folder / "config.json").exists():
            raise ConfigError(f"--resume: {folder} holds no run.", "Leave --resume out to start one.")
        if os.path.isdir(request.data) and folder.resolve().is_relative_to(Path(request.data).resolve()):
            raise ConfigError(f"{folder} lies in the data folder {request.data}.", "Name one outside of it with --out.")
        if (finished := finished_run(folder, request)) is not None:
            return finished
        dataset = open_dataset(request.data, request.data_config(), before=held_out_before(folder))
        if dataset.watched is None:
            raise DataError(
                f"{request.data}: has neither a val nor a test split, and --set data.val_fraction=0 makes none.",
                "Leave data.val_fraction out.",
            )
        with claimed(folder) if world.leads else nullcontext():
            events = world.leads and request.changes().get("engine.tensorboard", False)
            log = Log(folder if world.leads else None, tensorboard=events, quiet=not world.leads)
            with world.in_order("prepared"):
                plan, dataset, manifest_hash = prepare(folder, request, dataset, log, accept_data_change, world.rank)
            world.compare(identity(plan, manifest_hash))
            result = make_trainer(folder, plan, dataset, manifest_hash, log, on_step, world).fit()
            with world.in_order("finished"):
                if world.leads:
                    calibrate(folder, plan, dataset, manifest_hash, log)
                    finish(folder, plan, dataset, result, log)
        run = finished_run(folder, request)
        assert run is not None, "rank 0 finished it"
        return dataclasses.replace(run, already_finished=False)


def identity(plan: Plan, manifest_hash: str) -> dict[str, str]:
    """What must be the same on every rank; the CPU may differ, and with it the last bits."""
    return {**modelfile.versions(), "the data": manifest_hash, "the configuration": str(configs.to_dict(plan.config))}


def check(
    data: str | os.PathLike[str], *, overrides: Sequence[str] = (), progress: Progress | None = None
) -> CheckReport:
    """Read every file of a data set and report what a person should look at; changes nothing.

    Raises:
        DataError: no such data.
    """
    return check_data(
        os.fspath(data), Request(data=os.fspath(data), overrides=tuple(overrides)).data_config(), progress
    )


def default_folder(request: Request) -> Path:
    """`runs/<data>`, or the first of `runs/<data>-2`, … that is free or holds this very request."""
    path = Path(request.data).resolve()
    name = path.name if path.is_dir() else path.stem if path.exists() else request.data
    i = 1
    while True:
        folder = Path("runs") / (name if i == 1 else f"{name}-{i}")
        made = folder / "config.json"
        if not made.exists() or read_json(made).get("request") == request.to_dict():
            return folder
        i += 1


def held_out_before(folder: Path) -> dict[str, bool]:
    """Which examples the run in a folder trains on and which it does not; empty when there is none yet.

    Raises:
        ModelFileError: its manifest is damaged.
    """
    path = folder / "manifest.json"
    try:
        return manifest.held_out(read_json(path)) if path.exists() else {}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        message = f"{path}: not the record of a run's data, or damaged ({error!r})."
        raise ModelFileError(message, "Restore it, or name another folder with --out.") from error


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make the run folder and keep other processes out; the system lets go of the lock when this process dies.

    What ends before anything was decided leaves no folder behind.

    Raises:
        PlusxError: the folder cannot be written, or another live process has it.
    """
    # No signal comes between making the folder and what removes it again.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        with _locked(folder) as path:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                yield
            finally:
                if not (folder / "config.json").exists():
                    with suppress(OSError):
                        for left in (folder / "manifest.json", path):
                            left.unlink(missing_ok=True)
                        for made in new:
                            made.rmdir()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """The lock file of a run folder, which is made where it is missing, held by this process."""
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = {p.name for p in folder.iterdir() if p.name[0] != "."} - {"lock", "manifest.json"}
        if others and not (folder / "config.json").exists():
            raise ConfigError(f"{folder} holds no run but {listed(sorted(others))}.", "Name a new folder with --out.")
        lock = path.open("a+")
    except OSError as error:
        raise PlusxError(f"{folder}: {error.strerror}.", "Name another run folder with --out.") from None
    with lock, _not_inherited(lock):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(lock.fileno()), path.stat())  # not one that its owner just removed
        except OSError:
            ours = False
        if not ours:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            raise PlusxError(f"{folder} is in use by {owner}.", "Wait for it, or name another one with --out.")
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        yield path


_own: set[IO[str]] = set()  # open files that no child may keep open


def _close_own() -> None:
    for file in _own:
        file.close()


os.register_at_fork(after_in_child=_close_own)


@contextmanager
def _not_inherited(file: IO[str]) -> Iterator[None]:
    """Keep a file from children: decoding processes outlive a killed parent for a moment, and with them its lock."""
    _own.add(file)
    try:
        yield
    finally:
        _own.remove(file)


def prepare(
    folder: Path, request: Request, dataset: Dataset, log: Log, accept: bool = False, rank: int = 0
) -> tuple[Plan, Dataset, str]:
    """The plan, the data without bad files, and the hash of its manifest; new ones are written and told.

    Raises:
        DataError: files that cannot be decoded, a split of nothing else, data that changed since the run began and is
            not to be accepted, or that is another than rank 0's.
    """
    path, record, data_config = folder / "config.json", folder / "manifest.json", request.data_config()
    plan = read_plan(path, request) if path.exists() else None
    with log.counting("reading images") as progress:
        whole, dataset = dataset, scan.screen(dataset, data_config, request.screening(), progress)
        if emptied := [name for name in whole.splits if name not in dataset.splits]:
            raise DataError(
                f"{request.data}: no file of {listed(emptied)} can be decoded.",
                "`plusx check` lists them; repair them, or remove them to go on without.",
            )
        found = manifest.build(dataset, data_config, progress)
    if plan is None:
        plan = decide_all(request, dataset, log)
        write_json(record, found, indent=None)
        write_plan(path, plan)
    elif (old := read_json(record)).get("hash") != found["hash"]:
        changes = manifest.compare(old, found)
        if rank:
            raise DataError(f"the data differs from that of rank 0: {changes}.", "Give every rank the same files.")
        if not accept:
            raise DataError(
                f"the data of {folder} changed since the run began: {changes}.",
                "Restore it, start a new run with another --out, or go on with it by --accept-data-change.",
            )
        write_json(record, manifest.accepted(old, found), indent=None)
        log.line(f"the data changed: {changes}")
    changed = [f"the data changed during the run: {each['change']}" for each in read_json(record).get("accepted", ())]
    dataset = dataset.changed(notes=tuple(changed))
    for note in (*dataset.notes, *plan.notes):
        log.line(f"note: {note}")
    for choice in plan.choices:
        log.line(f"{choice.field} = {choice.value}: {choice.reason}")
    return plan, dataset, found["hash"]


def decide_all(request: Request, dataset: Dataset, log: Log) -> Plan:
    """Every decision of a new run, those included that need the pixels or the network."""
    known = data_facts(dataset, request.data_config())
    origin = weights.origin(request.weights) if request.weights else None
    config, choices = decide(request, known, origin)
    preprocess, colours, notes = make_preprocess(config, dataset, log, origin and origin.preprocess)
    network = start_network(config, dataset, preprocess)
    if request.weights:  # unusable ones are told before the run is decided
        weights.load_weights(network, request.weights, dataset.classes)
    try:
        network.to(config.engine.device or "cpu")
    except (RuntimeError, AssertionError) as error:  # each device has its own way to say that it is not there
        message = f"engine.device: got {config.engine.device!r}: {str(error).splitlines()[0]}"
        raise ConfigError(message, "Leave it out to take what is there.") from error
    batch = min(config.engine.batch or 1, len(dataset.splits["train"])) // config.engine.accumulate or 1
    side = config.augment.size or preprocess.size
    shape = (batch, preprocess.channels, side, side)
    if config.engine.precision == "auto":
        macs = count_macs(network, shape[1:])
        if macs < TINY_MACS:
            precision, reason = "fp32", f"{macs / 1e6:.1f} M multiply-adds an image are too few for bfloat16 to gain"
        else:
            precision, reason = resolve_precision(network, shape, config.engine.channels_last)
        choices = (*choices, Choice("engine.precision", precision, reason))
        config = configs.replace(config, {"engine.precision": precision})
    return Plan(
        request=request,
        config=config,
        choices=choices,
        notes=notes,
        facts=known,
        preprocess=preprocess,
        colours=colours,
        versions=modelfile.versions() | surroundings(config.engine.threads),
    )


def surroundings(threads: int | None) -> dict[str, str]:
    """Where and when a run began: the CPU's capability that PyTorch uses, threads, cores, processor, system, date."""
    return {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(threads or torch.get_num_threads()),
        "cores": str(own_cores()),
        "processor": processor(),
        "system": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def make_preprocess(
    config: Config, dataset: Dataset, log: Log, given: Preprocess | None = None
) -> tuple[Preprocess, Colours | None, tuple[str, ...]]:
    """The one evaluation transform, the directions of colour shifts where there are any, and what to say about both.

    `given` is that of the weights to start from, where their file says it.

    Raises:
        ConfigError: colour shifts of gray images, or a normalisation that no weights give.
    """
    augment, split = config.augment, dataset.splits["train"]
    rules = plain_preprocess(config.data)
    if augment.colour and rules.channels != 3:
        message = f"augment.colour: got {augment.colour:g}, but images have {rules.channels} channel"
        raise ConfigError(message, "Leave it out, or set data.channels=3.")
    kind = config.data.normalize
    if kind == "weights" and given is None:
        message = "data.normalize: got weights, but no --weights say how images were normalised"
        raise ConfigError(message, "Give a run or a model file, or choose another normalisation.")
    notes = []
    if kind == "weights" and given is not None and given.channels != rules.channels:
        notes.append(
            f"mean and standard deviation are the set's own: those of the weights are of {given.channels} channels"
        )
        kind = "channel"
    if kind == "imagenet" and rules.channels != 3:
        kind = "channel"
    found, own_colours = None, augment.colour > 0 and augment.colours == "train"
    if kind == "channel" or own_colours:
        with log.counting("mean and standard deviation") as progress:
            found = channel_statistics(split, rules, progress, whole=own_colours)
    if kind == "pixel":
        with log.counting("mean image") as progress:
            rules = rules.centred(mean_image(split, rules, progress))
    elif kind == "imagenet":
        rules = dataclasses.replace(rules, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    elif kind == "weights" and given is not None:
        image = given.mean_image if given.size == rules.size else None
        rules = dataclasses.replace(rules, mean=given.mean, std=given.std, mean_image=image)
    elif kind == "channel" and found is not None:
        rules = dataclasses.replace(rules, mean=found.mean, std=found.std)
    colours = None
    if augment.colour:
        colours = Colours.of(found.covariance) if found and own_colours else IMAGENET_COLOURS
    return rules, colours, (*notes, *(found.notes if found else ()))


def plain_preprocess(data: DataConfig) -> Preprocess:
    """The evaluation transform without a normalisation."""
    assert data.size is not None, "choose fills this"
    assert data.channels is not None, "choose fills this"
    assert data.resize is not None, "choose fills this"
    assert data.fit is not None, "choose fills this"
    return Preprocess(
        size=data.size,
        resize=data.resize,
        fit=data.fit,
        channels=data.channels,
        mean=(0.0,) * data.channels,
        std=(1.0,) * data.channels,
        background=data.background,
        max_pixels=data.max_pixels,
    )


def start_network(config: Config, dataset: Dataset, preprocess: Preprocess) -> Network:
    """The network with its initial weights: a function of the config and, where they whiten, of the training images."""
    network = make_network(config, len(dataset.classes))
    for wanted, whiten in ((config.model.whiten_input, whiten_input), (config.model.whiten_stem, whiten_stem)):
        if wanted:
            whiten(network, sample(dataset.splits["train"], preprocess, WHITENING_SAMPLE))
    return network


def make_network(config: Config, n_classes: int) -> Network:
    """The network with random weights, a function of the config alone."""
    torch.manual_seed(config.seed)
    m = config.model
    assert m.name is not None, "choose fills this"
    return create_model(
        m.name,
        n_classes,
        in_channels=config.data.channels or 3,
        size=config.data.size,
        width=m.width,
        shortcut=m.shortcut,
        stride_in=m.stride_in,
        stem=m.stem,
        norm_order=m.norm_order,
        norm=m.norm,
        init=m.init,
        zero_init_last=bool(m.zero_init_last),
        whiten_input=m.whiten_input,
    )


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
    network = start_network(config, dataset, plan.preprocess)
    start = None if begun(folder) else plan.request.weights
    if start is not None:
        fill(network, start, classes, log)
    common: dict[str, Any] = {"mode": config.data.mode, "workers": config.data.workers, "device": device}
    train_batches = train_loader(
        dataset.splits["train"],
        plan.preprocess,
        config.augment,
        n_classes=len(classes),
        batch=config.engine.batch,
        seed=config.seed,
        colours=plan.colours,
        rank=world.rank,
        processes=world.size,
        **common,
    )
    # Whole batches, so that each is computed as one process would.
    part = watched.part(world.rank, world.size, eval_batch(plan.preprocess.size))
    eval_batches = eval_loader(part, plan.preprocess, **common)

    def keep(module: nn.Module, metrics: Metrics, row: dict[str, Any]) -> None:
        measured = {"data": dataset.name, "split": watched.name, "epoch": row["epoch"], **metrics.to_dict()}
        write_model(folder, plan, dataset, manifest_hash, module, measured)

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
        log=log,
        on_step=on_step,
        save_start=start is not None,
        world=world,
    )


def fill(network: Network, source: str, classes: Sequence[str], log: Log) -> None:
    """Weights into the network; the screen gets a summary, the log what became of each."""
    rows = weights.load_weights(network, source, classes)
    for line in weights.summary(rows):
        log.line(f"weights: {line}")
    for row in (row for row in rows if row.why):
        log.line(f"weights: {row.name}: {row.why}", to_console=False)


def write_model(
    folder: Path,
    plan: Plan,
    dataset: Dataset,
    manifest_hash: str,
    module: nn.Module,
    metrics: dict[str, Any],
    temperature: float | None = None,
) -> None:
    """Write the run's model file."""
    modelfile.save(
        folder / modelfile.FILE_NAME,
        module,
        classes=dataset.classes,
        task=dataset.task,
        preprocess=plan.preprocess,
        metrics=metrics,
        recipe=plan.config.recipe,
        config=configs.to_dict(plan.config),
        manifest_hash=manifest_hash,
        temperature=temperature,
    )


def calibrate(folder: Path, plan: Plan, dataset: Dataset, manifest_hash: str, log: Log) -> None:
    """Give the model file the temperature at which its probabilities fit the val split; answers stay the same."""
    if "val" not in dataset.splits or dataset.task != "single":
        return  # a test split may not choose anything, and labels of their own have no common softmax
    if len(dataset.splits["val"]) < LEAST_CALIBRATION:
        n = len(dataset.splits["val"])
        log.line(f"probabilities are not calibrated: {n} images of val are fewer than {LEAST_CALIBRATION}")
        return
    classifier = modelfile.load(folder, device=plan.config.engine.device)
    batches = eval_loader(dataset.splits["val"], plan.preprocess, workers=plan.config.data.workers)
    answers = [
        (logits, targets) for logits, targets, _ in predict_logits(classifier.module, batches, classifier.device)
    ]
    temperature = fit_temperature(torch.cat([a[0] for a in answers]), torch.cat([a[1] for a in answers]))
    write_model(folder, plan, dataset, manifest_hash, classifier.module, classifier.meta["metrics"], temperature)
    log.line(f"probabilities are calibrated on val: temperature {temperature:.2f}")


def finish(folder: Path, plan: Plan, dataset: Dataset, result: FitResult, log: Log) -> None:
    """Evaluate the model file as anyone would, write the report, and record that the run is done."""
    watched = dataset.watched
    assert watched is not None
    config = plan.config
    run = Run(
        folder=folder,
        model=config.model.name or "",
        recipe=config.recipe,
        epochs=result.epochs,
        n_train=len(dataset.splits["train"]),
        n_val=len(dataset.splits.get("val", ())),
        n_test=len(dataset.splits.get("test", ())),
        watched=watched.name,
        selected=config.engine.select or "last",
        best=result.best,
        final=result.final,
        seconds=result.seconds,
        images_per_second=result.images_per_second,
    )
    with log.counting("evaluating the model file") as progress:
        classifier = modelfile.load(folder, device=config.engine.device)
        evaluation = evaluate(classifier, dataset, split=watched.name, progress=progress)
    build(report_data(run, plan, dataset, evaluation, result), folder / "report.html")
    values = run.to_dict()
    write_json(folder / "result.json", {"request": plan.request.to_dict(), **values})
    log.line(f"finished: {folder}")
    log.close()


def report_data(run: Run, plan: Plan, dataset: Dataset, evaluation: Evaluation, result: FitResult) -> ReportData:
    """What the report shows, gathered from the parts."""
    sizes = {name: f"{len(split):,} images" for name, split in dataset.splits.items()}
    config = plan.config
    return ReportData(
        title=f"{dataset.name}: {run.model}",
        subtitle=f"{run.model}, recipe {run.recipe}, {run.epochs} epochs on {run.n_train:,} images",
        evaluation=evaluation,
        rows=result.history,
        tiles={
            "training": f"{run.seconds / 60:.1f} min",
            "speed": f"{run.images_per_second:,.0f} images/s",
            "parameters": f"{count_params(make_network(config, len(dataset.classes))):,}",
        },
        facts={
            "source": dataset.root,
            **sizes,
            "classes": f"{len(dataset.classes):,}",
            "median image": f"{plan.facts.width} x {plan.facts.height} px",
            "network input": f"{plan.preprocess.channels} x {plan.preprocess.size} x {plan.preprocess.size}",
        },
        notices=(*dataset.notes, *plan.notes, *evaluation.notes),
        choices=[(choice.field, choice.value, choice.reason) for choice in plan.choices],
        config={name: dataclasses.asdict(section) for name, section in configs.sections(config).items()},
        environment={"system": platform.platform()} | plan.versions,
        commands=[
            (
                "Exact metrics on data with labels",
                shlex.join(["plusx", "evaluate", str(run.folder), plan.request.data]),
            ),
            ("Labels for files and folders", f"plusx predict {shlex.quote(str(run.folder))} FILES"),
            ("From Python", f'plusx.load({str(run.folder)!r}).predict(["photo.jpg"])'),
        ],
    )


def finished_run(folder: Path, request: Request) -> Run | None:
    """The run that the folder holds, when it is this very request and finished.

    Raises:
        ConfigError: it is finished and another request's.
        ModelFileError: a record of it is damaged.
    """
    path = folder / "result.json"
    if not path.exists():
        return None  # also when the folder holds an unfinished run, which prepare compares
    read_plan(folder / "config.json", request)
    names = {f.name for f in dataclasses.fields(Run)} - {"folder", "already_finished"}
    values = read_json(path, sorted(names))
    return Run(folder=folder, already_finished=True, **{name: values[name] for name in names})
