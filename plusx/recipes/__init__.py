"""Recipes: named functions from facts about the data to a config; the only home of hyper-parameter values.

A new recipe is a function and one entry in `RECIPES`.
"""

import inspect
from collections.abc import Callable

from plusx.config import Config, Facts
from plusx.errors import ConfigError
from plusx.recipes.choose import Choice, Machine, choose, default_recipe
from plusx.recipes.cifar10 import cifar10_94, cifar10_fast, cifar10_modern, cifar10_paper
from plusx.recipes.imagenet import imagenet_modern, imagenet_paper
from plusx.recipes.photo import photo, photo_finetune
from plusx.recipes.small import small

__all__ = ["RECIPES", "Choice", "Machine", "choose", "default_recipe", "describe", "get_recipe", "small"]

Recipe = Callable[[Facts], Config]

RECIPES: dict[str, Recipe] = {
    "small": small,
    "photo": photo,
    "photo-finetune": photo_finetune,
    "cifar10-paper": cifar10_paper,
    "cifar10-modern": cifar10_modern,
    "cifar10-fast": cifar10_fast,
    "cifar10-94": cifar10_94,
    "imagenet-paper": imagenet_paper,
    "imagenet-modern": imagenet_modern,
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe: got {name!r}, expected one of {', '.join(RECIPES)}.", "`plusx recipes` lists them.")
    return RECIPES[name]


def describe() -> list[dict[str, str]]:
    """Each recipe's name and docstring, for `plusx recipes`."""
    return [{"name": name, "doc": inspect.getdoc(recipe) or ""} for name, recipe in RECIPES.items()]
