"""Recipes on the command line: each ends in samples, shows itself, and can be tried without a trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scorefield import load
from scorefield.data import Images, read, write
from scorefield.overrides import recipe_of
from scorefield.recipes import PRESETS

Run = Callable[..., tuple[int, str, str]]

TINY = {"training.batch": "16", "training.precision": "float32", "network.width": "16"}
TINY_IMAGES = {"network.channels": "[32]", "network.blocks": "[1]", "network.attention": "[true]"}


def options(settings: dict[str, str]) -> list[str]:
    return [text for path, value in settings.items() for text in ("--set", f"{path}={value}")]


@pytest.fixture
def points(tmp_path: Path) -> Path:
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32))
    return tmp_path / "points.npy"


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("kind", ["table", "images"])
def test_every_recipe_ends_in_samples(run: Run, tmp_path: Path, points: Path, name: str, kind: str) -> None:
    source, out = points, tmp_path / "new.npy"
    settings = dict(TINY)
    if kind == "images":
        pixels = np.random.default_rng(0).integers(0, 256, (60, 6, 5), dtype=np.uint8)
        write(Images(pixels, "L"), tmp_path / "images.parquet")
        source, out = tmp_path / "images.parquet", tmp_path / "new.parquet"
        settings |= TINY_IMAGES
    if name in ("ddpm", "ddpm_vlb"):
        settings["noise.levels"] = "50"
    if name == "ncsn":
        settings["sampler.moves"] = "3"
    code, said, err = run("fit", source, "--out", tmp_path / "run", "--recipe", name, "--steps", 8, *options(settings))
    assert code == 0, err
    assert "8 steps" in said
    code, said, err = run("sample", tmp_path / "run", "--rows", 9, "--out", out)
    assert code == 0, err
    drawn = read(str(out))
    assert len(drawn) == 9
    assert drawn.kind == read(str(source)).kind
    assert load(tmp_path / "run").recipe.name == name


def test_the_log_has_the_loss_with_its_standard_error(run: Run, tmp_path: Path, points: Path) -> None:
    # H₀: the error is that of a mean of 16 rows: 40 losses of a network that does not learn spread as they say, up to
    # the rows that batches share; between half and twice as much. Caught: the deviation, four times as large.
    settings = {**TINY, "training.learning_rate": "1e-12"}
    code, _, err = run("fit", points, "--out", tmp_path / "run", "--steps", 400, *options(settings))
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses, errors = (torch.tensor([line[name] for line in lines]) for name in ("loss", "loss_std_error"))
    assert len(losses) == 40
    ratio = float(losses.std() / errors.square().mean().sqrt())
    assert 0.5 < ratio < 2
    assert not 0.5 < ratio / 4 < 2


# -- show -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_shown_is_one_that_fit_reads(run: Run, tmp_path: Path, name: str) -> None:
    code, shown, _ = run("show", name)
    assert code == 0
    (tmp_path / "mine.toml").write_text(shown, encoding="utf-8")
    assert recipe_of(str(tmp_path / "mine.toml")) == PRESETS[name]()
    code, changed, _ = run("show", tmp_path / "mine.toml", "--set", "training.steps=77")
    assert code == 0
    differing = [line for line in changed.splitlines() if line not in shown.splitlines()]
    assert [line.split()[:3] for line in differing] == [["steps", "=", "77"]]


def test_without_a_name_all_recipes_are_listed(run: Run) -> None:
    code, listed, _ = run("show")
    assert code == 0
    assert [line.split()[0] for line in listed.splitlines()] == list(PRESETS)
    assert all(len(line.split()) > 3 for line in listed.splitlines())


def test_the_recipe_of_a_run_is_shown_complete(run: Run, tmp_path: Path, points: Path) -> None:
    assert run("fit", points, "--out", tmp_path / "run", "--steps", 3, *options(TINY))[0] == 0
    code, shown, _ = run("show", tmp_path / "run")
    assert code == 0
    (tmp_path / "mine.toml").write_text(shown, encoding="utf-8")
    assert recipe_of(str(tmp_path / "mine.toml")) == load(tmp_path / "run").recipe
    assert "(left open)" not in shown.split("[noise]")[1].split("# levels")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nscn"], "did you mean 'ncsn'"),
        (["show", "ncsn", "--set", "training.step=3"], "did you mean 'steps'"),
        (["show", "missing.toml"], "missing.toml: cannot be read"),
    ],
)
def test_what_cannot_be_shown_is_one_line(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err


# -- dry run ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_fit_would_do_and_leaves_no_trace(run: Run, tmp_path: Path, points: Path) -> None:
    asked = [points, "--recipe", "ncsnv2", "--steps", 3, *options(TINY)]
    before = sorted(tmp_path.rglob("*"))
    code, said, err = run("fit", *asked, "--out", tmp_path / "run", "--dry-run")
    assert code == 0, err
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "mine.toml").write_text(said, encoding="utf-8")
    assert run("fit", *asked, "--out", tmp_path / "run")[0] == 0
    assert recipe_of(str(tmp_path / "mine.toml")) == load(tmp_path / "run").recipe
    remarks = [line for line in said.splitlines() if line.startswith("# ")]
    assert any("σ_max is the largest distance" in line for line in remarks)
    assert any("parameters, 180 rows to train on" in line for line in remarks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "implicit", "--set", "network.depth=3", "--set", "objective.criterion=explicit"], "true score"),
        (["--set", "objective.criterion=contrastive"], "needs an energy"),
        (["--set", "objective.variance=learned"], "denoising does not train a variance"),
        (["--set", "objective.criterion=variational"], "which have levels"),
        (["--recipe", "ddpm_vlb", "--set", "objective.decoder=discretised"], "these data are continuous"),
        (["--recipe", "ddpm_vlb", "--set", "network.energy=true"], "no second output"),
        (["--set", "sampler.moves=3"], "of langevin, not of heun"),
    ],
)
@pytest.mark.parametrize("mode", [["--dry-run"], []])
def test_wrong_use_is_refused_before_training_in_a_line(
    run: Run, tmp_path: Path, points: Path, options: list[str], message: str, mode: list[str]
) -> None:
    code, out, err = run("fit", points, "--out", tmp_path / "run", *options, *mode)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_fit_without_a_folder_is_refused(run: Run, points: Path) -> None:
    code, _, err = run("fit", points)
    assert code == 2
    assert "--out is missing" in err
