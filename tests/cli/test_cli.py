"""The command line: fit, sample, inspect on every form of data, exit codes, one clear line for a refusal, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from scorefield import bundle as bundle_file
from scorefield import errors, load
from scorefield.cli.console import Console, clock
from scorefield.data import Images, Table, read, write
from scorefield.drawing import Progress
from scorefield.errors import Interrupted

TINY = [
    "--steps",
    "5",
    "--set",
    "network.width=16",
    "--set",
    "training.batch=16",
    "--set",
    "training.precision=float32",
]
TINY_IMAGES = [
    *TINY,
    "--set",
    "network.channels=[32]",
    "--set",
    "network.blocks=[1]",
    "--set",
    "network.attention=[false]",
]
Run = Callable[..., tuple[int, str, str]]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def table(rows: int = 60) -> pa.Table:
    random = np.random.default_rng(0)
    return pa.table(
        {
            "count": random.integers(-4, 9, rows),
            "kind": random.choice(["oak", "elm, old"], rows),
            "price": np.round(random.lognormal(2, 1, rows), 2),
            "x": random.normal(size=rows),
            "unit": np.full(rows, 3),
        }
    )


def pictures(mode: str, rows: int = 24) -> np.ndarray:
    shape = {"L": (6, 5), "RGB": (6, 5, 3)}[mode]
    return np.random.default_rng(0).integers(0, 256, (rows, *shape), dtype=np.uint8)


def folder_of_images(place: Path, mode: str) -> Path:
    for number, pixels in enumerate(pictures(mode)):
        target = place / ("cats" if number % 2 else "dogs") / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels, mode).save(target)
    return place


# -- fit, sample, inspect ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_tables_come_back_with_their_columns_and_types(run: Run, tmp_path: Path, ending: str) -> None:
    source, target = tmp_path / f"trees{ending}", tmp_path / f"new{ending}"
    data = table() if ending == ".csv" else table().set_column(0, "count", table()["count"].cast("int8"))
    write(Table(data), source)
    code, out, err = run("fit", source, "--out", tmp_path / "run", "--condition", "kind", *TINY)
    assert code == 0, err
    assert "5 steps" in out
    assert "column unit: constant 3, put back as it is" in err
    code, out, err = run("sample", tmp_path / "run", "--rows", 30, "--out", target, "--given", "kind=elm, old")
    assert code == 0, err
    assert "30 rows" in out
    drawn = read(target)
    assert isinstance(drawn, Table)
    assert drawn.columns.schema == data.schema
    assert set(drawn.columns["kind"].to_pylist()) == {"elm, old"}
    assert set(drawn.columns["unit"].to_pylist()) == {3}
    assert set(drawn.columns["count"].to_pylist()) <= set(range(-4, 9))
    prices = drawn.columns["price"].to_numpy()
    np.testing.assert_array_equal(prices, np.round(prices, 2))
    code, out, _ = run("inspect", tmp_path / "run")
    assert code == 0
    for word in (
        "count: integers",
        "price: at most 2 decimals",
        "unit: constant 3",
        "conditions: kind",
        "trained 5 steps",
    ):
        assert word in out, out


def test_a_csv_without_names_comes_back_without_names(run: Run, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "data.csv", np.random.default_rng(0).normal(size=(30, 3)), delimiter=",")
    assert run("fit", tmp_path / "data.csv", "--out", tmp_path / "run", *TINY)[0] == 0
    assert run("sample", tmp_path / "run", "--rows", 4, "--out", tmp_path / "new.csv")[0] == 0
    assert np.loadtxt(tmp_path / "new.csv", delimiter=",").shape == (4, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int64"])
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_arrays_come_back_with_their_type_and_shape(run: Run, tmp_path: Path, ending: str, dtype: str) -> None:
    values = np.random.default_rng(0).normal(0, 5, (40, 2, 3)).astype(dtype)
    source, target = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    if ending == ".npy":
        np.save(source, values)
    else:
        np.savez(source, spectra=values, label=np.arange(40) % 3)
    labels = ["--condition", "label"] if ending == ".npz" else []
    code, _, err = run("fit", source, "--out", tmp_path / "run", *labels, *TINY)
    assert code == 0, err
    code, _, err = run("sample", tmp_path / "run", "--rows", 7, "--out", target)
    assert code == 0, err
    found = np.load(target)
    if ending == ".npz":
        assert set(found["label"].tolist()) <= {0, 1, 2}
        found = found[next(name for name in found.files if name != "label")]
    assert (found.shape, found.dtype) == ((7, 2, 3), np.dtype(dtype))
    if dtype.startswith("int"):
        assert values.min() <= found.min() <= found.max() <= values.max()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_folder_of_images_comes_back_as_a_folder_of_images(run: Run, tmp_path: Path, mode: str) -> None:
    source = folder_of_images(tmp_path / "pets", mode)
    code, _, err = run("fit", source, "--out", tmp_path / "run", "--condition", "label", *TINY_IMAGES)
    assert code == 0, err
    code, _, err = run("sample", tmp_path / "run", "--rows", 5, "--out", tmp_path / "new", "--given", "label=cats")
    assert code == 0, err
    drawn = [Image.open(path) for path in (tmp_path / "new").rglob("*.png")]
    assert len(drawn) == 5
    assert {(image.mode, image.size) for image in drawn} == {(mode, (5, 6))}
    assert {path.parent.name for path in (tmp_path / "new").rglob("*.png")} == {"cats"}


def test_a_parquet_of_images_comes_back_as_one(run: Run, tmp_path: Path) -> None:
    original = Images(pictures("RGB"), "RGB", labels=np.arange(24) % 2, label_name="label")
    write(original, tmp_path / "pets.parquet")
    fitted = run("fit", tmp_path / "pets.parquet", "--out", tmp_path / "run", "--condition", "label", *TINY_IMAGES)
    assert fitted[0] == 0, fitted
    assert run("sample", tmp_path / "run", "--rows", 6, "--out", tmp_path / "new.parquet")[0] == 0
    before, after = pq.read_schema(tmp_path / "pets.parquet"), pq.read_schema(tmp_path / "new.parquet")
    assert after.equals(before)
    drawn = read(tmp_path / "new.parquet")
    assert isinstance(drawn, Images)
    assert (drawn.pixels.shape, drawn.pixels.dtype, drawn.mode) == ((6, 6, 5, 3), np.uint8, "RGB")
    assert set(drawn.label_columns["label"].tolist()) <= {0, 1}


def test_uint8_arrays_come_back_as_they_lay(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pictures("RGB").transpose(0, 3, 1, 2))
    code, _, err = run("fit", tmp_path / "a.npy", "--out", tmp_path / "run", *TINY_IMAGES)
    assert code == 0, err
    assert "taken as RGB images" in err
    assert run("sample", tmp_path / "run", "--rows", 3, "--out", tmp_path / "b.npy")[0] == 0
    found = np.load(tmp_path / "b.npy")
    assert (found.shape, found.dtype) == ((3, 3, 6, 5), np.uint8)


def test_sets_that_need_no_file(run: Run, tmp_path: Path) -> None:
    assert run("fit", "toy:moons", "--out", tmp_path / "moons", *TINY)[0] == 0
    assert run("sample", tmp_path / "moons", "--rows", 9, "--out", tmp_path / "moons.npy")[0] == 0
    assert np.load(tmp_path / "moons.npy").shape == (9, 2)
    assert run("fit", "sklearn:iris", "--out", tmp_path / "iris", "--condition", "target", *TINY)[0] == 0
    assert run("sample", tmp_path / "iris", "--rows", 9, "--out", tmp_path / "iris.csv", "--given", "target=2")[0] == 0
    drawn = read(tmp_path / "iris.csv")
    assert isinstance(drawn, Table)
    assert drawn.columns.schema == read("sklearn:iris").columns.schema  # type: ignore[union-attr]
    assert set(drawn.columns["target"].to_pylist()) == {2}
    code, out, _ = run("inspect", "sklearn:wine", "--condition", "target", "--columns", "alcohol,ash,target")
    assert code == 0
    assert "alcohol: at most 2 decimals" in out
    assert "conditions: target" in out
    assert "recipe auto would choose" in out


def test_samples_are_a_function_of_the_seed_and_the_options_reach_the_sampler(run: Run, tmp_path: Path) -> None:
    assert run("fit", "toy:rings", "--out", tmp_path / "run", *TINY)[0] == 0
    drawn = {}
    for name, options in {
        "first": ["--seed", 1],
        "same": ["--seed", 1],
        "more": ["--seed", 1, "--rows", 12],
        "seed": ["--seed", 2],
        "sampler": ["--seed", 1, "--sampler", "ddim"],
        "steps": ["--seed", 1, "--steps", 6],
    }.items():
        rows = [] if "--rows" in options else ["--rows", 8]
        assert run("sample", tmp_path / "run", "--out", tmp_path / f"{name}.npy", *rows, *options)[0] == 0
        drawn[name] = np.load(tmp_path / f"{name}.npy")
    np.testing.assert_array_equal(drawn["first"], drawn["same"])
    np.testing.assert_allclose(drawn["more"][:8], drawn["first"], rtol=0, atol=1e-5)
    for name in ("seed", "sampler", "steps"):
        assert np.abs(drawn[name] - drawn["first"]).max() > 1e-4


def test_recipes_from_files_budgets_and_columns(run: Run, tmp_path: Path) -> None:
    write(Table(table()), tmp_path / "data.csv")
    (tmp_path / "own.toml").write_text('name = "own"\n[network]\nwidth = 8\n[training]\nbatch = 7\n')
    own = ["--recipe", tmp_path / "own.toml", "--columns", "x,count", "--budget", "0.2s"]
    code, _, err = run("fit", tmp_path / "data.csv", "--out", tmp_path / "run", *own)
    assert code == 0, err
    made = load(tmp_path / "run", device="cpu")
    assert (made.recipe.name, made.recipe.network.width, made.recipe.training.batch) == ("own", 8, 7)
    assert made.recipe.training.budget == 0.2
    drawn = made.sample(2)
    assert isinstance(drawn, Table)
    assert drawn.columns.column_names == ["x", "count"]


def test_the_same_command_on_a_finished_run_has_nothing_to_do(run: Run, tmp_path: Path) -> None:
    command = ["fit", "toy:rings", "--out", tmp_path / "run", *TINY]
    assert run(*command)[0] == 0
    before = tree(tmp_path)
    code, _, err = run(*command)
    assert code == 0
    assert "is complete already, nothing to do" in err
    assert tree(tmp_path) == before
    assert run(*command, "--seed", 1)[0] == 2
    assert tree(tmp_path) == before


def test_bad_images_are_refused_or_skipped_as_asked(run: Run, tmp_path: Path) -> None:
    source = folder_of_images(tmp_path / "pets", "L")
    (source / "cats" / "torn.png").write_bytes((source / "cats" / "1.png").read_bytes()[:40])
    code, _, err = run("fit", source, "--out", tmp_path / "run", *TINY_IMAGES)
    assert code == 2
    assert "torn.png" in err
    assert not (tmp_path / "run").exists()
    code, _, err = run("fit", source, "--out", tmp_path / "run", "--on-bad", "skip", *TINY_IMAGES)
    assert code == 0
    assert "torn.png" in err


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, program: Callable[..., int]) -> Path:
    """A folder with data, a run with a condition, one of images, and things that are none of ours."""
    folder = tmp_path_factory.mktemp("place")
    write(Table(table()), folder / "data.csv")
    (folder / "ragged.csv").write_text("a,b\n1,2\n3\n")
    (folder / "schema.toml").write_text("x = 3\n")
    (folder / "nan.csv").write_text("a,b\n1,2\nnan,3\n4,5\n")
    (folder / "empty.csv").write_text("")
    (folder / "notes").mkdir()
    (folder / "notes" / "todo.txt").write_text("buy milk")
    write(Images(pictures("L"), "L"), folder / "pets.parquet")
    labelled = np.arange(24) % 2
    write(Images(pictures("L"), "L", labels=labelled, label_name="label"), folder / "labelled.parquet")
    np.save(folder / "deep.npy", np.random.default_rng(0).normal(size=(30, 2, 3)))
    for arguments in (
        ["fit", folder / "deep.npy", "--out", folder / "deep", *TINY],
        ["fit", folder / "labelled.parquet", "--out", folder / "labelled run", "--condition", "label", *TINY_IMAGES],
        ["fit", folder / "data.csv", "--out", folder / "run", "--condition", "kind", *TINY],
        ["fit", folder / "pets.parquet", "--out", folder / "image run", *TINY_IMAGES],
    ):
        assert program(*arguments) == 0
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "fit.json").write_text("{}")
    return folder


FIT = "fit data.csv --out new --columns count,x"
REFUSED = {
    "no such file": ("fit date.csv --out new", ["date.csv", "no such file", "'data.csv'"]),
    "ending": ("fit notes/todo.txt --out new", [".txt", "is not known", ".csv"]),
    "folder without images": ("fit notes --out new", ["notes"]),
    "empty": ("fit empty.csv --out new", ["empty.csv"]),
    "ragged": ("fit ragged.csv --out new", ["ragged.csv", "line 3"]),
    "not finite": ("fit nan.csv --out new", ["nan.csv", "NaN", "row 2", "'a'"]),
    "column type": ("fit data.csv --out new --column-type kind=number", ["kind=number: the column holds string"]),
    "column type unknown": ("fit data.csv --out new --column-type x=count", ["no such type", "category", "out"]),
    "column type of none": ("fit data.csv --out new --column-type conut=number", ["conut", "did you mean 'count'"]),
    "column type of a condition": (
        "fit data.csv --out new --condition kind --column-type kind=category",
        ["kind: a condition has the type"],
    ),
    "column type of an array": ("fit toy:moons --out new --column-type x=number", ["which has no columns"]),
    "column type torn": ("fit data.csv --out new --column-type x", ["--column-type x", "COL=VALUE"]),
    "order that lacks": ("fit data.csv --out new --column-type kind=ordered:oak<elm", ["'elm, old' has no place"]),
    "schema gone": ("fit data.csv --out new --schema gone.toml", ["gone.toml", "cannot be read as TOML"]),
    "schema of numbers": ("fit data.csv --out new --schema schema.toml", ["x = 3", "a type in quotes"]),
    "toy": ("fit toy:moon --out new", ["toy:moon", "'moons'"]),
    "sklearn": ("fit sklearn:irsi --out new", ["'iris'"]),
    "download": ("fit sklearn:california_housing --out new", ["nothing is downloaded"]),
    "recipe": (f"{FIT} --recipe emd", ["recipe emd", "'edm'"]),
    "recipe file": (f"{FIT} --recipe gone.toml", ["gone.toml", "No such file"]),
    "set typo": (f"{FIT} --set training.bach=3", ["training has no field 'bach'", "'batch'"]),
    "set type": (f"{FIT} --set training.batch=big", ["training.batch", "'big'"]),
    "set twice": (f"{FIT} --set training.batch=3 --set training.batch=4", ["training.batch is given twice"]),
    "set and steps": (f"{FIT} --steps 4 --set training.steps=4", ["training.steps is given twice"]),
    "set group": (f"{FIT} --set training=4", ["that is a group"]),
    "set nothing": (f"{FIT} --set training.batch", ["expected path=value"]),
    "range": (f"{FIT} --set noise.sigma_min=9 --set noise.sigma_max=1", ["sigma_min 9 must lie below"]),
    "unet": (f"{FIT} --set network.kind=unet", ["unet needs rows of shape"]),
    "budget": (f"{FIT} --budget soon", ["--budget soon", "5min"]),
    "budget zero": (f"{FIT} --budget 0s", ["--budget 0s"]),
    "columns": ("fit data.csv --out new --columns x,,count", ["--columns x,,count"]),
    "column": ("fit data.csv --out new --columns x,conut", ["'conut'", "'count'"]),
    "condition": (f"{FIT} --condition knid", ["'knid'"]),
    "all conditions": ("fit data.csv --out new --columns kind --condition kind", ["every column is a condition"]),
    "device": (f"{FIT} --device tpu", ["--device tpu", "cpu"]),
    "on bad": (f"{FIT} --on-bad drop", ["--on-bad drop", "skip"]),
    "foreign folder": ("fit data.csv --out notes --columns count,x", ["notes", "is not a run of scorefield"]),
    "out is a file": ("fit data.csv --out ragged.csv --columns count,x", ["ragged.csv", "is not a run"]),
    "other request": (
        "fit data.csv --out run --condition kind --steps 6",
        ["begun with recipe", "choose another --out"],
    ),
    "no run": ("sample nowhere --out new.csv", ["nowhere", "no such folder"]),
    "no model": ("sample notes --out new.csv", ["notes is not a scorefield model"]),
    "unfinished": ("sample unfinished --out new.csv", ["training has not finished"]),
    "network width": (f"{FIT} --set network.width=0", ["network.width", "0"]),
    "network channels": (f"{FIT} --set network.channels=[0,32]", ["network.channels", "0"]),
    "sampler": ("sample run --out new.csv --sampler huen", ["'huen'", "heun"]),
    "one step": ("sample run --out new.csv --steps 1", ["steps must be at least 2, got 1"]),
    "given unknown": ("sample run --out new.csv --given colour=red", ["'colour'", "'kind'"]),
    "given unseen": ("sample run --out new.csv --given kind=oka", ["never 'oka'", "did you mean 'oak'", "elm, old"]),
    "given no value": ("sample run --out new.csv --given kind", ["--given kind", "COL=VALUE"]),
    "given twice": ("sample run --out new.csv --given kind=oak --given kind=oak", ["'kind' is given twice"]),
    "given to unconditional": ("sample image*run --out new.npz --given label=1", ["--condition label"]),
    "target ending": ("sample run --out new.xlsx", ["'.xlsx'", ".csv"]),
    "target folder": ("sample run --out gone/new.csv", ["gone does not exist"]),
    "table as images": ("sample run --out new", ["folder of PNGs", "table"]),
    "images as table": ("sample image*run --out new.csv", ["images cannot be a table"]),
    "text as array": ("sample run --out new.npy", ["'kind' is string"]),
    "target is a folder": ("sample run --out notes", ["notes"]),
    "sample device": ("sample run --out new.csv --device tpu", ["--device tpu"]),
    "inspect nothing": ("inspect gone.csv", ["gone.csv", "no such file"]),
    "inspect foreign fit.json": ("inspect unfinished", ["training has not finished", "not as `fit` wrote it"]),
    "demo in a file": ("demo --out ragged.csv", ["--out ragged.csv/run", "cannot be made"]),
    "demo nowhere": ("demo --out /proc/demo", ["--out /proc/demo/run", "cannot be made"]),
}


DOOMED = {
    "labels in an npy": ("labelled*run --out new.npy", "no place for the labels"),
    "deep rows in a csv": ("deep --out new.csv", "rows of shape (2, 3)"),
    "text in an npy": ("run --out new.npy", "'kind' is string"),
}


@pytest.mark.parametrize("case", DOOMED)
def test_a_form_that_the_file_cannot_hold_is_refused_before_sampling(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(bundle_file.Bundle, "sample", lambda *arguments, **options: pytest.fail("sampled"))
    before = tree(place)
    words, part = DOOMED[case]
    code, _, err = run("sample", *(word.replace("*", " ") for word in words.split()))
    assert code == 2
    assert part in err
    assert tree(place) == before


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_input_is_one_clear_line_exit_2_and_nothing_created(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(place)
    before = tree(place)
    words, parts = REFUSED[case]
    code, out, err = run(*(word.replace("*", " ") for word in words.split()))
    assert code == 2, err
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert err.count("error:") == 1
    assert "Traceback" not in err
    for part in parts:
        assert part in last, last
    assert tree(place) == before


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("fit data.csv", "--out"),
        ("fit --out new", "'data'"),
        ("fit data.csv --out new --steps 0", "--steps"),
        ("fit data.csv --out new --steps many", "'--steps'"),
        ("fit data.csv --out new --seed -1", "--seed"),
        ("fit data.csv --out new --stpes 4", "--steps"),
        ("sample run --out new.csv --rows 0", "--rows"),
        ("sample run --out new.csv --rows 1e3", "'--rows'"),
        ("sampel run", "sampel"),
    ],
)
def test_wrong_options_say_which_and_exit_2(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, words: str, part: str
) -> None:
    monkeypatch.chdir(place)
    before = tree(place)
    code, _, err = run(*words.split())
    assert code == 2
    assert part in err
    assert "Traceback" not in err
    assert tree(place) == before


def test_a_damaged_run_is_refused_by_the_name_of_the_file(run: Run, tmp_path: Path) -> None:
    assert run("fit", "toy:rings", "--out", tmp_path / "run", *TINY)[0] == 0
    path = tmp_path / "run" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    for command in (["sample", tmp_path / "run", "--out", tmp_path / "a.npy"], ["inspect", tmp_path / "run"]):
        code, _, err = run(*command)
        assert code == 2
        assert "model.safetensors is damaged" in err
    assert not (tmp_path / "a.npy").exists()


def test_a_damaged_checkpoint_is_a_warning_of_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["fit", "toy:rings", "--out", tmp_path / "run", *TINY, "--set", "checkpoint.every=2"]
    steps = 0

    def stop(self: Console) -> bool:
        nonlocal steps
        steps += 1
        return steps == 4

    with monkeypatch.context() as patch:
        patch.setattr(Console, "should_stop", stop)
        code, _, err = run(*command)
    assert code == 75
    assert "stopped at step 4; the same command goes on" in err
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    os.truncate(newest / "state.safetensors", 10)
    code, _, err = run(*command)
    assert code == 0
    told = [line for line in err.splitlines() if line.startswith("warning:")]
    assert len(told) == 1
    assert "state.safetensors has 10 bytes, the manifest says" in told[0]
    assert "going on from step 2" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.DataError("x"), 2),
        (errors.OptionError("x"), 2),
        (errors.BundleError("x"), 2),
        (errors.WriteError("x"), 1),
        (errors.TrainingError("x"), 1),
        (errors.SamplingError("x"), 1),
        (errors.Interrupted("x"), 75),
        (OSError(28, "No space left on device", "place"), 1),
    ],
)
def test_exit_codes_follow_the_kind_of_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fails(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("scorefield.inspection.describe_data", fails)
    assert run("inspect", "data.csv") == (code, "", f"error: {error}\n")


def test_a_disk_that_fills_up_while_saving_is_1(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run("fit", "toy:rings", "--out", tmp_path / "run", *TINY)
    assert code == 1
    assert "No space left on device" in err.strip().splitlines()[-1]
    assert "Traceback" not in err


def test_a_model_that_draws_nan_is_1_and_writes_nothing(run: Run, place: Path, tmp_path: Path) -> None:
    broken = load(place / "run", device="cpu")
    with torch.no_grad():
        next(broken.denoiser.parameters()).fill_(torch.nan)
    broken.save(tmp_path / "broken")
    code, _, err = run("sample", tmp_path / "broken", "--out", tmp_path / "a.csv")
    assert code == 1
    assert "not finite" in err
    assert not (tmp_path / "a.csv").exists()


def test_a_saved_model_is_no_place_for_fit(run: Run, place: Path, tmp_path: Path) -> None:
    load(place / "run", device="cpu").save(tmp_path / "model")
    code, _, err = run("fit", "toy:rings", "--out", tmp_path / "model", *TINY)
    assert code == 2
    assert "it is a saved model, not a run; choose another --out" in err


def test_an_unfinished_run_is_shown_as_one(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["fit", "toy:rings", "--out", tmp_path / "run", *TINY, "--set", "training.patience=99"]
    command[command.index("--steps") + 1] = "40"
    steps = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(Console, "should_stop", lambda self: next(steps) == 23)
        assert run(*command)[0] == 75
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": ')
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[:-1]]
    code, out, _ = run("inspect", tmp_path / "run")
    assert code == 0
    last, held_out = lines[-1], [line for line in lines if "held_out" in line][-1]
    for part in (
        "training has not finished here, the same `scorefield fit` goes on with it",
        "learning from array of",
        f"last logged: step {last['step']} ",
        f"loss {last['loss']:.4g}",
        f"held-out loss {held_out['held_out']['mean']:.4g} at step {held_out['step']}",
        "last checkpoint: step-000000023",
    ):
        assert part in out, out
    (tmp_path / "run" / "metrics.jsonl").unlink()
    code, out, _ = run("inspect", tmp_path / "run")
    assert code == 0
    assert "no step is logged yet" in out


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_asks_a_second_stops_at_once_and_handlers_are_put_back(kind: signal.Signals) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with Console() as console:
        assert not console.should_stop()
        os.kill(os.getpid(), kind)
        assert console.should_stop()
        tell = console.drawing()
        with pytest.raises(Interrupted, match="stopped when 33% of 9 rows were drawn, nothing was written"):
            tell(Progress(3 / 9, 9, 27))
        tell(Progress(1.0, 9, 81))  # finished work is not thrown away
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), kind)
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_while_sampling_stops_between_steps_unless_all_is_done(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    """All rows are one chunk here: only the steps of the sampler can take up the signal."""
    true_drawing = Console.drawing

    def drawing(self: Console) -> Callable[[Progress], None]:
        tell = true_drawing(self)

        def signalled(progress: Progress) -> None:
            if progress.share == 1.0 if last else 0.2 < progress.share < 0.3:
                os.kill(os.getpid(), signal.SIGINT)
            tell(progress)

        return signalled

    monkeypatch.setattr(Console, "drawing", drawing)
    options = ["--rows", 100, "--steps", 8, "--sampler", "euler"]
    code, _, err = run("sample", place / "run", *options, "--out", tmp_path / "a.csv")
    if last:
        assert code == 0, err
        assert len(read(tmp_path / "a.csv")) == 100
    else:
        assert code == 75
        assert "stopped when 25% of 100 rows were drawn" in err
        assert list(tmp_path.iterdir()) == []


def test_drawing_shows_share_rate_and_time_left_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for terminal, shown in ((True, ["25%", "50%"]), (False, ["50%"])):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with Console() as console:
            tell = console.drawing()
            for share in (0.0, 0.25, 0.2501, 0.5):
                tell(Progress(share, 80, round(share * 80 * 9)))
                now += 5.0 if share != 0.25 else 0.001
        err = capsys.readouterr().err
        lines = [line for line in err.replace("\r\033[K", "\n").splitlines() if line.strip()]
        assert [line.split()[0] for line in lines] == shown, err
    assert "50% of 80 rows, 4 rows/s, 36 evaluations/s, 10s done, 10s left" in lines[-1]


def test_a_second_signal_stops_at_once_with_75_and_the_same_command_finishes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["fit", "toy:rings", "--out", tmp_path / "run", *TINY]

    def twice(self: Console) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Console, "should_stop", twice)
        code, _, err = run(*command)
    assert code == 75
    assert "error: stopped at once" in err
    assert "Traceback" not in err
    assert run(*command)[0] == 0


def test_a_signal_before_the_work_begins_is_75(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scorefield.api.load", lambda *arguments: signal.raise_signal(signal.SIGINT))
    code, out, err = run("sample", tmp_path, "--out", tmp_path / "a.csv")
    assert (code, out) == (75, "")
    assert err == "error: stopped at once; the same command goes on from what was saved, if anything\n"


def program(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "scorefield", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def test_sigint_in_the_middle_is_75_and_the_same_command_finishes(run: Run, tmp_path: Path) -> None:
    command = ["fit", "toy:rings", "--out", tmp_path / "run", *TINY]
    command[command.index("--steps") + 1] = "1500"
    started = program(*command)
    assert started.stderr is not None
    try:
        deadline = time.monotonic() + 60
        seen = ""
        while "loss" not in seen and time.monotonic() < deadline:
            seen += started.stderr.readline()
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 75, seen + err
    assert "the same command goes on from there" in err
    stopped = int(err.split("stopped at step ")[1].split(";")[0])
    assert 1 <= stopped < 1500
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{stopped:09d}"]
    code, out, err = run(*command)
    assert code == 0
    assert f"going on from step {stopped}" in err
    assert "1500 steps" in out
    assert run("fit", "toy:rings", "--out", tmp_path / "whole", *command[4:])[0] == 0
    ends = [json.loads((tmp_path / name / "bundle.json").read_text())["training"] for name in ("run", "whole")]
    assert ends[0]["held_out"] == ends[1]["held_out"]


# -- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["--help", "fit --help", "sample --help", "inspect --help", "demo --help", "--version"]
)
def test_help_imports_nothing_heavy(words: str) -> None:
    heavy = ["torch", "numpy", "pyarrow", "pandas", "sklearn", "matplotlib", "PIL", "safetensors", "scipy"]
    code = (
        "import sys\n"
        f"sys.argv = ['scorefield', *{words.split()!r}]\n"
        "from scorefield.cli.app import main\n"
        "try:\n    main()\n"
        f"finally:\n    print('HEAVY', [name for name in {heavy!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert ("Usage" in done.stdout) == ("--help" in words)


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == (0, f"scorefield {version('scorefield')}\n", "")


def test_python_dash_m_is_the_program() -> None:
    done = program("inspect", "nothing.csv")
    out, err = done.communicate(timeout=60)
    assert done.returncode == 2
    assert out == ""
    assert err.startswith("error: nothing.csv: no such file")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (185, "3m05s"), (7800, "2h10m")])
def test_a_clock_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text
