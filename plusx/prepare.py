"""Before the first step: every decision of a run is made, told and on disk.

So the same command continues from what was decided, not from a new guess.
"""

import dataclasses
import platform
import re
import shutil
import time
from operator import attrgetter
from pathlib import Path

import torch

from plusx import config as configs
from plusx import modelfile, weights
from plusx.config import Config, DataConfig
from plusx.data import IMAGENET_COLOURS, Colours, Dataset, Preprocess, channel_statistics, manifest, mean_image, scan
from plusx.data.check import class_warnings
from plusx.data.copies import FOLDER as COPIES
from plusx.data.dataset import untrainable
from plusx.data.facts import facts as data_facts
from plusx.engine import Log, resolve_precision
from plusx.errors import ConfigError, DataError, ModelFileError
from plusx.initial import make_network
from plusx.models import count_macs, resolve
from plusx.plan import FREE, Plan, Request, decide, read_json, read_plan, write_json, write_plan
from plusx.recipes import Choice, get_recipe
from plusx.text import listed, plural
from plusx.threads import own_cores

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0..1, as published with weights
SHOWN_SECONDS = 60  # that a file may take to be seen on other machines
TINY_MACS = 8_000_000  # of a network; below, what bfloat16 gains lies around what a trial can tell from noise


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


def check_request(request: Request) -> None:
    """Refuses of a new run what needs no data to be seen.

    Raises:
        ConfigError: no such recipe, network or device, or no such weights of the network.
        ModelFileError: weights that are not there or damaged.
    """
    given = request.changes()
    get_recipe(request.recipe or "small")
    if name := given.get("model.name"):
        resolve(name)
    if request.weights:
        weights.origin(request.weights)
        if name and request.weights in weights.IMAGENET:
            weights.published(request.weights, weights.published_name(request.weights, name))
    if (device := given.get("engine.device") or "").startswith("cuda"):
        modelfile.check_device(device, "engine.device")


def prepare(
    folder: Path, request: Request, dataset: Dataset, log: Log, accept: bool = False, rank: int = 0
) -> tuple[Plan, Dataset, str]:
    """The plan, the data without bad files, and the hash of its manifest; new ones are written and told.

    Raises:
        DataError: files that cannot be decoded, a split of nothing else, data that changed since the run began and is
            not to be accepted, or that is another than rank 0's.
    """
    path, record, data_config = folder / "config.json", folder / "manifest.json", request.data_config()
    recorded = read_plan(path, request, moved=True) if shown(path, rank) else None
    plan = recorded and continued(recorded, request)
    if plan is not None:
        request = plan.request
        if not rank:
            modelfile.check_device(plan.config.engine.device or "cpu", "engine.device")
    with log.counting("reading images") as progress:
        findings = scan.scan(dataset, data_config, progress)
        on_bad_image = request.changes().get("engine.on_bad_image", "error")
        whole, dataset = dataset, scan.screen(dataset, findings, on_bad_image)
        if emptied := [name for name in whole.splits if name not in dataset.splits]:
            raise DataError(
                f"{request.data}: no file of {listed(emptied)} can be decoded.",
                "`plusx check` lists them; repair them, or remove them to go on without.",
            )
        if lost := untrainable(dataset):
            raise DataError(f"{request.data}: {'; '.join(lost)}.", "Restore them, or begin anew with another --out.")
        found = manifest.build(dataset, findings)
    if plan is None:
        plan = decide_all(request, dataset, log, shutil.disk_usage(folder).free)
        write_json(record, found, indent=None)
        write_plan(path, plan)
    elif (old := read_json(record)).get("hash") != found["hash"]:
        changes = manifest.compare(old, found)
        read_plan(path, request)  # other data, where the run's own did not lie, are another run's
        if rank:
            raise DataError(f"the data differs from that of rank 0: {changes}.", "Give every rank the same files.")
        if not accept:
            raise DataError(
                f"the data of {folder} changed since the run began: {changes}.",
                "Restore it, start a new run with another --out, or go on with it by --accept-data-change.",
            )
        write_json(record, manifest.accepted(old, found), indent=None)
        shutil.rmtree(folder / COPIES, ignore_errors=True)  # of what was there before
        log.line(f"the data changed: {changes}")
    if recorded is not None and plan != recorded and not rank:
        write_plan(path, plan)
    changed = [f"the data changed during the run: {each['change']}" for each in read_json(record).get("accepted", ())]
    seen = (*scan.frame_notes(findings), *manifest.leaks(found))
    balanced = plan.config.optim.class_weights == "balanced"
    dataset = dataset.changed(notes=(*changed, *seen, *class_warnings(dataset, balanced)))
    for note in (*dataset.notes, *plan.notes):
        log.line(f"note: {note}")
    for choice in plan.choices:
        log.line(f"{choice.field} = {choice.value}: {choice.reason}")
    return plan, dataset, found["hash"]


