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

TINY = {
    "training.batch": "16",
    "training.precision": "float32",
    "training.patience": "99",
    "network.width": "16",
}
TINY_IMAGES = {"network.channels": "[32]", "network.blocks": "[1]", "network.attention": "[true]"}


def options(settings: dict[str, str]) -> list[str]:
    return [text for path, value in settings.items() for text in ("--set", f"{path}={value}")]


@pytest.fixture
def points(tmp_path: Path) -> Path:
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32))
    return tmp_path / "points.npy"


@pytest.mark.parametrize("name", [*PRESETS, "auto+finite_difference", "ddpm+hybrid", "energy+contrastive"])
@pytest.mark.parametrize("kind", ["table", "images"])
def test_every_recipe_ends_in_samples(run: Run, tmp_path: Path, points: Path, name: str, kind: str) -> None:
    source, out = points, tmp_path / "new.npy"
    settings = dict(TINY)
    if kind == "images":
        pixels = np.random.default_rng(0).integers(0, 256, (60, 6, 5), dtype=np.uint8)
        write(Images(pixels, "L"), tmp_path / "images.parquet")
        source, out = tmp_path / "images.parquet", tmp_path / "new.parquet"
        settings |= TINY_IMAGES
    if name.startswith("ddpm"):
        settings["noise.levels"] = "50"
    if name == "ncsn":
        settings["sampler.moves"] = "3"
    name, _, criterion = name.partition("+")
    if criterion:
        settings["objective.criterion"] = criterion
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
    # H₀: the error is that of a mean of 16 rows drawn freely: 40 losses of a network that does not learn spread as they
    # say, up to strata and the rows that batches share: between half and 1.5 times as much. Caught: the deviation of
    # a row, four times as large, and its variance.
    settings = {**TINY, "training.learning_rate": "1e-12", "training.antithetic": "false"}
    code, _, err = run("fit", points, "--out", tmp_path / "run", "--steps", 400, *options(settings))
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses, errors = (torch.tensor([line[name] for line in lines]) for name in ("loss", "loss_std_error"))
    assert len(losses) == 40
    spread, said = float(losses.std()), float(errors.square().mean().sqrt())
    assert 0.5 < spread / said < 1.5
    assert not 0.5 < spread / (4 * said) < 1.5
    assert not 0.5 < spread / (16 * said**2) < 1.5


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
        (["show", "n" * 3000], "no such recipe"),
        (["show", "--set", "training.batch=3"], "name one"),
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
        (["--set", "sampler.moves=3"], "of langevin, not of auto"),
        (
            ["--recipe", "ddpm", "--set", "objective.criterion=hybrid", "--set", "objective.times=uniform"],
            "whole levels",
        ),
        (["--recipe", "ddpm_vlb", "--set", "objective.times=log_uniform"], "should be levels or important_levels"),
        (["--set", "objective.reference=100000"], "at most 100 of a batch of 200 rows, whose pairs"),
        (["--set", "objective.reference=100000", "--set", "training.antithetic=false"], "at most 200 of a batch"),
        (["--set", "objective.reference=0"], "objective.reference: Input should be greater than or equal to 1"),
        (["--set", "training.antithetic=true", "--set", "training.batch=3"], "needs batches of 4 rows or more"),
        (["--set", "training.antithetic=perhaps"], "training.antithetic: Input should be a valid boolean, or"),
        (["--set", "objective.probes=3"], "objective.probes=3 is of objective.criterion=sliced or finite_difference"),
        (["--set", "objective.moves=3"], "is of objective.criterion=contrastive, not of denoising"),
        (["--recipe", "sliced", "--set", "objective.reference=64"], "of objective.criterion=denoising, not of sliced"),
        (["--set", "objective.bin_width=3"], "is of objective.criterion=variational or hybrid"),
        (
            ["--recipe", "ddpm_vlb", "--set", "objective.bin_width=3", "--set", "objective.decoder=gaussian"],
            "objective.decoder=gaussian has no bins",
        ),
        (["--recipe", "ddpm_vlb", "--set", "objective.bin_width=3,4"], "2 entries, a row has the shape (3,)"),
        (["--recipe", "ddpm_vlb", "--set", "objective.bin_width=-1"], "should be greater than 0"),
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


def test_an_unfinished_run_is_not_a_recipe(run: Run, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "fit.json").write_text("{}")
    code, out, err = run("show", tmp_path / "half")
    assert (code, out) == (2, "")
    assert "training has not finished here" in err


def test_integers_of_any_step_are_trained_by_the_bound(run: Run, tmp_path: Path) -> None:
    # Coarse integers leave no room for 1000 growing βs, and each column has its own bins.
    random = np.random.default_rng(0)
    columns = random.integers(0, 5, 200), random.integers(0, 1000, 200)
    np.save(tmp_path / "integers.npy", np.stack(columns, axis=1))
    whole = ("fit", tmp_path / "integers.npy", "--out", tmp_path / "run", "--recipe", "ddpm_vlb", "--steps", 5)
    code, _, err = run(*whole, *options(TINY))
    assert code == 0, err
    narrow, wide = sorted(load(tmp_path / "run").recipe.objective.bin_width)
    assert 100 < wide / narrow < 400  # 1 of 0 to 4 against 1 of 0 to 999
    (tmp_path / "bits.csv").write_text("a\n" + "\n".join(map(str, random.integers(0, 2, 200))) + "\n")
    code, _, err = run("fit", tmp_path / "bits.csv", "--recipe", "ddpm", "--column-type", "a=number", "--dry-run")
    assert code == 0, err


def test_contrastive_divergence_is_not_stopped_by_a_number_that_says_nothing(
    run: Run, tmp_path: Path, points: Path
) -> None:
    settings = {**TINY, "objective.criterion": "contrastive", "objective.moves": "1", "training.patience": "1"}
    asked = ["--recipe", "energy", "--steps", 60, *options(settings)]
    code, said, err = run("fit", points, "--out", tmp_path / "run", *asked)
    assert code == 0, err
    assert "60 steps" in said
    assert "held-out loss" not in said
    assert load(tmp_path / "run").facts["training"]["held_out_loss"] is None
