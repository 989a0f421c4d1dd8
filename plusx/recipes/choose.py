"""The automatic choices: each fills one field that was left open and says why."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from plusx.config import RESERVE, Config, Facts, replace
from plusx.text import in_bytes

SMALL_SIDE = 64  # px: up to here a set is trained in memory by batched tensor operations
SQUARE = 1.1  # longer over shorter side, up to which a crop to a square is small
GIB = 1 << 30
COPY_BYTES = 0.6  # of a copy, for each of its pixels; scenes with little detail take 0.4, with much 0.9
WORTH = 4  # times as large as a copy must photos be, and so many epochs a run, for copies to pay
SMALL_MODEL = "resnet11"
SHORTER_SIDE = (256, 480)  # px, of scale augmentation at 224 px (section 3.4)
DEEP = 110  # layers that need a warmup to start converging


@dataclass(frozen=True)
class Choice:
    """One automatic choice: the field, the value it got, and the reason in a few words."""

    field: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Machine:
    """What choices may know about the hardware: the device type, CPU cores, and the bytes free for the run."""

    device: str
    cores: int
    disk: float = math.inf


class Named(Protocol):
    """What choices may know about a network: what its name stands for."""

    @property
    def depth(self) -> int:
        """Weighted layers."""

    @property
    def options(self) -> Mapping[str, Any]:
        """What a user may change."""

    @property
    def conv1(self) -> bool:
        """Whether it begins with one convolution, where it has no stem called deep."""


Rule = Callable[[Config, Facts, Machine], tuple[Any, str]]
NetworkRule = Callable[[Config, Named], tuple[Any, str]]


def default_recipe(facts: Facts, weights: bool, size: int | None) -> Choice:
    """The recipe when none is named: by the image size and by whether weights are given."""
    side = size or max(facts.width, facts.height)
    seen = f"images are {facts.width} x {facts.height} px (median)" if size is None else f"the size is set to {size} px"
    if weights:
        return Choice("recipe", "photo-finetune", "weights are given")
    if side <= SMALL_SIDE:
        return Choice("recipe", "small", f"{seen}, up to {SMALL_SIDE}")
    return Choice("recipe", "photo", f"{seen}, over {SMALL_SIDE}, and no weights are given")


def choose(
    config: Config, facts: Facts, machine: Machine, resolve: Callable[[str], Named]
) -> tuple[Config, tuple[Choice, ...]]:
    """Fill every open field that has a rule, in an order in which later rules may use earlier answers.

    Returns:
        The filled config and the choices made; fields that were set already are left alone and not listed.
    """
    config, choices = _filled(config, RULES, facts, machine)
    assert config.model.name is not None, "a rule fills this"
    config, more = _filled(config, NETWORK_RULES, resolve(config.model.name))
    return config, choices + more


def _filled(config: Config, rules: Mapping[str, Callable[..., Any]], *known: Any) -> tuple[Config, tuple[Choice, ...]]:
    choices = []
    for name, rule in rules.items():
        section, field = name.split(".")
        if getattr(getattr(config, section), field) is None:
            value, reason = rule(config, *known)
            if value is not None:
                config = replace(config, {name: value})
                choices.append(Choice(name, value, reason))
    return config, tuple(choices)


def _device(config: Config, facts: Facts, machine: Machine) -> tuple[str, str]:
    return machine.device, "a CUDA device is present" if machine.device == "cuda" else "no CUDA device is present"


def _channels(config: Config, facts: Facts, machine: Machine) -> tuple[int, str]:
    return facts.channels, "every training image is gray" if facts.channels == 1 else "images have colour"


def _size(config: Config, facts: Facts, machine: Machine) -> tuple[int, str]:
    if config.data.mode == "small":
        side = min(max(facts.width, facts.height), SMALL_SIDE)
        return max(side, 8), f"images are {facts.width} x {facts.height} px (median)"
    side = max(32, min(facts.width, facts.height) // 32 * 32)
    if config.engine.device == "cpu" and side >= 128:
        return 128, "a third of the time of 224 px on a CPU; --size 224 sees more detail"
    return min(224, side), "the paper's crop" if side >= 224 else "the images' shorter side, in steps of 32 px"


def _mode(config: Config, facts: Facts, machine: Machine) -> tuple[str, str]:
    side = config.data.size or max(facts.width, facts.height)
    if side <= SMALL_SIDE and facts.n_train * side * side * (config.data.channels or facts.channels) <= 4 * GIB:
        return "small", f"{facts.n_train:,} images of {side} px fit in memory"
    return "photo", "images are decoded by worker processes as they are needed"


def _fit(config: Config, facts: Facts, machine: Machine) -> tuple[str, str]:
    if config.data.mode != "small":
        return "crop", "the paper's test crop"
    if facts.aspect > SQUARE:
        return "pad", f"images {facts.aspect:.2g} times as long as wide (median) are seen whole, with edges added"
    return "crop", "nearly square images lose next to nothing"


def _resize(config: Config, facts: Facts, machine: Machine) -> tuple[int, str]:
    size = config.data.size or 0
    if config.data.mode == "small":
        return size, "small images have no margin to cut off"
    return round(size / 0.875), "the centre crop keeps 7/8 of the shorter side, as in the paper (224 of 256)"


def _shorter_side(config: Config, facts: Facts, machine: Machine) -> tuple[tuple[int, int] | None, str]:
    if config.augment.crop != "scale":
        return None, ""
    size = config.augment.size or config.data.size or 0
    low, high = (round(side * size / 224) for side in SHORTER_SIDE)
    return (low, high), f"the paper's {SHORTER_SIDE[0]} to {SHORTER_SIDE[1]}, times {size}/224"


def _pad(config: Config, facts: Facts, machine: Machine) -> tuple[int | None, str]:
    if config.augment.crop != "translate":
        return None, ""
    return max(1, round((config.data.size or 0) / 8)), "an eighth of the side: the paper's 4 px at 32 px"


def _workers(config: Config, facts: Facts, machine: Machine) -> tuple[int, str]:
    if config.data.mode == "small":
        return 0, "images are in memory"
    return max(1, min(machine.cores, 16)), f"one per CPU core ({machine.cores})"


def _copies(config: Config, facts: Facts, machine: Machine) -> tuple[int | None, str]:
    side, shorter = 2 * (config.augment.size or config.data.size or 0), min(facts.width, facts.height)
    short = (config.schedule.epochs or WORTH) < WORTH
    if config.augment.crop != "resized" or not facts.files or shorter < WORTH * side or short:
        return None, ""
    scale = 8 if shorter >= 8 * side else 4
    scale *= shorter // scale // side
    room = round(COPY_BYTES * facts.n_train * facts.width * facts.height / scale**2)
    seen = f"photos of {facts.width} x {facts.height} px are slow to decode in every epoch"
    if room + RESERVE > machine.disk:
        return 0, f"{seen}, but the disk has no room for {in_bytes(room)} of copies"
    return side, f"{seen}; their copies take about {in_bytes(room)} until the run ends"


def _flip(config: Config, facts: Facts, machine: Machine) -> tuple[str, str]:
    # Alternating mirrors show both sides of every example in every two epochs, which pays in short runs.
    mirrored = "alternate" if config.data.mode == "small" else "random"
    if facts.mirror is not None:
        return (mirrored, "a mirrored image keeps its label") if facts.mirror else ("none", "mirroring changes labels")
    if facts.channels == 1:
        return "none", "gray images may be characters, which mirroring changes"
    return mirrored, "a mirrored photo keeps its label"


def _model(config: Config, facts: Facts, machine: Machine) -> tuple[str, str]:
    if config.data.mode == "small":
        return SMALL_MODEL, "the best accuracy per minute of the networks measured on small images"
    if config.engine.device != "cpu" and facts.n_train >= 20_000:
        return "resnet50-v1.5", f"{facts.n_train:,} photos feed 50 layers on a GPU"
    return "resnet18", "18 layers suit the number of photos and the device"


def _stem(config: Config, network: Named) -> tuple[str | None, str]:
    if config.data.mode != "small" or "stem" not in network.options:
        return None, ""
    return "cifar", "small images keep their resolution in the first layers"


def _zero_init(config: Config, network: Named) -> tuple[bool, str]:
    if "norm_order" in network.options and config.model.norm == "batch" and config.model.norm_order != "after":
        return True, "blocks that start as the identity train faster; departs from the paper"
    return False, "only blocks with a shortcut, added after their last batch norm, can start as the identity"


def _whiten(config: Config, network: Named) -> tuple[bool, str]:
    if config.data.mode == "small" and network.conv1 and config.model.stem != "deep":
        return True, "filters that undo the correlation of neighbouring pixels save epochs; departs from the paper"
    return False, "measured on small images and stems of one convolution only"


def _warmup_error(config: Config, network: Named) -> tuple[float, str]:
    if network.depth >= DEEP:
        return 0.8, f"{network.depth} layers start at a low rate, until the training error is under 80 % (section 4.2)"
    return 0.0, f"fewer than {DEEP} layers need no slow start (section 4.2)"


def _select(config: Config, facts: Facts, machine: Machine) -> tuple[str, str]:
    if facts.n_val == 0:
        return "last", "there is no val split, and a test split must not select"
    return "best", "the val split selects the weights"


RULES: dict[str, Rule] = {
    "engine.device": _device,
    "data.mode": _mode,
    "data.channels": _channels,
    "data.size": _size,
    "data.fit": _fit,
    "data.resize": _resize,
    "data.workers": _workers,
    "data.copies": _copies,
    "augment.shorter_side": _shorter_side,
    "augment.pad": _pad,
    "augment.flip": _flip,
    "model.name": _model,
    "engine.select": _select,
}
NETWORK_RULES: dict[str, NetworkRule] = {
    "model.stem": _stem,
    "model.zero_init_last": _zero_init,
    "model.whiten_stem": _whiten,
    "schedule.warmup_error": _warmup_error,
}
