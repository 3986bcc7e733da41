"""Recipes as plain values: frozen, the same after JSON, unknown and non-finite fields refused, parts described."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from scorefield.recipes import PRESETS, NetworkSettings, NoiseSettings, Recipe, auto, edm, plain


@pytest.mark.parametrize("name", PRESETS)
def test_law_json_gives_the_same_recipe(name: str) -> None:
    recipe = PRESETS[name]()
    text = json.dumps(plain(recipe), allow_nan=False)
    assert Recipe.model_validate(json.loads(text)) == recipe
    assert Recipe.model_validate_json(text, strict=True) == recipe


def test_presets_carry_their_names_and_differ() -> None:
    recipes = {name: preset() for name, preset in PRESETS.items()}
    assert [recipe.name for recipe in recipes.values()] == list(recipes)
    for name, recipe in recipes.items():
        same = [
            n for n, r in recipes.items() if r.model_copy(update={"name": ""}) == recipe.model_copy(update={"name": ""})
        ]
        assert same == [name]


def test_auto_fixes_nothing_that_the_data_should_say() -> None:
    recipe = auto()
    assert recipe == Recipe()
    noise, network, training = plain(recipe)["noise"], plain(recipe)["network"], plain(recipe)["training"]
    assert {noise[n] for n in ("sigma_min", "sigma_max", "sigma_data", "levels")} == {None}
    assert {value for name, value in network.items() if name not in ("noise_conditional", "energy")} == {None}
    assert {training[n] for n in ("batch", "steps", "budget", "learning_rate")} == {None}


def test_recipes_cannot_be_changed() -> None:
    recipe = edm()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"
    with pytest.raises(ValidationError, match="frozen"):
        recipe.training.batch = 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_are_refused_in_every_part(value: float) -> None:
    tried = 0
    for part, fields in plain(Recipe()).items():
        if not isinstance(fields, dict):
            continue
        group = type(getattr(Recipe(), part))
        for name in fields:
            with pytest.raises(ValidationError):
                group(**{name: value})
            tried += 1
    assert tried > 25


def test_unknown_fields_are_refused_in_every_part() -> None:
    with pytest.raises(ValidationError, match="surprise"):
        Recipe.model_validate({"surprise": 1})
    for part, fields in plain(Recipe()).items():
        if isinstance(fields, dict):
            with pytest.raises(ValidationError, match="surprise"):
                Recipe.model_validate({part: {**fields, "surprise": 1}})


def test_numbers_out_of_their_range_are_refused() -> None:
    for fields in ({"sigma_min": 0}, {"sigma_max": -1}, {"levels": 1}, {"schedule": "?"}):
        with pytest.raises(ValidationError):
            NoiseSettings.model_validate(fields)
    for network in ({"width": 0}, {"depth": 0}, {"channels": ()}, {"patch": 0}, {"blocks": (0,)}):
        with pytest.raises(ValidationError):
            NetworkSettings.model_validate(network)


def test_every_part_says_what_it_is() -> None:
    for part in (type(getattr(Recipe(), name)) for name, v in plain(Recipe()).items() if isinstance(v, dict)):
        assert issubclass(part, BaseModel)
        assert part.__doc__
        numbers = [f for f in part.model_fields.values() if "int" in str(f.annotation) or "float" in str(f.annotation)]
        assert all(field.description for field in numbers)


def test_the_page_of_recipes_lists_every_field() -> None:
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    fields = [f"`{group}.{name}`" for group, part in plain(Recipe()).items() if group != "name" for name in part]
    assert [field for field in fields if field not in page] == []
    listed = re.findall(r"^\| `([a-z]+\.[a-z_0-9]+)`", page, re.MULTILINE)
    assert [name for name in listed if f"`{name}`" not in fields] == []
