"""The model card: what a bundle tells a reader who opens its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scorefield.noise_range import NoiseRange
from scorefield.recipes import Recipe


def model_card(facts: dict[str, Any], recipe: Recipe, noise: NoiseRange, conditions: Sequence[str]) -> str:
    """The card in Markdown.

    Args:
        facts: as in bundle.json.
        recipe: complete.
        noise: what was measured of the data.
        conditions: names of the conditions.
    """
    data, training, versions = facts["data"], facts["training"], facts["versions"]
    held_out = training["held_out_loss"]
    span = f"σ {recipe.noise.sigma_min:.4g} to {recipe.noise.sigma_max:.4g}, σ_data {recipe.noise.sigma_data:.4g}"
    rows = {
        "recipe": recipe.name,
        "noise": f"{recipe.noise.schedule}, {span}",
        "why": noise.reason,
        "network": f"{recipe.network.kind}, {training['parameters']:,} parameters",
        "training": f"{training['steps']} steps of {recipe.training.batch} rows, {training['seconds']:.0f} s",
        "held-out loss": "none" if held_out is None else f"{held_out:.4g}",
        "conditions": ", ".join(conditions) or "none",
        "SHA-256 of the data": data["fingerprint"],
        "made with": f"scorefield {versions['scorefield']}, torch {versions['torch']}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    usage = "```\nscorefield sample THIS_FOLDER --rows 1000 --out FILE\n```"
    return f"# A scorefield model\n\nLearned from {data['description']}.\n\n| | |\n|---|---|\n{table}\n\n{usage}\n"
