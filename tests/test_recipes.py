"""Recipes are valid for any data, and every automatic choice has a reason."""

import itertools
import math
import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from plusx import config as configs
from plusx.cli import app
from plusx.config import Config, Facts
from plusx.engine.schedule import SoFar, learning_factor
from plusx.errors import ConfigError
from plusx.initial import make_network
from plusx.models import create_model, list_models, resolve
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
CIFAR = next(facts for facts in FACTS.values() if (facts.n_train, facts.width, facts.files) == (50_000, 32, False))
IMAGENET = next(facts for facts in FACTS.values() if (facts.n_train, facts.width) == (1_300_000, 500))
DIGITS = next(facts for facts in FACTS.values() if (facts.n_train, facts.width) == (900, 8))


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_any_data(name: str, machine: Machine) -> None:
    for label, facts in FACTS.items():
        config, choices = choose(RECIPES[name](facts), facts, machine, resolve)
        assert config.recipe == name, label
        left = [field for field, value in resolved(config).items() if value is None]
        allowed = {"data.root", "data.val_fraction", "model.shortcut", "model.stride_in", "model.stem", "model.width"}
        allowed |= {"optim.clip_norm", "engine.checkpoint_steps", "engine.threads", "schedule.epochs", "schedule.steps"}
        allowed |= {"model.norm_order", "augment.size", "data.copies"}
        allowed |= {"augment.shorter_side"} if config.augment.crop != "scale" else set()
        allowed |= {"augment.pad"} if config.augment.crop != "translate" else set()
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
    command = re.search(r"Command: `(?:torchrun .*? -m )?plusx train (.*?)`(.)", doc)
    assert command, doc
    given = get_command(app).commands["train"].make_context("train", shlex.split(command[1])).params
    assert given["recipe"] == (None if command[2] == ";" else name)


def test_the_result_that_imagenet_paper_expects_is_that_of_the_shortcut_that_its_network_has() -> None:
    doc = next(row["doc"] for row in describe() if row["name"] == "imagenet-paper")
    with torch.device("meta"):
        shortcut = create_model("resnet34").arch["shortcut"]
    assert {"A": "25.03", "B": "24.52", "C": "24.19"}[shortcut] + f" % (34 layers, option {shortcut}" in doc


@pytest.mark.parametrize("name", ["small", "photo", "cifar10-modern"])
def test_blocks_that_start_as_the_identity_are_a_departure_that_is_told(name: str) -> None:
    config, _ = choose(RECIPES[name](CIFAR), CIFAR, CPU, resolve)
    assert config.model.zero_init_last
    table = (Path(__file__).parents[1] / "docs" / "design.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| last batch-norm scale"))
    assert f"`{name}`" in row


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


@pytest.mark.parametrize(
    ("aspect", "recipe", "wanted"), [(3, "small", "pad"), (1.07, "small", "crop"), (1.33, "photo", "crop")]
)
def test_small_images_are_seen_whole(aspect: float, recipe: str, wanted: str) -> None:
    """A crop would leave a third of an image of three squares."""
    facts = configs.dataclasses.replace(DIGITS, aspect=aspect)
    assert decide(Request(data="x", recipe=recipe), facts)[0].data.fit == wanted


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
        choose(configs.replace(RECIPES["photo"](facts), {"engine.device": device}), facts, GPU, resolve)[0].data.size
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
    new, old = 10_000 * epochs, own.schedule.steps or 10_000 * (own.schedule.epochs or 0)  # steps
    for share in (0.0, 0.01, 0.1, 0.5, 0.99):
        factor, wanted = (
            learning_factor(s, round(share * n), n) for s, n in ((config.schedule, new), (own.schedule, old))
        )
        assert math.isclose(factor, wanted, abs_tol=0.03)


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match=rf"recipe: got 'photos', expected one of {', '.join(RECIPES)}\."):
        get_recipe("photos")


def test_the_recipe_suits_the_size_however_it_is_set() -> None:
    for given in ({"size": 96}, {"overrides": ("data.size=96",)}):
        config, choices = decide(Request(data="x", **given), DIGITS)  # type: ignore[arg-type]
        assert config.recipe == "photo"
        assert choices[0].reason.startswith("the size is set to 96 px")


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
    assert config.model.name == name
    assert config.data.channels is not None
    make_network(config, 3)


