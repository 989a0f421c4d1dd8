"""The configuration: checked as a whole, to and from JSON, and `--set`."""

import dataclasses
import json
import typing
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from plusx import config as configs
from plusx.config import SECTIONS, Config, Facts
from plusx.errors import ConfigError
from plusx.plan import Request
from plusx.recipes import small

FACTS = Facts(
    n_train=1000,
    n_val=100,
    n_classes=10,
    width=32,
    height=32,
    channels=3,
    mirror=True,
    benchmark=False,
    files=True,
)
CONFIG = small(FACTS)
SET: dict[str, tuple[str, Any]] = {
    "whole number": ("engine.batch=1_000", 1000),
    "whole number, auto": ("engine.batch=auto", None),
    "number": ("optim.lr=5e-2", 0.05),
    "number without a point": ("optim.lr=1", 1.0),
    "number, auto": ("optim.clip_norm=", None),
    "truth": ("engine.compile=True", True),
    "truth, small": ("optim.nesterov=false", False),
    "truth, auto": ("model.zero_init_last=none", None),
    "text": ("data.root=/a=b/c", "/a=b/c"),
    "text, auto": ("data.root=auto", None),
    "choice": ("engine.precision=auto", "auto"),
    "choice called none": ("augment.flip=none", "none"),
    "choice, auto": ("augment.flip=auto", None),
    "two numbers": ("augment.area=0.5,1", (0.5, 1.0)),
    "two whole numbers": ("augment.shorter_side=64,80", (64, 80)),
    "any number of numbers": ("schedule.milestones=0.5,0.75,0.9", (0.5, 0.75, 0.9)),
    "no numbers": ("schedule.milestones=", ()),
}
UNPARSED = {
    "optim.lr=abc": "optim.lr: got 'abc', expected number",
    "optim.lr=": "optim.lr: got '', expected number",
    "engine.batch=1.5": "engine.batch: got '1.5', expected whole number or auto",
    "engine.batch=many": "engine.batch: got 'many', expected whole number or auto",
    "engine.compile=yes": "engine.compile: got 'yes', expected true or false",
    "augment.area=a,b": "augment.area: got 'a,b', expected numbers a,b",
    "schedule.milestones=x": "schedule.milestones: got 'x', expected numbers a,b,…",
    "optim.lrr=1": "optim.lrr: no such field, did you mean optim.lr?",
    "lr=1": "lr: no such field",
    "optim.lr": "'optim.lr': got no value, expected section.field=value",
}
UNFIT = {
    "optim.lr=-1": "optim.lr: got -1.0, expected at least 0 and below 1e+35",
    "optim.lr=nan": "optim.lr: got nan, expected a finite number",
    "optim.lr=inf": "optim.lr: got inf, expected a finite number",
    "optim.name=lion": "optim.name: got 'lion', expected one of sgd, adamw",
    "optim.label_smoothing=1": "optim.label_smoothing: got 1.0, expected at least 0 and below 1",
    "data.val_fraction=1": "data.val_fraction: got 1.0, expected at least 0 and below 1 or auto",
    "data.background=256": "data.background: got 256, expected at least 0 and below 256",
    "data.max_pixels=178956971": "data.max_pixels: got 178956971, expected at least 1 and below 178,956,971",
    "data.channels=2": "data.channels: got 2, expected one of 1, 3 or auto",
    "data.normalize=pixels": "data.normalize: got 'pixels', expected one of channel, imagenet, weights, pixel, none",
    "engine.batch=0": "engine.batch: got 0, expected at least 1 or auto",
    "engine.threads=1025": "engine.threads: got 1025, expected at least 1 and below 1,025 or auto",
    "optim.lr=1e308": "optim.lr: got 1e+308, expected at least 0 and below 1e+35",
    "optim.momentum=1": "optim.momentum: got 1.0, expected at least 0 and below 1",
    "optim.momentum=0": "optim.nesterov: needs optim.momentum over 0",
    "optim.clip_norm=0": "optim.clip_norm: got 0.0, expected at least 1e-09 or auto",
    "model.width=65537": "model.width: got 65537, expected at least 1 and below 65,537 or auto",
    "engine.ema=1": "engine.ema: got 1.0, expected at least 0 and below 1",
    "engine.device=tpu": "engine.device: got 'tpu', expected cpu, cuda, cuda:1, …, mps or auto",
    "schedule.warmup=1.5": "schedule.warmup: got 1.5, expected at least 0 and below 1",
    "schedule.milestones=0.5,2": "schedule.milestones: got (0.5, 2.0), expected at least 0 and below 1",
    "schedule.milestones=0.9,0.5": "schedule.milestones: got (0.9, 0.5), expected rising shares of the run",
    "augment.area=0.5": "augment.area: got (0.5,), expected 2 values",
    "augment.area=0.9,0.5": "augment.area: got (0.9, 0.5), expected 0 < low <= high <= 1",
    "augment.shorter_side=9,8": "augment.shorter_side: got (9, 8), expected low <= high",
    "augment.flip=vertical": "augment.flip: got 'vertical', expected one of none, random, alternate or auto",
}


