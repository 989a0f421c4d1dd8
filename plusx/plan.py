"""What a run is going to do: the user's request, and every decision made from it before the first step."""

import dataclasses
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plusx import config as configs
from plusx.config import Config, DataConfig, Facts
from plusx.data import Colours, Preprocess
from plusx.data.sources import SOURCES
from plusx.engine.tensorfile import replacing
from plusx.errors import ConfigError, ModelFileError, PlusxError
from plusx.models import resolve
from plusx.recipes import Choice, Machine, choose, default_recipe, get_recipe
from plusx.recipes.choose import NETWORK_RULES, RULES
from plusx.text import plural
from plusx.threads import own_cores
from plusx.weights import Origin

FORMAT = 1
# Fields that say how a run is computed, not what: they may change while it goes on.
FREE = (
    *("data.root", "data.workers", "engine.checkpoint_minutes", "engine.checkpoint_steps", "engine.compile"),
    *("engine.cuda_graphs", "engine.device", "engine.on_bad_image", "engine.tensorboard", "engine.threads"),
)
LEFT_OPEN = ("recipe", "weights", "schedule.epochs", "schedule.steps")  # as None means no more than not given
OPTIONS = ("width", "shortcut", "stride_in", "stem", "norm_order", "norm", "whiten_input")  # of `create_model`


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; two requests without `differences` are the same run.

    Raises:
        ConfigError: at construction, a value of another type.
    """

    data: str
    model: str | None = None
    recipe: str | None = None
    weights: str | None = None
    epochs: int | None = None
    size: int | None = None
    seed: int | None = None
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (("epochs", int), ("size", int), ("seed", int), ("model", str), ("recipe", str)):
            value = getattr(self, name)
            if isinstance(value, np.integer):  # as `numpy.arange` has them
                object.__setattr__(self, name, value := value.item())
            if value is not None and type(value) is not kind:
                raise ConfigError(f"{name}: got {value!r}, expected {configs.KINDS[kind]}.", "Check its type.")

    def changes(self) -> dict[str, Any]:
        """The flags and `--set` values as changes of config fields.

        Raises:
            ConfigError: a flag or `--set` that has a value that does not fit, or names no field; a field that is set
                to two values; both a number of epochs and one of steps.
        """
        flags: dict[str, Any] = {"model.name": self.model, "schedule.epochs": self.epochs}
        flags |= {"data.size": self.size, "seed": self.seed}
        given = {key: value for key, value in flags.items() if value is not None}
        found = configs.parse_overrides(self.overrides, given)
        # "auto" asks for a choice; where there is none, it is as good as not given.
        changes = {
            field: value for field, value in found.items() if value is not None or field in RULES | NETWORK_RULES
        }
        if changes.get("schedule.steps") and changes.get("schedule.epochs"):
            both = f"{plural('epoch', changes['schedule.epochs'])} and {plural('step', changes['schedule.steps'])}"
            raise ConfigError(f"schedule: got {both}, expected one of them.", "Leave --epochs or schedule.steps out.")
        if changes.get("schedule.steps"):
            changes["schedule.epochs"] = None
        elif "schedule.epochs" in changes:
            changes["schedule.steps"] = None
        return changes

    def differences(self, old: "Request") -> dict[str, str]:
        """By field, what makes this another run than that of an old request; what is `FREE` does not."""
        before, now = old._fixed(), self._fixed()
        differ = [key for key in before | now if _place(key, before) != _place(key, now)]
        return {key: f"{key} was {_told(key, before)}, now {_told(key, now)}" for key in differ}

    def _fixed(self) -> dict[str, Any]:
        given = {"data": self.data, "recipe": self.recipe, "weights": self.weights, "seed": Config.seed}
        given |= self.changes()
        return {k: value for k, value in given.items() if k not in FREE and not (value is None and k in LEFT_OPEN)}

    def continuing(self, old: "Request") -> "Request":
        """This request with the `FREE` overrides of an old one that it does not give itself."""
        given = {_field(text) for text in self.overrides}
        kept = [text for text in old.overrides if _field(text) in FREE and _field(text) not in given]
        return dataclasses.replace(self, overrides=(*kept, *self.overrides))

    def data_config(self) -> DataConfig:
        """The data section as far as the user set it: what opening the data needs."""
        prefix = "data."
        given = {k.removeprefix(prefix): v for k, v in self.changes().items() if k.startswith(prefix)}
        return DataConfig(**given)


def _field(override: str) -> str:
    return override.partition("=")[0]


def latest(overrides: Iterable[str]) -> tuple[str, ...]:
    """Overrides without those that a later one of the same field replaces."""
    return tuple({text.partition("=")[:2]: text for text in overrides}.values())


def _told(key: str, values: Mapping[str, Any]) -> str:
    return repr(values[key]) if key in values else "not given"


def _place(key: str, values: Mapping[str, Any]) -> str:
    """A value of a request; of a path, which can be written in many ways, where it leads."""
    path = values.get(key) if key in ("data", "weights") else None
    return os.path.realpath(path) if path and path not in SOURCES else _told(key, values)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every decision of a run; `config.json` is this."""

    request: Request
    config: Config
    choices: tuple[Choice, ...]
    facts: Facts
    notes: tuple[str, ...]
    preprocess: Preprocess
    colours: Colours | None
    versions: dict[str, str]


