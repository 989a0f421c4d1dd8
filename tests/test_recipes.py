"""Recipes are valid for any data, and every automatic choice has a reason."""

import itertools
import math

import pytest

from plusx import config as configs
from plusx.config import Config, Facts
from plusx.engine.schedule import learning_factor
from plusx.errors import ConfigError
from plusx.models import create_model, list_models
from plusx.plan import Request, decide
from plusx.recipes import RECIPES, Machine, choose, default_recipe, describe, get_recipe

CPU, GPU = Machine(device="cpu", cores=2), Machine(device="cuda", cores=64)
FACTS = {
    f"{n:,} of {width}x{height}, {channels} channels, mirror {mirror}, {files}": Facts(
        n_train=n,
        n_val=n // 5 * files,
        n_classes=3,
        width=width,
        height=height,
        channels=channels,
        mirror=mirror,
        benchmark=not files,
        files=files,
    )
    for n, (width, height), (channels, mirror), files in itertools.product(
        (2, 900, 50_000, 1_300_000),
        ((1, 1), (8, 8), (32, 32), (64, 65), (500, 375), (4000, 100)),
        ((1, None), (3, True), (3, False)),
        (True, False),
    )
}
DIGITS = next(facts for facts in FACTS.values() if (facts.n_train, facts.width) == (900, 8))


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_any_data(name: str, machine: Machine) -> None:
    for label, facts in FACTS.items():
        config, choices = choose(RECIPES[name](facts), facts, machine)
        assert config.recipe == name, label
        left = [field for field, value in resolved(config).items() if value is None]
        allowed = {"data.root", "data.val_fraction", "model.shortcut", "model.stride_in", "model.stem", "model.width"}
        allowed |= {"model.norm_order"}
        allowed |= {"optim.clip_norm", "schedule.steps", "engine.checkpoint_steps", "engine.threads"}
        assert set(left) <= allowed, label
        assert all(choice.reason and choice.value is not None for choice in choices), label
        assert {choice.field: choice.value for choice in choices}.items() <= resolved(config).items(), label
        assert config.data.size is not None, label
        assert config.data.resize is not None, label
        assert config.data.size <= config.data.resize, label


def resolved(config: Config) -> dict[str, object]:
    return {f"{name}.{k}": v for name, section in configs.sections(config).items() for k, v in vars(section).items()}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_where_they_come_from(name: str) -> None:
    doc = next(row["doc"] for row in describe() if row["name"] == name)
    assert "Source: " in doc
    assert "Cost" in doc
    assert "result" in doc


@pytest.mark.parametrize(
    ("width", "weights", "size", "wanted"),
    [
        (8, False, None, "small"),
        (64, False, None, "small"),
        (65, False, None, "photo"),
        (500, False, None, "photo"),
        (500, False, 32, "small"),
        (8, False, 128, "photo"),
        (500, True, None, "photo-finetune"),
        (8, True, None, "photo-finetune"),
    ],
)
def test_default_recipe(width: int, weights: bool, size: int | None, wanted: str) -> None:
    facts = next(facts for facts in FACTS.values() if facts.n_train == 900)
    choice = default_recipe(configs.dataclasses.replace(facts, width=width, height=8), weights, size)
    assert choice.value == wanted
    assert choice.reason


def test_a_named_recipe_is_no_choice() -> None:
    assert decide(Request(data="x"), DIGITS)[1][0].field == "recipe"
    config, choices = decide(Request(data="x", recipe="photo"), DIGITS)
    assert config.recipe == "photo"
    assert "recipe" not in [choice.field for choice in choices]


def test_what_is_set_is_no_choice() -> None:
    words = ("augment.flip=random", "data.workers=3", "engine.device=cpu", "model.stem=imagenet")
    config, choices = decide(Request(data="x", model="resnet20", size=12, overrides=words), DIGITS)
    fields = {choice.field for choice in choices}
    assert not fields & {"augment.flip", "data.workers", "engine.device", "model.stem", "model.name", "data.size"}
    assert (config.augment.flip, config.data.workers, config.model.name, config.data.size) == (
        "random",
        3,
        "resnet20",
        12,
    )
    assert config.model.width is None, "a network that is named keeps its own width"


def test_a_chosen_device_decides_the_size() -> None:
    facts = next(facts for facts in FACTS.values() if facts.width == 500)
    sizes = [
        choose(configs.replace(RECIPES["photo"](facts), {"engine.device": device}), facts, GPU)[0].data.size
        for device in ("cpu", "cuda")
    ]
    assert sizes == [128, 224]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epochs", [1, 3, 200])
def test_epochs_rescale_the_schedule(name: str, epochs: int) -> None:
    """The rate at a share of the run is the same whatever its length."""
    own = RECIPES[name](DIGITS)
    config, _ = decide(Request(data="x", recipe=name, epochs=epochs), DIGITS)
    assert config.schedule.epochs == epochs
    assert (config.schedule.warmup, config.schedule.name) == (own.schedule.warmup, own.schedule.name)
    new, old = 1000 * epochs, 1000 * (own.schedule.epochs or 0)  # steps
    for share in (0.0, 0.01, 0.1, 0.5, 0.99):
        factor, wanted = (
            learning_factor(s, round(share * n), n) for s, n in ((config.schedule, new), (own.schedule, old))
        )
        assert math.isclose(factor, wanted, abs_tol=0.03)


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match="recipe: got 'photos', expected one of small, photo, photo-finetune"):
        get_recipe("photos")


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("variant", ["model.norm=none", "model.norm_order=after"])
def test_no_scale_is_zeroed_that_does_not_end_a_branch(recipe: str, variant: str) -> None:
    config, _ = decide(Request(data="x", recipe=recipe, model="resnet20", overrides=(variant,)), DIGITS)
    assert config.model.zero_init_last is False


@pytest.mark.parametrize(
    "name", [*list_models()[:3], "resnet9", "plain20", "preresnet20", "resmlp-2x32", "plainmlp-2x32"]
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_choices_suit_every_family(name: str, recipe: str) -> None:
    """What is chosen for a network is something that it has."""
    config, _ = decide(Request(data="x", recipe=recipe, model=name), DIGITS)
    m = config.model
    assert m.name == name
    create_model(
        name,
        3,
        in_channels=config.data.channels or 0,
        size=config.data.size,
        width=m.width,
        stem=m.stem,
        init=m.init,
        zero_init_last=bool(m.zero_init_last),
    )