def test_cuda_graphs_need_a_gpu_and_whole_batches() -> None:
    asked = ("engine.cuda_graphs=true", "engine.device=cpu", "engine.accumulate=2", "engine.compile=true")
    found = message(lambda: changed(*asked))
    assert found.count("engine.cuda_graphs: needs") == 3
    for needed in ("engine.device=cuda", "engine.accumulate=1", "engine.compile=false"):
        assert f"engine.cuda_graphs: needs {needed}" in found
    assert changed("engine.cuda_graphs=true", "engine.device=cuda:1").engine.cuda_graphs


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.hint
    return caught.value.message


def changed(*texts: str) -> Config:
    return configs.replace(CONFIG, configs.parse_overrides(texts))


@pytest.mark.parametrize("case", SET)
def test_set_parses_every_type(case: str) -> None:
    text, wanted = SET[case]
    (found,) = configs.parse_overrides([text]).values()
    assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize("text", UNPARSED)
def test_set_refuses(text: str) -> None:
    assert message(lambda: configs.parse_overrides([text])) == UNPARSED[text]


@pytest.mark.parametrize("text", UNFIT)
def test_values_out_of_bounds(text: str) -> None:
    assert message(lambda: changed(text)) == UNFIT[text]


def test_bounds_are_told_wherever_set_is_read() -> None:
    for text in ("data.val_fraction=1", "engine.batch=0", "augment.area=0.5", "optim.name=lion"):
        assert message(lambda text=text: configs.parse_overrides([text])) == UNFIT[text]


def test_a_field_that_changes_nothing_is_refused() -> None:
    fields = ("data.root", "engine.on_bad_image")
    assert configs.taken(["data.root=/a"], fields, "reading", "Leave it.") == {"data.root": "/a"}
    with pytest.raises(ConfigError) as caught:
        configs.taken(["data.root=/a", "optim.lr=1"], fields, "reading", "Leave it.")
    assert str(caught.value) == "--set optim.lr: reading takes data.root, engine.on_bad_image. Leave it."


def test_every_problem_is_told_at_once() -> None:
    assert message(lambda: configs.parse_overrides(UNPARSED)) == "; ".join(UNPARSED.values())
    fields = [
        "optim.lr=-1",
        "data.background=256",
        "engine.ema=1",
        "engine.batch=0",
        "data.channels=2",
        "engine.device=tpu",
    ]
    assert sorted(message(lambda: changed(*fields)).split("; ")) == sorted(UNFIT[text] for text in fields)
    between = ["augment.shorter_side=9,8", "augment.area=0.9,0.5", "schedule.milestones=0.9,0.5"]
    assert sorted(message(lambda: changed(*between)).split("; ")) == sorted(UNFIT[text] for text in between)


def test_a_crop_may_always_be_the_whole_image() -> None:
    assert changed("augment.area=1,1").augment.area == (1, 1)


def test_only_sgd_needs_momentum_for_nesterovs() -> None:
    assert CONFIG.optim.nesterov
    assert changed("optim.name=adamw", "optim.momentum=0").optim.momentum == 0


