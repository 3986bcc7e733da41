"""scorefield show: a recipe, as a file that `fit --recipe` reads."""

from __future__ import annotations

import os
from typing import Annotated

import typer


def show(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE|RUN", help="a name, a .toml file or a run")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="set a field")] = None,
) -> None:
    """Print a recipe with the meaning of each field; without RECIPE, list those that there are."""
    from scorefield.errors import OptionError
    from scorefield.overrides import as_toml, override, recipe_of
    from scorefield.recipes import PRESETS

    if recipe is None and set_:
        raise OptionError("--set changes a recipe: name one, as in `scorefield show edm --set training.steps=1000`")
    if recipe is None:
        width = max(map(len, PRESETS))
        for name, preset in PRESETS.items():
            first = (preset.__doc__ or "").partition("\n\n")[0]
            print(f"{name:{width}}  {' '.join(first.split())}")
        return
    if os.path.isdir(recipe):  # False, and no error, for a name too long to be one
        from scorefield.bundle import Bundle

        chosen = Bundle.load(recipe).recipe
    else:
        chosen = recipe_of(recipe)
    print(as_toml(override(chosen, set_ or [])), end="")
