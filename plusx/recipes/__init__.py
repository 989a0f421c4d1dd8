"""Recipes: named functions from facts about the data to a config; the only home of hyper-parameter values.

A new recipe is a function and one entry in `RECIPES`.
"""

from collections.abc import Callable

from plusx.config import Config, Facts
from plusx.errors import ConfigError
from plusx.recipes.choose import Choice, choose
from plusx.recipes.photo import photo, photo_finetune
from plusx.recipes.small import small

__all__ = ["RECIPES", "Choice", "Recipe", "choose", "get_recipe", "photo", "photo_finetune", "small"]

Recipe = Callable[[Facts], Config]

RECIPES: dict[str, Recipe] = {"small": small, "photo": photo, "photo-finetune": photo_finetune}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"recipe: got {name!r}, expected one of {', '.join(RECIPES)}.", "`plusx recipes` describes each."
        )
    return RECIPES[name]