def test_a_frozen_body_keeps_its_statistics() -> None:
    wanted = "engine.precise_bn: got 200, expected 0 with optim.freeze=body, whose statistics stay as given"
    assert message(lambda: changed("optim.freeze=body", "engine.precise_bn=200")) == wanted


def test_a_mean_image_has_a_largest_side() -> None:
    changed("data.normalize=pixel", "data.size=512")
    changed("data.size=513")
    limit = "data.size: got 513, expected at most 512 with data.normalize=pixel, whose mean image is in the model file"
    assert message(lambda: changed("data.normalize=pixel", "data.size=513")) == limit


def test_training_crops_of_another_size_must_be_crops_of_photos() -> None:
    changed("augment.size=24", "augment.crop=resized", "data.mode=photo")
    wrong = message(
        lambda: changed("augment.size=24", "augment.crop=translate", "data.mode=small", "data.normalize=pixel")
    )
    needs = ["data.mode=photo", "augment.crop=resized or scale", "data.normalize other than pixel"]
    assert wrong == "; ".join(f"augment.size: needs {need}" for need in needs)


def test_copies_are_of_photos_and_no_smaller_than_their_crops() -> None:
    photo = ("data.mode=photo", "augment.crop=scale", "data.size=24")
    changed("data.copies=24", *photo)
    changed("data.copies=0", "data.mode=small", "augment.crop=none")
    changed("data.copies=16", "augment.size=16", *photo)
    wrong = message(lambda: changed("data.copies=23", "data.mode=small", "augment.crop=translate", "data.size=24"))
    needs = ["data.mode=photo", "augment.crop=resized or scale", "24 px or more, the side of training crops"]
    assert wrong == "; ".join(f"data.copies: needs {need}" for need in needs)
    assert "needs 25 px or more" in message(lambda: changed("data.copies=24", "augment.size=25", *photo))


def test_a_batch_has_room_for_repeats() -> None:
    changed("augment.repeats=4", "engine.batch=16")
    wrong = "augment.repeats: got 4, expected at most a quarter of engine.batch (15)"
    assert message(lambda: changed("augment.repeats=4", "engine.batch=15")) == wrong


def test_length_is_in_epochs_or_in_steps() -> None:
    both = message(lambda: configs.replace(CONFIG, {"schedule.steps": 5}))
    assert both == "schedule: got epochs and steps both or neither, expected one of them"
    assert message(lambda: configs.replace(CONFIG, {"schedule.epochs": None})) == both


@pytest.mark.parametrize(
    ("request_", "epochs", "steps"),
    [
        (Request(data="x", epochs=3), 3, None),
        (Request(data="x", overrides=("schedule.steps=7",)), None, 7),
        (Request(data="x", epochs=3, overrides=("schedule.steps=auto",)), 3, None),
        (Request(data="x", overrides=("schedule.epochs=4",)), 4, None),
    ],
)
def test_steps_replace_epochs(request_: Request, epochs: int | None, steps: int | None) -> None:
    schedule = configs.replace(CONFIG, request_.changes()).schedule
    assert (schedule.epochs, schedule.steps) == (epochs, steps)


def test_epochs_and_steps_together_are_refused() -> None:
    request = Request(data="x", epochs=3, overrides=("schedule.steps=7",))
    assert message(request.changes) == "schedule: got 3 epochs and 7 steps, expected one of them."


def test_flags_are_fields() -> None:
    request = Request(data="x", model="resnet8", epochs=3, size=16, seed=5, overrides=("schedule.epochs=3",))
    config = configs.replace(CONFIG, request.changes())
    assert (config.model.name, config.schedule.epochs, config.data.size, config.seed) == ("resnet8", 3, 16, 5)


def test_a_seed_has_63_bits() -> None:
    wanted = "seed: got 9223372036854775808, expected at least 0 and below 9.22337204e+18"
    assert message(lambda: configs.replace(CONFIG, {"seed": 2**63})) == wanted


def test_one_text_may_stand_alone() -> None:
    assert configs.parse_overrides("optim.lr=0.5") == {"optim.lr": 0.5}
    assert configs.several("optim.lr=0.5") == configs.several(["optim.lr=0.5"]) == ("optim.lr=0.5",)