@pytest.mark.parametrize(
    ("model", "lows"),
    [
        *(("resnet20", 0), ("plain56", 0), ("resnet110", 400), ("plain110", 400), ("resnet1202", 400)),
        *(("resmlp-53x64", 0), ("plainmlp-54x64", 400)),  # of 108 and 110 layers
    ],
)
def test_the_papers_cifar10_rates_at_the_papers_steps(model: str, lows: int) -> None:
    config, _ = decide(Request(data="cifar10", model=model, recipe="cifar10-paper"), CIFAR)
    total = config.schedule.steps
    assert total == 64_000

    def rate(step: int) -> float:
        return config.optim.lr * learning_factor(config.schedule, step, 64_000, SoFar(warm=step >= lows))

    assert rate(0) == pytest.approx(0.01 if lows else 0.1)
    steps = [(400, 0.1), (31_999, 0.1), (32_000, 0.01), (47_999, 0.01), (48_000, 0.001), (63_999, 0.001)]
    assert [rate(step) for step, _ in steps] == [pytest.approx(wanted) for _, wanted in steps]
    assert (config.engine.batch, config.optim.momentum, config.optim.nesterov) == (128, 0.9, False)
    assert (config.optim.weight_decay, config.optim.decay) == (1e-4, "all")
    assert (config.augment.crop, config.augment.pad, config.augment.flip) == ("translate", 4, "random")
    assert (config.data.normalize, config.engine.select, config.engine.precision) == ("pixel", "last", "fp32")
    assert not config.model.zero_init_last
    assert not config.model.whiten_stem


def test_torchvisions_second_training_of_resnet50() -> None:
    """Every option of its published command."""
    config, _ = decide(Request(data="imagenet", recipe="imagenet-modern"), IMAGENET)
    assert (config.model.name, config.data.size, config.data.resize, config.augment.size) == (
        "resnet50-v1.5",
        224,
        232,
        176,
    )
    assert (config.augment.policy, config.augment.erase, config.augment.repeats) == ("trivial", 0.1, 4)
    assert (config.augment.mixup, config.augment.cutmix, config.optim.label_smoothing) == (0.2, 1.0, 0.1)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.decay) == (0.5, 2e-5, "weights")
    assert (config.engine.batch, config.schedule.name, config.schedule.epochs) == (1024, "cosine", 600)
    assert config.schedule.warmup * 600 == pytest.approx(5)
    every_32nd = 1 - (1 - 0.99998) * 1024 * 32 / 600  # what `--model-ema-decay` comes to there
    assert config.engine.ema == pytest.approx(every_32nd ** (1 / 32), abs=1e-6)


def test_the_papers_imagenet_training() -> None:
    config, _ = decide(Request(data="imagenet", recipe="imagenet-paper"), IMAGENET)
    assert (config.data.size, config.data.resize, config.data.normalize) == (224, 256, "pixel")
    assert (config.augment.crop, config.augment.shorter_side, config.augment.flip) == ("scale", (256, 480), "random")
    assert (config.augment.colour, config.augment.colours) == (0.1, "train")
    assert (config.engine.batch, config.optim.lr, config.optim.weight_decay) == (256, 0.1, 1e-4)
    assert config.schedule.steps == 600_000
    plateau, _ = decide(Request(data="x", recipe="imagenet-paper", overrides=("schedule.name=plateau",)), IMAGENET)
    assert learning_factor(plateau.schedule, 9, 600_000, SoFar(errors=[0.5] * 6)) == pytest.approx(0.1)


def sides(recipe: str, *overrides: str, size: int | None = None) -> tuple[object, object, object]:
    config, _ = decide(Request(data="x", recipe=recipe, size=size, overrides=overrides), IMAGENET)
    return config.data.resize, config.augment.shorter_side, config.augment.size


