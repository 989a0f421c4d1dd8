"""The configuration of a run: frozen dataclasses, checked as a whole, to and from JSON and `--set`.

A field that is None is automatic: `recipes.choose` fills it from the data and says why. Fields without a default are
hyper-parameters; their values live in `recipes/` alone. This module imports neither torch nor numpy.
"""

import dataclasses
import difflib
import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, is_dataclass
from typing import Any

from plusx.errors import ConfigError

MAX_SIDE = 8192  # px of a network input; beyond it a file asks for more memory than any of our networks needs
MAX_PIXELS = 50_000_000  # of an image, unless the user allows more
MOST_PIXELS = 178_956_970  # that a user can allow; Pillow opens none above
MEAN_IMAGE_SIDE = 512  # px; a larger one does not fit into a model file's header
RESERVE = 5 << 30  # bytes of a disk that copies of photos leave to others, checkpoints first of all
HUGE = 1e35  # beyond what a rate can mean; float32 ends at 3e38
KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def option(
    doc: str,
    default: Any = MISSING,
    *,
    choices: tuple[Any, ...] = (),
    low: float = -math.inf,
    below: float = math.inf,
    form: str = "",
) -> Any:
    """A field with its documentation, its allowed values (`choices`), its smallest value and a bound above it, or, of
    text, its `form`, a regular expression that `doc` says in words."""
    metadata = {"doc": doc, "choices": choices, "low": low, "below": below, "form": form}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where examples come from and how a file becomes a tensor."""

    root: str | None = option("folder searched first for a named data set", None)
    mode: str | None = option("small: in memory; photo: decoded by workers", None, choices=("small", "photo"))
    size: int | None = option("side of the square network input, px", None, low=1, below=MAX_SIDE + 1)
    resize: int | None = option("shorter side before evaluation's centre crop, px", None, low=1, below=MAX_SIDE + 1)
    fit: str | None = option("what makes an image square at evaluation", None, choices=("crop", "pad", "stretch"))
    channels: int | None = option("input channels: 1 gray, 3 RGB", None, choices=(1, 3))
    normalize: str = option(
        "mean and standard deviation of each channel: the set's own, ImageNet's, those of the weights to start from; "
        "or the mean of each pixel (paper)",
        "channel",
        choices=("channel", "imagenet", "weights", "pixel", "none"),
    )
    val_fraction: float | None = option("share of train held out where no val split is given", None, low=0, below=1)
    split_seed: int = option("seed of that split", 0, low=0, below=2**63)
    workers: int | None = option("decoding processes", None, low=0)
    copies: int | None = option("large photos train from copies of this shorter side or more, px; 0: none", None, low=0)
    max_pixels: int = option("largest image accepted, width times height", MAX_PIXELS, low=1, below=MOST_PIXELS + 1)
    background: int = option("gray level under transparent pixels, 0 to 255", 255, low=0, below=256)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to training images, drawn from (seed, epoch, example id)."""

    crop: str = option(
        "none; translate: pad and crop; resized: random area and aspect; scale: random shorter side, then crop",
        choices=("none", "translate", "resized", "scale"),
    )
    pad: int | None = option("padding on each side for translate, px", None, low=0, below=257)
    padding_mode: str = option("what translate pads with", "zeros", choices=("zeros", "reflect"))
    area: tuple[float, float] = option("share of the image kept by resized", (0.08, 1.0), low=0)
    shorter_side: tuple[int, int] | None = option("range of the shorter side for scale, px", None, low=1)
    flip: str | None = option("mirror at random or every other epoch", None, choices=("none", "random", "alternate"))
    size: int | None = option("side of training crops, px; auto is data.size", None, low=1)
    policy: str = option("an operation at random on each image (TrivialAugment)", "none", choices=("none", "trivial"))
    cutout: int = option("side of the square set to the mean, px; 0 is off", 0, low=0)
    erase: float = option("chance that a random rectangle is set to the mean; 0 is off", 0.0, low=0, below=1)
    repeats: int = option("times an epoch has an example, each augmented anew; it has fewer examples then", 1, low=1)
    colour: float = option("size of PCA colour shifts; the paper's is 0.1, 0 is off", 0.0, low=0)
    colours: str = option("whose directions: the training set's or ImageNet's", "train", choices=("train", "imagenet"))
    mixup: float = option("alpha of mixup's Beta distribution; 0 is off", 0.0, low=0)
    cutmix: float = option("alpha of cutmix's Beta distribution; 0 is off", 0.0, low=0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network; None keeps what the name stands for."""

    name: str | None = option("a name from `plusx models`", None)
    shortcut: str | None = option("shortcut option", None, choices=("A", "B", "C"))
    stride_in: str | None = option("stride placement in a bottleneck", None, choices=("1x1", "3x3"))
    stem: str | None = option("first layers", None, choices=("imagenet", "cifar", "deep"))
    width: int | None = option("channels of the first stage", None, low=1, below=65_537)
    norm: str = option("none: no batch norm, a learned shift in its place", "batch", choices=("batch", "none"))
    norm_order: str | None = option(
        "last batch norm of a residual block, before or after the addition", None, choices=("before", "after")
    )
    init: str = option("initialiser", "he", choices=("he", "he-fan-in", "xavier"))
    zero_init_last: bool | None = option("start each block's last batch-norm scale at zero (a departure)", None)
    whiten_input: bool = option("whiten the images by a fixed 3x3 convolution before the stem (a departure)", False)
    whiten_stem: bool | None = option("start the stem as whitening filters of the training images (a departure)", None)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and the loss."""

    name: str = option("optimizer", choices=("sgd", "adamw"))
    lr: float = option("peak learning rate", low=0, below=HUGE)
    weight_decay: float = option("weight decay", low=0, below=HUGE)
    momentum: float = option("momentum (sgd) or beta1 (adamw)", 0.9, low=0, below=1)
    nesterov: bool = option("Nesterov momentum (a departure)", False)
    decay: str = option("what decays: weights, or biases and batch norm too", "weights", choices=("weights", "all"))
    clip_norm: float | None = option("largest gradient norm", None, low=1e-9)
    class_weights: str = option("in the loss; balanced: rare ones weigh more", "none", choices=("none", "balanced"))
    label_smoothing: float = option("label smoothing, 0..1", 0.0, low=0, below=1)
    body_lr: float = option("learning rate of all but the head, as a share of lr", 1.0, low=0)
    freeze: str = option("parts that do not train", "none", choices=("none", "body"))


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate and weight decay over the run; shares are of the whole run, so that `--epochs` rescales it."""

    name: str = option("shape", choices=("multistep", "plateau", "cosine", "linear"))
    epochs: int | None = option("length of the run in epochs", None, low=1)
    steps: int | None = option("length of the run in steps, instead of epochs", None, low=1)
    warmup: float = option("share of the run that rises linearly to the peak", 0.0, low=0, below=1)
    warmup_error: float | None = option(
        "training error, 0..1, down to which the run stays at warmup_factor of the peak; 0 is off", 0.0, low=0, below=1
    )
    warmup_factor: float = option("share of the peak until the training error is under warmup_error", 0.1, low=0)
    milestones: tuple[float, ...] = option("shares of the run at which multistep decays", (), low=0, below=1)
    patience: int = option("evaluations without a better one after which plateau decays", 5, low=1)
    factor: float = option("decay factor at each milestone or plateau", 0.1, low=0, below=HUGE)
    final: float = option("share of the peak left at the end of cosine and linear", 0.0, low=0, below=HUGE)
    final_weight_decay: float = option("share of weight_decay left at the end of a line", 1.0, low=0, below=HUGE)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How steps are run, watched and saved."""

    batch: int | None = option("examples per step, over all processes", None, low=1)
    accumulate: int = option("micro-batches per step", 1, low=1)
    precision: str = option("arithmetic of convolutions in training", "auto", choices=("auto", "fp32", "bf16"))
    channels_last: bool = option("memory format N H W C", True)
    compile: bool = option("torch.compile the network", False)
    cuda_graphs: bool = option("replay the passes over full batches, in a run of one process on a GPU", False)
    sync_bn: bool = option("batch norm over the images of all processes, not of each alone", False)
    ema: float = option("decay of the averaged weights per step; 0 is off", 0.0, low=0, below=1)
    precise_bn: int = option("batches whose mean replaces running statistics at the end; 0 is off", 0, low=0)
    evaluate_every: int = option("epochs between evaluations", 1, low=1)
    select: str | None = option("which evaluation's weights become the model file", None, choices=("best", "last"))
    checkpoint_steps: int | None = option("steps between checkpoints, besides the one at each epoch's end", None, low=1)
    checkpoint_minutes: float = option("minutes between checkpoints", 5.0, low=0)
    on_bad_image: str = option("a file that cannot be decoded", "error", choices=("error", "skip"))
    device: str | None = option("cpu, cuda, cuda:1, …, mps", None, form=r"cpu|(cuda|mps)(:\d+)?")
    threads: int | None = option("CPU threads of the training process", None, low=1, below=1025)
    tensorboard: bool = option("also write TensorBoard events", False)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of a run.

    Raises:
        ConfigError: at construction, with every problem at once.
    """

    recipe: str = option("recipe this came from")
    seed: int = option("seed of initialisation, order and augmentation", 0, low=0, below=2**63)
    data: DataConfig
    augment: AugmentConfig
    model: ModelConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    engine: EngineConfig

    def __post_init__(self) -> None:
        problems = [p for name, section in sections(self).items() for p in _field_problems(f"{name}.", section)]
        problems += _field_problems("", self)
        if problems := problems or _cross_problems(self):
            raise ConfigError("; ".join(problems), "`plusx recipes --fields` lists every field and what it takes.")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the data says about itself; recipes and automatic choices start from it."""

    n_train: int
    n_val: int  # 0 when the data has no val split
    n_classes: int
    width: int  # median image width, px
    height: int  # median image height, px
    channels: int  # 1 when every training image is gray, else 3
    mirror: bool | None  # whether a mirrored image keeps its label; None when nobody can know
    benchmark: bool  # a named set whose train/test split its authors fixed
    files: bool  # image files rather than arrays in memory
    aspect: float = 1.0  # median of longer side over shorter side


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, which Python parses anew each time."""
    return typing.get_type_hints(owner)


SECTIONS: dict[str, Any] = {n: hint for n, hint in _hints(Config).items() if is_dataclass(hint)}


def sections(config: Config) -> dict[str, Any]:
    """The sections of a config by name."""
    return {name: getattr(config, name) for name in SECTIONS}


def fields() -> list[dict[str, str]]:
    """Every field for people: name, type, default and documentation."""
    rows = []
    for name, section in SECTIONS.items():
        hints = _hints(section)
        for f in dataclasses.fields(section):
            choices = f.metadata["choices"]
            kind = "|".join(map(str, choices)) if choices else _type_name(hints[f.name])
            default = "recipe" if f.default is MISSING else "auto" if f.default is None else str(f.default)
            rows.append({"field": f"{name}.{f.name}", "type": kind, "default": default, "doc": f.metadata["doc"]})
    return rows


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy with `{"section.field": value}` changed; `seed` and `recipe` have no section."""
    by_section: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        by_section.setdefault(section, {})[name] = value
    top = by_section.pop("", {})
    top |= {name: dataclasses.replace(getattr(config, name), **values) for name, values in by_section.items()}
    return dataclasses.replace(config, **top)


def several(given: Iterable[str]) -> tuple[str, ...]:
    """Texts, of which one may stand alone."""
    return (given,) if isinstance(given, str) else () if given is None else tuple(given)


def parse_overrides(texts: Iterable[str], flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`["optim.lr=0.1", …]`, or one of them -> `{"optim.lr": 0.1, …}`, typed by the fields, after values of flags.

    Raises:
        ConfigError: an unknown field, a value of another type or out of bounds, two values of one field, all of them at
            once.
    """
    known = {
        f"{s}.{f.name}": (_hints(c)[f.name], f.metadata) for s, c in SECTIONS.items() for f in dataclasses.fields(c)
    }
    changes = dict(flags or {})
    typed = known | {"seed": (int, Config.__dataclass_fields__["seed"].metadata)}
    problems = [p for key, value in changes.items() for p in _value_problems(key, value, *typed[key])]
    for text in several(texts):
        key, equals, raw = str(text).partition("=")
        if not equals:
            problems.append(f"{text!r}: got no value, expected section.field=value")
        elif key not in known:
            close = difflib.get_close_matches(key, known, 1)
            problems.append(f"{key}: no such field" + (f", did you mean {close[0]}?" if close else ""))
        else:
            hint, metadata = known[key]
            try:
                value = _parse(raw, hint)
            except ValueError:
                problems.append(f"{key}: got {raw!r}, expected {_type_name(hint)}")
            else:
                wrong = _value_problems(key, value, hint, metadata)
                if not wrong and changes.setdefault(key, value) != value:
                    wrong = [f"{key}: got {changes[key]!r} and {value!r}, expected one value"]
                problems += wrong
    if problems:
        raise ConfigError("; ".join(problems), "`plusx recipes --fields` lists every field and what it takes.")
    return changes


def taken(texts: Iterable[str], fields: Iterable[str], what: str, hint: str) -> dict[str, Any]:
    """`parse_overrides` where only some fields matter: `what` takes `fields`.

    Raises:
        ConfigError: another field, whose setting would change nothing; what `parse_overrides` raises.
    """
    changes = parse_overrides(texts)
    if others := [key for key in changes if key not in fields]:
        raise ConfigError(f"--set {others[0]}: {what} takes {', '.join(fields)}.", hint)
    return changes


def to_dict(config: Config) -> dict[str, Any]:
    """Plain JSON values; the inverse of `from_dict`."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(plain: Mapping[str, Any]) -> Config:
    """A config from plain JSON values.

    Raises:
        ConfigError: unknown or missing fields, wrong types or values.
    """
    problems = [f"{key}: no such section" for key in plain if key not in SECTIONS and key not in ("recipe", "seed")]
    built: dict[str, Any] = {key: plain[key] for key in ("recipe", "seed") if key in plain}
    for name, section in SECTIONS.items():
        given = plain.get(name, {})
        names = {f.name for f in dataclasses.fields(section)}
        problems += [f"{name}.{key}: no such field" for key in given if key not in names]
        required = [f.name for f in dataclasses.fields(section) if f.default is MISSING]
        problems += [f"{name}.{key}: missing" for key in required if key not in given]
        if not problems:
            built[name] = section(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    if "recipe" not in plain:
        problems.append("recipe: missing")
    if problems:
        raise ConfigError("; ".join(problems), "The configuration was made by another version, or edited by hand.")
    return Config(**built)


def _arms(hint: Any) -> tuple[Any, bool]:
    """A type hint -> (the type without None, whether None is allowed)."""
    if isinstance(hint, types.UnionType):
        kinds = [a for a in typing.get_args(hint) if a is not type(None)]
        return kinds[0], True
    return hint, False


def _type_name(hint: Any) -> str:
    kind, optional = _arms(hint)
    item = typing.get_args(kind)
    name = f"{KINDS[item[0]]}s a,b{',…' if item[-1] is Ellipsis else ''}" if item else KINDS[kind]
    return f"{name} or auto" if optional else name


def _parse(raw: str, hint: Any) -> Any:
    kind, optional = _arms(hint)
    if optional and raw in ("auto", "none", "") and not (kind is str and raw == "none"):
        return None
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(item(part) for part in raw.split(",") if part)
    if kind is bool:
        if raw.lower() not in ("true", "false"):
            raise ValueError(raw)
        return raw.lower() == "true"
    if kind is int:
        return int(raw.replace("_", ""))
    return kind(raw)


def _field_problems(prefix: str, owner: Any) -> list[str]:
    hints = _hints(owner.__class__)
    fields = [f for f in dataclasses.fields(owner) if f.metadata]  # the sections of a config have none
    values = [(f.name, getattr(owner, f.name), f.metadata) for f in fields]
    return [p for name, value, metadata in values for p in _value_problems(prefix + name, value, hints[name], metadata)]


def _value_problems(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> list[str]:
    kind, optional = _arms(hint)
    expected = "" if value is None and optional else _mismatch(value, kind, metadata)
    return [f"{name}: got {value!r}, expected {expected}{' or auto' if optional else ''}"] if expected else []


def _mismatch(value: Any, kind: Any, metadata: Mapping[str, Any]) -> str:
    """What was expected, or '' when the value fits."""
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        length = None if items[-1] is Ellipsis else len(items)
        if not isinstance(value, tuple) or (length is not None and len(value) != length):
            return f"{length or 'any number of'} values"
        return next((text for v in value if (text := _mismatch(v, items[0], metadata))), "")
    if metadata["choices"]:
        fits = type(value) is kind and value in metadata["choices"]
        return "" if fits else "one of " + ", ".join(map(str, metadata["choices"]))
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        return KINDS[kind]
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if metadata["form"] and not re.fullmatch(metadata["form"], str(value)):
        return str(metadata["doc"])
    low, below = metadata["low"], metadata["below"]
    limits = [f"at least {low:,.9g}"] * math.isfinite(low) + [f"below {below:,.9g}"] * math.isfinite(below)
    return "" if kind not in (int, float) or low <= value < below else " and ".join(limits)


def _cross_problems(config: Config) -> list[str]:
    """Rules between fields that each fit alone."""
    s, problems = config.schedule, []
    if (s.epochs is None) == (s.steps is None):
        problems.append("schedule: got epochs and steps both or neither, expected one of them")
    if list(s.milestones) != sorted(s.milestones):
        problems.append(f"schedule.milestones: got {s.milestones}, expected rising shares of the run")
    if config.data.normalize == "pixel" and (config.data.size or 0) > MEAN_IMAGE_SIDE:
        limit = f"at most {MEAN_IMAGE_SIDE} with data.normalize=pixel, whose mean image is in the model file"
        problems.append(f"data.size: got {config.data.size}, expected {limit}")
    crops, graphs, copies = config.augment.size is not None, config.engine.cuda_graphs, config.data.copies or 0
    random, side = config.augment.crop in ("resized", "scale"), config.augment.size or config.data.size or 0
    nesterov = config.optim.nesterov and config.optim.name == "sgd"
    needs = (
        (crops, "augment.size", "data.mode=photo", config.data.mode != "small"),
        (crops, "augment.size", "augment.crop=resized or scale", random),
        (crops, "augment.size", "data.normalize other than pixel", config.data.normalize != "pixel"),
        (copies, "data.copies", "data.mode=photo", config.data.mode != "small"),
        (copies, "data.copies", "augment.crop=resized or scale", random),
        (copies, "data.copies", f"{side} px or more, the side of training crops", copies >= side),
        (graphs, "engine.cuda_graphs", "engine.device=cuda", (config.engine.device or "cuda").startswith("cuda")),
        (graphs, "engine.cuda_graphs", "engine.accumulate=1", config.engine.accumulate == 1),
        (graphs, "engine.cuda_graphs", "engine.compile=false", not config.engine.compile),
        (nesterov, "optim.nesterov", "optim.momentum over 0", config.optim.momentum > 0),
    )
    problems += [f"{field}: needs {what}" for asked, field, what, met in needs if asked and not met]
    if config.optim.freeze == "body" and config.engine.precise_bn:
        kept = "expected 0 with optim.freeze=body, whose statistics stay as given"
        problems.append(f"engine.precise_bn: got {config.engine.precise_bn}, {kept}")
    repeats, batch = config.augment.repeats, config.engine.batch
    if batch is not None and 1 < batch < 4 * repeats:
        problems.append(f"augment.repeats: got {repeats}, expected at most a quarter of engine.batch ({batch})")
    low, high = config.augment.area
    if not 0 < low <= high <= 1:
        problems.append(f"augment.area: got {config.augment.area}, expected 0 < low <= high <= 1")
    if config.augment.shorter_side and config.augment.shorter_side[0] > config.augment.shorter_side[1]:
        problems.append(f"augment.shorter_side: got {config.augment.shorter_side}, expected low <= high")
    return problems