def test_arguments_of_another_type_are_told() -> None:
    assert message(lambda: Request(data="x", size="16")) == "size: got '16', expected whole number."  # type: ignore[arg-type]
    assert message(lambda: Request(data="x", epochs=True)) == "epochs: got True, expected whole number."


def test_numbers_of_numpy_are_numbers() -> None:
    request = Request(data="x", epochs=np.int64(3), size=np.uint8(16), seed=np.int32(0))  # type: ignore[arg-type]
    assert [type(value) for value in (request.epochs, request.size, request.seed)] == [int, int, int]
    assert not request.differences(Request(data="x", epochs=3, size=16, seed=0))


def test_overrides_that_are_no_texts_are_told() -> None:
    told = message(lambda: configs.parse_overrides([("optim.lr", 0.1)]))  # type: ignore[list-item]
    assert "('optim.lr', 0.1): got no value, expected section.field=value" in told


def test_a_flag_and_set_that_differ_are_refused() -> None:
    request = Request(data="x", model="resnet8", overrides=("model.name=resnet14",))
    assert message(request.changes) == "model.name: got 'resnet8' and 'resnet14', expected one value"


def test_a_field_has_one_value() -> None:
    wanted = "optim.lr: got 0.1 and 0.2, expected one value"
    assert message(lambda: configs.parse_overrides(["optim.lr=0.1", "optim.lr=0.2"])) == wanted
    both = message(lambda: configs.parse_overrides(["optim.lr=0.1", "optim.lrr=1", "optim.lr=0.2"]))
    assert both == f"optim.lrr: no such field, did you mean optim.lr?; {wanted}"
    assert configs.parse_overrides(["optim.lr=0.1", "engine.batch=4", "optim.lr=0.10"])["optim.lr"] == 0.1


def test_bounds_of_flags_are_those_of_fields() -> None:
    found = message(Request(data="x", epochs=0, size=0, seed=-1, overrides=("engine.batch=0",)).changes)
    assert found.split("; ") == [
        "schedule.epochs: got 0, expected at least 1 or auto",
        "data.size: got 0, expected at least 1 and below 8,193 or auto",
        "seed: got -1, expected at least 0 and below 9.22337204e+18",
        UNFIT["engine.batch=0"],
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            Request(data="x", overrides=("optim.lr=0.1", "engine.batch=32")),
            Request(data="x", overrides=("engine.batch=32", "optim.lr=0.10")),
        ),
        (Request(data="x", epochs=1), Request(data="x", overrides=("schedule.epochs=1",))),
        (Request(data="x", epochs=1), Request(data="x", epochs=1, overrides=("schedule.steps=auto",))),
        (Request(data="x", model="resnet8"), Request(data="x", overrides=("model.name=resnet8",))),
        (Request(data="x", seed=0), Request(data="x")),
        (Request(data="x", overrides=("engine.threads=2",)), Request(data="x")),
        (Request(data="x", weights="runs/a"), Request(data="./x", weights="runs/b/../a/")),
    ],
)
def test_a_request_can_be_spelled_in_many_ways(one: Request, other: Request) -> None:
    assert one.differences(other) == other.differences(one) == {}


def test_a_named_data_set_is_not_the_folder_of_that_name() -> None:
    differ = Request(data="digits").differences(Request(data="./digits"))
    assert differ == {"data": "data was './digits', now 'digits'"}


@pytest.mark.parametrize(
    "override",
    [
        *("engine.precision=fp32", "engine.batch=7", "engine.accumulate=2", "engine.channels_last=false"),
        *("engine.select=last", "data.val_fraction=0.5", "data.split_seed=1", "augment.flip=none"),
    ],
)
def test_what_may_change_the_weights_makes_another_run(override: str) -> None:
    assert Request(data="x", overrides=(override,)).differences(Request(data="x")).keys() == {override.split("=")[0]}