def test_another_size_keeps_a_recipes_proportions() -> None:
    assert sides("imagenet-paper", size=128) == (146, (146, 274), None)
    assert sides("imagenet-modern", size=288) == (298, None, 226)
    assert sides("imagenet-modern", "data.resize=300", "augment.size=200", size=288) == (300, None, 200)
    assert sides("imagenet-paper", "augment.shorter_side=130,140", size=128) == (146, (130, 140), None)
    assert sides("photo", "augment.crop=scale", size=128) == (146, (146, 274), None)
    assert sides("photo", "augment.crop=scale", "augment.size=112", size=224) == (256, (128, 240), 112)
    assert sides("imagenet-modern", size=224) == (232, None, 176)


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plusx.plan.own_cores", lambda: 6)
    for processes, workers in (("1", 6), ("2", 3), ("8", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert decide(Request(data="x", recipe="photo"), IMAGENET)[0].data.workers == workers


def chosen(field: str, recipe: str, facts: Facts, machine: Machine = CPU, **given: object) -> object:
    changes = {name.replace("__", "."): value for name, value in given.items()}
    config, _ = choose(configs.replace(RECIPES[recipe](facts), changes), facts, machine, resolve)
    return resolved(config)[field]


def other(facts: Facts, **changes: object) -> Facts:
    return configs.dataclasses.replace(facts, **changes)


@pytest.mark.parametrize(
    ("recipe", "width", "height", "machine", "wanted"),
    [
        *(("small", 8, 6, CPU, 8), ("small", 5, 4, CPU, 8), ("small", 28, 20, CPU, 28), ("small", 500, 40, CPU, 64)),
        *(("photo", 500, 375, GPU, 224), ("photo", 500, 375, CPU, 128), ("photo", 500, 129, GPU, 128)),
        *(("photo", 500, 100, CPU, 96), ("photo", 4000, 9, GPU, 32)),
    ],
)
def test_the_input_suits_images_and_device(recipe: str, width: int, height: int, machine: Machine, wanted: int) -> None:
    facts = other(IMAGENET, width=width, height=height)
    assert chosen("data.size", recipe, facts, machine) == wanted
    margin = round(wanted / 0.875) if recipe == "photo" else wanted
    assert chosen("data.resize", recipe, facts, machine) == margin


def test_images_stay_in_memory_up_to_four_gib() -> None:
    for n, wanted in ((349_525, "small"), (349_526, "photo")):  # times 64 x 64 x 3 bytes
        facts = other(CIFAR, n_train=n, width=64, height=9, channels=3)
        assert chosen("data.mode", "small", facts, data__mode=None) == wanted
    assert chosen("data.mode", "small", other(DIGITS, width=65), data__mode=None) == "photo"


@pytest.mark.parametrize(
    ("channels", "mirror", "small", "photo"),
    [
        *((1, None, "none", "none"), (1, True, "alternate", "random"), (1, False, "none", "none")),
        *((3, None, "alternate", "random"), (3, True, "alternate", "random"), (3, False, "none", "none")),
    ],
)
def test_images_are_mirrored_where_that_keeps_the_label(
    channels: int, mirror: bool | None, small: str, photo: str
) -> None:
    facts = other(CIFAR, channels=channels, mirror=mirror)
    assert [chosen("augment.flip", recipe, facts) for recipe in ("small", "photo")] == [small, photo]


def test_a_gpu_and_many_photos_get_a_deeper_network() -> None:
    few, many = (other(IMAGENET, n_train=n) for n in (19_999, 20_000))
    names = [chosen("model.name", "photo", facts, machine) for facts in (few, many) for machine in (CPU, GPU)]
    assert names == ["resnet18", "resnet18", "resnet18", "resnet50-v1.5"]
    assert chosen("model.name", "small", CIFAR, GPU) == "resnet11"


def test_workers_are_one_a_core_up_to_sixteen() -> None:
    found = [chosen("data.workers", "photo", IMAGENET, Machine("cpu", cores)) for cores in (1, 16, 17)]
    assert found == [1, 16, 16]
    assert chosen("data.workers", "small", CIFAR) == 0


def test_large_photos_get_copies_of_twice_the_crop() -> None:
    def copies(width: int, height: int, recipe: str = "photo", machine: Machine = CPU, **given: object) -> object:
        files = bool(given.pop("files", True))
        return chosen("data.copies", recipe, other(IMAGENET, width=width, height=height, files=files), machine, **given)

    sides = ((3000, 1024), (1024, 3000), (3000, 1023), (1023, 3000))
    assert [copies(*each) for each in sides] == [256, 256, None, None]
    assert [copies(4000, 3000, machine=GPU), copies(2000, 1791, machine=GPU), copies(500, 375)] == [448, None, None]
    assert [copies(4000, 3000, schedule__epochs=epochs) for epochs in (3, 4)] == [None, 256]
    assert copies(4000, 3000, schedule__epochs=None, schedule__steps=100) == 256
    assert copies(4000, 3000, augment__crop="scale") is None
    assert copies(4000, 3000, augment__crop="translate") is None
    assert copies(4000, 3000, machine=Machine("cpu", 2, 5 << 30)) == 0
    assert copies(4000, 3000, augment__size=176) == 352
    assert copies(4000, 3000, data__copies=0) == 0
    assert copies(4000, 3000, files=False) is None
    assert copies(4000, 3000, "small", data__size=32) is None
    assert copies(4000, 3000, "imagenet-paper") == 0


@pytest.mark.parametrize(
    ("size", "told"),
    [(224, "900.0 MB"), (128, "225.0 MB"), (64, "56.2 MB")],  # 0.6 bytes of 1000x750, 500x375 and 250x187.5 px
)
def test_the_disk_that_copies_take_is_told_and_must_be_there(size: int, told: str) -> None:
    facts = other(IMAGENET, width=4000, height=3000, n_train=2000, files=True)
    config = configs.replace(RECIPES["photo"](facts), {"data.size": size})

    def choice(disk: float) -> tuple[object, str]:
        (found,) = (c for c in choose(config, facts, Machine("cpu", 2, disk), resolve)[1] if c.field == "data.copies")
        return found.value, found.reason

    least, seen = 1e6 * float(told[:-3]) + (5 << 30), "photos of 4000 x 3000 px are slow to decode in every epoch"
    assert choice(least + 1e5) == (2 * size, f"{seen}; their copies take about {told} until the run ends")
    assert choice(least - 1e5) == (0, f"{seen}, but the disk has no room for {told} of copies")


@pytest.mark.parametrize("recipe", ["small", "photo", "photo-finetune"])
def test_only_a_val_split_selects(recipe: str) -> None:
    found = [chosen("engine.select", recipe, other(CIFAR, n_val=n)) for n in (0, 1)]
    assert found == ["last", "best"]


def test_the_stem_of_small_images_keeps_their_pixels_and_whitens_where_it_is_one_convolution() -> None:
    nets = {"resnet18": {}, "deep": {"model__stem": "deep"}}
    for name, given in nets.items():
        known = {"model__name": "resnet18", **given}
        stem, whiten = (chosen(f"model.{field}", "small", CIFAR, **known) for field in ("stem", "whiten_stem"))
        assert (stem, whiten) == (("deep", False) if name == "deep" else ("cifar", True))
        assert chosen("model.whiten_stem", "photo", CIFAR, **known) is False
    assert chosen("model.stem", "photo", CIFAR, model__name="resnet18") is None


def test_small_sets_train_longer_in_smaller_batches() -> None:
    found = {}
    for n in (300, 3_999, 4_000, 9_999, 10_000, 50_000):
        c = get_recipe("small")(other(CIFAR, n_train=n))
        found[n] = (c.engine.batch, c.optim.lr, c.schedule.epochs)
    assert found == {
        300: (32, 0.05, 100),
        3_999: (32, 0.05, 15),
        4_000: (64, 0.1, 24),
        9_999: (64, 0.1, 15),
        10_000: (128, 0.2, 19),
        50_000: (128, 0.2, 15),
    }


def test_small_images_move_by_an_eighth_of_the_side_that_the_network_sees() -> None:
    def pad(side: int, size: int | None = None) -> int | None:
        facts = other(CIFAR, width=side, height=side)
        config = configs.replace(get_recipe("small")(facts), {"data.size": size})
        return choose(config, facts, CPU, resolve)[0].augment.pad

    assert [pad(side) for side in (4, 28, 32, 500)] == [1, 4, 4, 8]
    assert [pad(side, size) for side, size in ((500, 16), (500, 32), (28, 8), (28, 64))] == [2, 4, 1, 8]


def test_gray_images_stay_gray_to_choices_when_they_are_read_as_rgb() -> None:
    gray = other(CIFAR, channels=1, mirror=None)
    for channels in (None, 1, 3):
        config, _ = choose(configs.replace(get_recipe("small")(gray), {"data.channels": channels}), gray, CPU, resolve)
        assert (config.data.channels, config.augment.flip) == (channels or 1, "none")


def test_weights_that_say_nothing_of_images_are_of_rgb() -> None:
    gray = other(IMAGENET, channels=1)
    assert choose(get_recipe("photo-finetune")(gray), gray, CPU, resolve)[0].data.channels == 3


def test_small_sets_of_photos_train_longer_and_milder() -> None:
    found = {}
    for n in (4_999, 5_000, 19_999, 20_000):
        c = get_recipe("photo")(other(IMAGENET, n_train=n))
        found[n] = (c.engine.batch, c.optim.lr, c.optim.weight_decay, c.augment.area, c.schedule.epochs)
    few, many = (32, 0.025, 5e-4, (0.25, 1.0)), (256, 0.1, 1e-4, (0.08, 1.0))
    assert found == {4_999: (*few, 60), 5_000: (*few, 30), 19_999: (*few, 30), 20_000: (*many, 30)}


@pytest.mark.parametrize("facts", [DIGITS, IMAGENET])
def test_given_weights_are_changed_slowly(facts: Facts) -> None:
    config, _ = decide(Request(data="x", recipe="photo-finetune"), facts)
    assert (config.optim.lr, config.optim.body_lr, config.optim.weight_decay) == (0.02, 0.1, 1e-4)
    assert (config.schedule.epochs, config.schedule.warmup, config.augment.area) == (15, 0.1, (0.25, 1.0))
    assert (config.model.zero_init_last, config.optim.freeze) == (False, "none")


def test_what_the_fast_recipes_for_cifar10_say() -> None:
    fast, best = (decide(Request(data="cifar10", recipe=f"cifar10-{name}"), CIFAR)[0] for name in ("fast", "94"))
    for config in (fast, best):
        assert (config.optim.name, config.optim.nesterov, config.optim.decay) == ("sgd", True, "weights")
        assert (config.schedule.name, config.schedule.warmup, config.engine.select) == ("linear", 0.1, "last")
        assert (config.model.init, config.model.whiten_input, config.model.whiten_stem) == ("he-fan-in", True, False)
        assert (config.augment.crop, config.augment.flip, config.engine.batch) == ("translate", "alternate", 128)
    losses = [(config.optim.weight_decay, config.optim.label_smoothing) for config in (fast, best)]
    assert losses == [(7e-4, 0.05), (5e-4, 0.1)]
    assert (fast.schedule.final_weight_decay, best.schedule.final_weight_decay) == (0, 1)
    assert (fast.model.name, fast.optim.lr, fast.schedule.epochs, fast.augment.pad) == ("resnet20", 0.4, 24, 2)
    assert (best.model.name, best.optim.lr, best.schedule.epochs, best.augment.pad) == ("resnet11", 0.2, 32, 4)
    assert (best.augment.padding_mode, best.augment.cutout, best.engine.evaluate_every) == ("reflect", 8, 8)


def test_what_the_modern_recipe_for_cifar10_says() -> None:
    config, _ = decide(Request(data="cifar10", recipe="cifar10-modern"), CIFAR)
    assert (config.optim.lr, config.optim.nesterov, config.optim.weight_decay) == (0.1, True, 5e-4)
    assert (config.schedule.name, config.schedule.epochs, config.schedule.warmup) == ("cosine", 200, 0.02)
    assert (config.engine.batch, config.engine.precise_bn, config.engine.select) == (128, 200, "last")
    assert (config.augment.crop, config.augment.pad, config.augment.flip) == ("translate", 4, "random")


def test_a_network_starts_as_its_config_says() -> None:
    config, _ = decide(Request(data="x", model="resnet8"), DIGITS)
    usual, fan_in, whole = (
        make_network(configs.replace(config, changes), 3).state_dict()
        for changes in ({}, {"model.init": "he-fan-in"}, {"model.zero_init_last": False})
    )
    assert not torch.equal(usual["layer2.0.conv1.weight"], fan_in["layer2.0.conv1.weight"])
    assert not usual["layer1.0.bn2.weight"].any()
    assert whole["layer1.0.bn2.weight"].all()
