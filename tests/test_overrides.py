"""Recipes from text: typed, complete or refused with the place and the closest right name; nothing is created."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefield.errors import OptionError
from scorefield.overrides import as_toml, override, recipe_of
from scorefield.recipes import PRESETS, Recipe, plain

quick = settings(max_examples=50, deadline=None)


def value_at(recipe: Recipe, path: str) -> Any:
    part: Any = recipe
    for name in path.split("."):
        part = getattr(part, name)
    return part


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.batch=256", 256),
        ("training.steps=1e4", 10_000),
        ("training.steps=2000.0", 2000),
        ("training.learning_rate=1e-4", 1e-4),
        ("training.learning_rate=1", 1.0),
        ("training.budget=90", 90.0),
        ("training.steps=null", None),
        ("training.precision=float32", "float32"),
        ("noise.sigma_min=0.002", 0.002),
        ("network.channels=16,32", (16, 32)),
        ("network.channels=[16, 32, 64]", (16, 32, 64)),
        ("network.attention=false,true", (False, True)),
        ("sampler.name=ddim", "ddim"),
        ("name=mine", "mine"),
    ],
)
def test_values_become_the_fields_type(setting: str, value: Any) -> None:
    before = Recipe()
    changed = override(before, [setting])
    path = setting.partition("=")[0]
    assert value_at(changed, path) == value
    assert type(value_at(changed, path)) is type(value)
    # Nothing else is touched, neither in the result nor in what was given.
    assert before == Recipe()
    back = plain(changed)
    group, _, name = path.rpartition(".")
    (back[group] if group else back)[name or path] = (plain(before)[group] if group else plain(before))[name or path]
    assert back == plain(before)


@quick
@given(
    batch=st.integers(1, 10**6),
    rate=st.floats(1e-8, 1e3),
    channels=st.lists(st.integers(1, 512), min_size=2, max_size=5),
)
def test_law_what_python_prints_is_read_back(batch: int, rate: float, channels: list[int]) -> None:
    texts = [
        f"training.batch={batch}",
        f"training.learning_rate={rate!r}",
        "network.channels=" + ",".join(map(str, channels)),
    ]
    recipe = override(Recipe(), texts)
    assert (recipe.training.batch, recipe.training.learning_rate) == (batch, rate)
    assert recipe.network.channels == tuple(channels)
    assert override(Recipe(), texts[::-1]) == recipe


def test_nothing_set_changes_nothing() -> None:
    for preset in PRESETS.values():
        assert override(preset(), []) == preset()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["training.bach=5"], ["training has no field 'bach'", "did you mean 'batch'"]),
        (["trainig.batch=5"], ["the recipe has no field 'trainig'", "did you mean 'training'"]),
        (["training.batch.more=5"], ["training.batch has no field 'more'"]),
        (["zzz=5"], ["the recipe has no field 'zzz'", "'training'"]),
        (["=5"], ["no field ''"]),
        (["training.batch"], ["expected path=value"]),
        (["training=5"], ["that is a group", "'batch'"]),
        (["training.batch=5", "training.batch=6"], ["training.batch is given twice"]),
        (["training.batch=many"], ["training.batch", "integer", "'many'"]),
        (["training.batch="], ["training.batch", "integer"]),
        (["training.batch=1.5"], ["training.batch", "integer", "1.5"]),
        (["training.batch=true"], ["training.batch", "integer", "True"]),
        (['training.batch="64"'], ["training.batch", "integer", "'64'"]),
        (["training.batch=0"], ["training.batch", "greater than or equal to 1", "got 0"]),
        (["training.batch=1,2"], ["training.batch", "integer"]),
        (["training.learning_rate=true"], ["training.learning_rate", "number"]),
        (['training.learning_rate="1e-4"'], ["training.learning_rate", "number", "'1e-4'"]),
        (["training.learning_rate=NaN"], ["training.learning_rate", "finite"]),
        (["training.learning_rate=nan"], ["training.learning_rate", "number"]),
        (["training.learning_rate=Infinity"], ["training.learning_rate", "finite"]),
        (["training.learning_rate=-1e400"], ["training.learning_rate", "finite"]),
        (["training.learning_rate=0"], ["training.learning_rate", "greater than 0"]),
        (["training.average=1"], ["training.average", "0.5"]),
        (["training.beta2=1"], ["training.beta2", "less than 1"]),
        (["training.precision=float64"], ["training.precision", "'float32'", "'float64'"]),
        (["noise.sigma_min=-1"], ["noise.sigma_min", "greater than 0"]),
        (["noise.schedule=edn"], ["noise.schedule", "'edm'", "'edn'"]),
        (["network.channels=16,x"], ["network.channels.1", "integer"]),
        (["network.channels=true,16"], ["network.channels.0", "integer"]),
        (["network.channels=[]"], ["network.channels", "at least 1"]),
        (["checkpoint.every=0"], ["checkpoint.every"]),
        (["sampler.steps=1"], ["sampler.steps", "greater than or equal to 2"]),
    ],
)
def test_wrong_settings_are_refused_with_place_and_hint(settings: list[str], parts: list[str]) -> None:
    with pytest.raises(OptionError) as refused:
        override(Recipe(), settings)
    message = str(refused.value)
    assert message.startswith("--set")
    assert "\n" not in message
    for part in parts:
        assert part in message, message


# -- presets and files ------------------------------------------------------------------------------------------------


def test_presets_by_name_and_a_typo_with_a_suggestion() -> None:
    for name, preset in PRESETS.items():
        assert recipe_of(name) == preset()
        assert recipe_of(name).name == name
    with pytest.raises(
        OptionError, match=r"dppm: no such recipe, did you mean 'ddpm'.*auto, edm, ddpm, ddpm_vlb, ncsn"
    ):
        recipe_of("dppm")


@pytest.mark.parametrize("name", PRESETS)
def test_law_a_recipe_shown_is_the_recipe_read(name: str, tmp_path: Path) -> None:
    recipe = override(PRESETS[name](), ['name=a "quoted" ü', "training.learning_rate=1e-7", "network.channels=8,16"])
    path = tmp_path / "shown.toml"
    path.write_text(as_toml(recipe), encoding="utf-8")
    assert recipe_of(str(path)) == recipe


def test_a_recipe_shown_says_what_every_field_means() -> None:
    shown = as_toml(Recipe())
    for group, part in plain(Recipe()).items():
        for name in part if isinstance(part, dict) else ():
            (line,) = (line for line in shown.split(f"[{group}]")[1].split("[")[0].splitlines() if f"{name} =" in line
                       and line.removeprefix("# ").startswith(f"{name} ="))  # fmt: skip
            meaning = line.partition("  # ")[2]
            assert len(meaning.split()) > 1, line
            assert line.startswith("# ") == (part[name] is None) == meaning.endswith("(left open)")


def toml(folder: Path, text: str | bytes) -> str:
    path = folder / "recipe.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_toml_file_is_a_recipe_with_the_rest_left_open(tmp_path: Path) -> None:
    text = 'name = "mine"\n[training]\nbatch = 7\nlearning_rate = 1e-4\n[network]\nchannels = [8, 16]\n'
    recipe = recipe_of(toml(tmp_path, text))
    expected = override(
        Recipe(), ["name=mine", "training.batch=7", "training.learning_rate=1e-4", "network.channels=8,16"]
    )
    assert recipe == expected


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[training]\nbach = 5", ["training.bach", "did you mean 'batch'"]),
        ("[trainig]\nbatch = 5", ["trainig", "did you mean 'training'"]),
        ('[training]\nlearning_rate = "1e-4"', ["training.learning_rate", "number", "'1e-4'"]),
        ("[training]\nlearning_rate = nan", ["training.learning_rate", "finite"]),
        ("[training]\nlearning_rate = inf", ["training.learning_rate", "finite"]),
        ("[training]\nlearning_rate = 2024-01-01", ["training.learning_rate", "number", "2024-01-01"]),
        ("[training]\nbatch = true", ["training.batch", "integer"]),
        ("[training]\nbatch = 5.0", ["training.batch", "integer"]),
        ("[training]\nbatch = 5\nbatch = 6", ["overwrite"]),
        ("[training]\nbatch = 5\n[training]\nsteps = 6", ["training"]),
        ("training = 5", ["training", "object"]),
        ("[training\nbatch = 5", ["line 1"]),
        (b"name = \xff", ["utf-8"]),
    ],
)
def test_wrong_files_are_refused_with_place_and_hint(tmp_path: Path, text: str | bytes, parts: list[str]) -> None:
    name = toml(tmp_path, text)
    with pytest.raises(OptionError) as refused:
        recipe_of(name)
    message = str(refused.value)
    assert name in message
    for part in parts:
        assert part in message, message
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.toml"]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"gone\.toml: cannot be read: No such file"):
        recipe_of(str(tmp_path / "gone.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(OptionError, match="cannot be read: Is a directory"):
        recipe_of(str(tmp_path / "folder.toml"))


def test_tomllib_itself_refuses_duplicates() -> None:
    # What the cases above rest on.
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads("a = 1\na = 1")