def decide(
    request: Request, facts: Facts, origin: Origin | None = None, disk: float = math.inf
) -> tuple[Config, tuple[Choice, ...]]:
    """The full config for a request on data of which `facts` are known, with the automatic choices and their reasons.

    What the weights know, their `origin`, comes before what is chosen and after what the user set. The run's disk has
    `disk` bytes free.

    Raises:
        ConfigError: an unknown recipe or model, or values that do not fit; all problems at once.
    """
    changes = request.changes()
    picked = default_recipe(facts, request.weights is not None, changes.get("data.size"))
    kept = settings(origin, changes) if origin else {}
    recipe = get_recipe(request.recipe or picked.value)(facts)
    moved = in_proportion(recipe, kept | changes)
    config = configs.replace(recipe, moved | kept | changes)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of this run on this machine, which share its cores
    machine = Machine("cuda" if torch.cuda.is_available() else "cpu", max(1, own_cores() // processes), disk)
    config, choices = choose(config, facts, machine, resolve)
    if config.engine.select == "best" and facts.n_val == 0:
        message = "engine.select: got best, but there is no val split, and a test split must not select"
        raise ConfigError(message, "Leave it out, or hold a part of train out: --set data.val_fraction=0.1.")
    known = {"as the weights were trained": kept, "the recipe's, in proportion to the size": moved}
    choices = (*(Choice(*one, reason) for reason, fields in known.items() for one in fields.items()), *choices)
    return config, choices if request.recipe else (picked, *choices)


def in_proportion(recipe: Config, given: Mapping[str, Any]) -> dict[str, int]:
    """The sides that a recipe sets, in px, at another size than its own; not those that are given."""
    size, own = given.get("data.size"), recipe.data.size
    if size is None or own is None or size == own:
        return {}
    sides = {"data.resize": recipe.data.resize, "augment.size": recipe.augment.size}
    return {field: round(side * size / own) for field, side in sides.items() if side and field not in given}


def settings(origin: Origin, given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the configuration that go on with what weights know of their origin, beside those that are given.

    Another network that is asked for keeps its own options, and another size is resized to as usual.
    """
    arch, rules = origin.arch, origin.preprocess
    found = {"data.channels": rules.channels, "data.fit": rules.fit, "data.background": rules.background}
    found |= {"data.normalize": "weights"}
    if given.get("model.name", arch["name"]) == arch["name"]:
        options = {"whiten_input": False, **{key: arch[key] for key in OPTIONS if key in arch}}
        found |= {"model.name": arch["name"], **{f"model.{key}": value for key, value in options.items()}}
    if "data.size" not in given:
        found |= {"data.size": rules.size, "data.resize": rules.resize}
    return {field: value for field, value in found.items() if field not in given}


def write_plan(path: Path, plan: Plan) -> None:
    """Write `config.json`: to a temporary file first, so that it is there whole or not at all."""
    write_json(path, {"format": FORMAT, **dataclasses.asdict(plan), "preprocess": plan.preprocess.to_dict()})


def read_plan(path: Path, request: Request, *, moved: bool = False) -> Plan:
    """The decisions of a run, which is to be that of `request`; with `moved` its data may lie elsewhere.

    Raises:
        ConfigError: the folder holds another run; the message says what differs.
        ModelFileError: the file is damaged or of a newer format.
    """
    plain = read_json(path)
    try:
        if plain["format"] != FORMAT:
            message = f"{path}: format {plain['format']}, this version reads {FORMAT}."
            raise ModelFileError(message, "Use another --out.")
        recorded = recorded_request(plain)
        differ = request.differences(recorded)
        if moved:
            differ.pop("data", None)
        if differ:
            raise ConfigError(
                f"{path.parent} holds a run of another command: {'; '.join(differ.values())}.",
                "Repeat that command to continue it, name another folder with --out, or delete this one.",
            )
        return Plan(
            request=recorded,
            config=configs.from_dict(plain["config"]),
            choices=tuple(Choice(**choice) for choice in plain["choices"]),
            facts=Facts(**plain["facts"]),
            notes=tuple(plain["notes"]),
            preprocess=Preprocess.from_dict(plain["preprocess"]),
            colours=plain["colours"] and Colours.from_dict(plain["colours"]),
            versions=plain["versions"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        message = f"{path}: not the record of a run, or damaged ({error!r})."
        raise ModelFileError(message, "Restore it, or name another folder with --out.") from error


def recorded_request(plain: Mapping[str, Any]) -> Request:
    """The request in a `config.json`.

    Raises:
        KeyError, TypeError: it is none, or of another version.
    """
    return Request(**{**plain["request"], "overrides": latest(plain["request"]["overrides"])})


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write JSON so that a crash leaves the old file or the new one, never a part.

    Raises:
        PlusxError: a full disk or another failure of the file system.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(value, indent=indent) + "\n")
    except OSError as error:
        message = f"{path}: cannot be written: {error.strerror or error}."
        raise PlusxError(message, "Check the disk and its space.") from error


def read_json(path: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """A JSON file of the run folder: an object with at least the keys `needed`.

    Raises:
        ModelFileError: the file is something else.
    """
    try:
        plain = json.loads(path.read_text())
        if not isinstance(plain, dict):
            raise ValueError("not an object")
        if missing := [key for key in needed if key not in plain]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (ValueError, OSError) as error:
        raise ModelFileError(f"{path}: cannot be read ({error}).", "Restore it, or take another folder.") from None
    return plain