def shown(path: Path, rank: int) -> bool:
    """Whether a file of the run folder is there; a shared file system may show others late what rank 0 wrote.

    Raises:
        DataError: another rank does not see it.
    """
    deadline = time.monotonic() + SHOWN_SECONDS
    while not (there := path.exists()) and rank and time.monotonic() < deadline:
        time.sleep(0.2)
    if rank and not there:
        raise DataError(f"{path}: rank 0 wrote it, and it is not there.", "Give all ranks the same run folder.")
    return there


def continued(plan: Plan, request: Request) -> Plan:
    """The plan of a run as a request goes on with it; a note says what is other than before.

    Fields that are `FREE` take the value that the request gives.
    """
    request = request.continuing(plan.request)
    given = {key: value for key, value in request.changes().items() if key in FREE and value is not None}
    config = configs.replace(plan.config, given)
    versions = plan.versions | modelfile.versions() | surroundings(config.engine.threads)
    versions["date"] = plan.versions.get("date", "")  # when it began
    values = [(key, attrgetter(key)(plan.config), value) for key, value in given.items()]
    values += [(key, plan.versions.get(key), value) for key, value in versions.items()]
    differ = [f"{key} was {old}, now {new}" for key, old, new in values if old != new]
    differ += request.differences(plan.request).values()  # where the data lies
    notes = (*plan.notes, *([f"the run goes on otherwise than before: {'; '.join(differ)}"] if differ else ()))
    return dataclasses.replace(plan, request=request, config=config, versions=versions, notes=notes)


def decide_all(request: Request, dataset: Dataset, log: Log, disk: int) -> Plan:
    """Every decision of a new run, those included that need the pixels or the network."""
    known = data_facts(dataset)
    origin = weights.origin(request.weights) if request.weights else None
    config, choices = decide(request, known, origin, disk)
    modelfile.check_device(config.engine.device or "cpu", "engine.device")
    preprocess, colours, notes = make_preprocess(config, dataset, log, origin and origin.preprocess)
    network = make_network(config, len(dataset.classes))
    if request.weights:  # unusable ones are told before the run is decided
        weights.load_weights(network, request.weights, dataset.classes)
    network.to(config.engine.device or "cpu")
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
        ConfigError: colour shifts of gray images, a normalisation that no weights give, or a mean image of theirs for
            training crops of another size.
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
    theirs, notes = {"imagenet": 3, "weights": given and given.channels}.get(kind, rules.channels), []
    if theirs != rules.channels:
        source = "ImageNet" if kind == "imagenet" else "the weights"
        notes.append(
            f"mean and standard deviation are the set's own: those of {source} are of {plural('channel', theirs or 0)}"
        )
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
        if image and augment.size not in (None, rules.size):
            message = f"augment.size: got {augment.size}, but the mean image of the weights is of {rules.size} px"
            raise ConfigError(message, "Leave it out, or choose another data.normalize.")
        rules = dataclasses.replace(rules, mean=given.mean, std=given.std, mean_image=image)
    elif kind == "channel" and found is not None:
        rules = dataclasses.replace(rules, mean=found.mean, std=found.std)
    colours = None
    if augment.colour:
        colours = Colours.of(found.covariance) if found and own_colours else IMAGENET_COLOURS
    return rules, colours, (*notes, *(found.notes if found else ()))


def plain_preprocess(data: DataConfig) -> Preprocess:
    """The evaluation transform without a normalisation."""
    known = {name: getattr(data, name) for name in ("size", "resize", "fit", "channels", "background", "max_pixels")}
    assert None not in known.values(), "choose fills these"
    return Preprocess(**known, mean=(0.0,) * known["channels"], std=(1.0,) * known["channels"])