def test_what_differs_is_told_by_field() -> None:
    old = Request(data="x", recipe="small", epochs=2, overrides=("optim.lr=0.1", "data.size=auto"))
    new = Request(data="x", weights="w.pth", seed=3, overrides=("optim.lr=0.2", "schedule.steps=5"))
    assert new.differences(old) == {
        "recipe": "recipe was 'small', now not given",
        "weights": "weights was not given, now 'w.pth'",
        "seed": "seed was 0, now 3",
        "schedule.epochs": "schedule.epochs was 2, now not given",
        "schedule.steps": "schedule.steps was not given, now 5",
        "optim.lr": "optim.lr was 0.1, now 0.2",
        "data.size": "data.size was None, now not given",
    }


def test_json_and_back() -> None:
    texts = {text.partition("=")[0]: text for text, _ in SET.values() if "none" not in text}
    config = changed(*texts.values())
    plain = json.loads(json.dumps(configs.to_dict(config)))
    assert configs.from_dict(plain) == config
    assert plain.keys() == {"recipe", "seed", *SECTIONS}


def without(plain: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in plain.items() if name not in names}


PLAIN = configs.to_dict(CONFIG)


@pytest.mark.parametrize(
    ("plain", "problems"),
    [
        (without(PLAIN, "recipe"), ["recipe: missing"]),
        ({**PLAIN, "speed": 1}, ["speed: no such section"]),
        ({**PLAIN, "optim": without(PLAIN["optim"], "lr", "name")}, ["optim.name: missing", "optim.lr: missing"]),
        ({**PLAIN, "optim": {**PLAIN["optim"], "rate": 1}}, ["optim.rate: no such field"]),
        ({**PLAIN, "seed": "x"}, ["seed: got 'x', expected whole number"]),
        ({**PLAIN, "optim": {**PLAIN["optim"], "lr": "x"}}, ["optim.lr: got 'x', expected number"]),
        ({**PLAIN, "optim": {**PLAIN["optim"], "lr": True}}, ["optim.lr: got True, expected number"]),
        (
            {**PLAIN, "data": {**PLAIN["data"], "channels": True}},
            ["data.channels: got True, expected one of 1, 3 or auto"],
        ),
        (
            {**PLAIN, "schedule": {**PLAIN["schedule"], "warmup": "x", "milestones": 3}},
            ["schedule.warmup: got 'x', expected number", "schedule.milestones: got 3, expected any number of values"],
        ),
    ],
)
def test_json_of_another_make(plain: dict[str, Any], problems: Iterable[str]) -> None:
    assert message(lambda: configs.from_dict(plain)) == "; ".join(problems)


def test_every_field_is_documented() -> None:
    rows = configs.fields()
    assert (
        len({row["field"] for row in rows}) == len(rows) == sum(len(dataclasses.fields(s)) for s in SECTIONS.values())
    )
    assert all(row["doc"] and row["type"] and row["default"] for row in rows)
    takes = {row["field"]: row["type"] for row in rows}
    assert takes["optim.lr"] == "number"
    assert takes["engine.batch"] == "whole number or auto"
    assert takes["schedule.milestones"] == "numbers a,b,…"
    assert takes["optim.name"] == "sgd|adamw"
    default = {row["field"]: row["default"] for row in rows}
    fields = ("optim.lr", "engine.batch", "data.background", "augment.area")
    assert [default[field] for field in fields] == ["recipe", "auto", "255", "(0.08, 1.0)"]


def test_every_field_fits_set() -> None:
    """Each field's own value, written as a person would, is read back as it was."""
    for name, section in configs.sections(CONFIG).items():
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else "auto" if value is None else str(value)
            assert configs.parse_overrides([f"{name}.{field.name}={text}"]) == {f"{name}.{field.name}": value}


def test_only_recipes_give_hyper_parameters() -> None:
    required = {
        f"{name}.{field.name}"
        for name, section in SECTIONS.items()
        for field in dataclasses.fields(section)
        if field.default is dataclasses.MISSING
    }
    assert required == {"augment.crop", "optim.name", "optim.lr", "optim.weight_decay", "schedule.name"}
    assert all(typing.get_type_hints(section) for section in SECTIONS.values())
