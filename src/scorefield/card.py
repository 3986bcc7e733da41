"""The model card: what a bundle tells a reader who opens its folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scorefield.data.kinds import Data, Table
from scorefield.noise_range import NoiseRange
from scorefield.recipes import Recipe
from scorefield.shrinkage import Shrinkage

_MOST_NAMES = 20


def short(data: Data) -> str:
    """What `describe` says of data, on one line, with the first columns only where they are many."""
    if not isinstance(data, Table) or data.columns.num_columns <= _MOST_NAMES:
        return _one_line(data.describe())
    count = data.columns.num_columns
    first = replace(data, columns=data.columns.select(range(_MOST_NAMES))).describe().partition(": ")[2]
    return _one_line(f"table of {len(data)} rows, {count} columns: {first}, … and {count - _MOST_NAMES} more")


def model_card(
    facts: dict[str, Any],
    recipe: Recipe,
    noise: NoiseRange,
    conditions: Sequence[str],
    shrinkage: Shrinkage | None = None,
) -> str:
    """The card in Markdown.

    Args:
        facts: as in bundle.json; names in it that are the user's are escaped here.
        recipe: complete.
        noise: what was measured of the data.
        conditions: names of the conditions.
        shrinkage: of the model.
    """
    data, training, versions = facts["data"], facts["training"], facts["versions"]
    held_out = training["held_out_loss"]
    span = f"σ {recipe.noise.sigma_min:.4g} to {recipe.noise.sigma_max:.4g}, σ_data {recipe.noise.sigma_data:.4g}"
    more = f", … and {len(conditions) - _MOST_NAMES} more" if len(conditions) > _MOST_NAMES else ""
    rows = {
        "recipe": _escaped(recipe.name),
        "noise": f"{recipe.noise.schedule}, {span}",
        "why": noise.reason,
        "network": f"{recipe.network.kind}, {training['parameters']:,} parameters",
        "training": f"{training['steps']} steps of {recipe.training.batch} rows, {training['seconds']:.0f} s",
        "held-out loss": "none" if held_out is None else f"{held_out:.4g}" + (", of all of it" if shrinkage else ""),
        **({} if shrinkage is None else {"shrinkage": shrinkage.describe()}),
        "conditions": _escaped(", ".join(conditions[:_MOST_NAMES]) + more) or "none",
        "SHA-256 of the data": data["fingerprint"],
        "made with": f"scorefield {versions['scorefield']}, torch {versions['torch']}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    usage = "```\nscorefield sample THIS_FOLDER --rows 1000 --out FILE\n```"
    learned = _escaped(data["description"])
    return f"# A scorefield model\n\nLearned from {learned}.\n\n| | |\n|---|---|\n{table}\n\n{usage}\n"


def _one_line(text: str) -> str:
    """The text without line breaks and other characters that do not print."""
    return "".join(character if character.isprintable() else " " for character in text)


def _escaped(text: str) -> str:
    """The text as Markdown that shows it as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", _one_line(text))
