"""fit and load: every form of data, the seed decides, interrupted is uninterrupted, other requests are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import scorefield as sf
from scorefield import finish, storage
from scorefield.bundle import Bundle
from scorefield.data import Array, Images, Table
from scorefield.errors import BundleError, DataError, Interrupted, OptionError, TrainingError
from scorefield.overrides import override
from scorefield.progress import Quiet
from scorefield.samplers.choice import COST
from scorefield.storage import MANIFEST
from scorefield.training.loop import Step, Trainer

SMALL = ["network.width=16", "training.steps=20", "training.batch=16", "training.precision=float32"]
SMALL += ["training.patience=99"]  # an untrained network knows Gaussian data already, and may only get worse
TINY_IMAGES = ["network.channels=[32]", "network.blocks=[1]", "network.attention=[false]", "training.steps=3"]


def recipe(*more: str) -> sf.Recipe:
    names = {text.partition("=")[0] for text in more}
    return override(sf.recipes.edm(), [*(s for s in SMALL if s.partition("=")[0] not in names), *more])


def fit(data: Any, *more: str, **options: Any) -> Bundle:
    return sf.fit(data, recipe(*more), device="cpu", **options)


def table(rows: int = 60) -> pa.Table:
    random = np.random.default_rng(0)
    return pa.table(
        {"a": random.normal(size=rows), "b": random.integers(0, 9, rows), "c": ["x", "y", "z"] * (rows // 3)}
    )


def array(rows: int = 60) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)


def pictures(rows: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, 5, 4), dtype=np.uint8)


def weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    return bundle.denoiser.state_dict()


def same(first: Bundle, second: Bundle) -> bool:
    mine, theirs = weights(first), weights(second)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class StopAt(Quiet):
    """Asks to stop after a number of steps of this run, and remembers what was said."""

    def __init__(self, after: int = 10**9) -> None:
        self.after, self.steps, self.said, self.reported = after, 0, list[str](), list[Step]()

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, step: Step, loss: float, std_error: float, rate: float, seconds_left: float) -> None:
        self.reported.append(step)
        assert np.isfinite(loss)
        assert std_error >= 0
        assert rate > 0
        assert seconds_left >= 0

    def should_stop(self) -> bool:
        self.steps += 1
        return self.steps >= self.after


# -- every form of data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["arrow", "pandas", "polars", "csv", "parquet"])
def test_equivalence_a_table_in_any_form_learns_the_same(form: str, tmp_path: Path) -> None:
    data = table()
    given: Any = data
    if form == "pandas":
        given = data.to_pandas()
        assert isinstance(given, pd.DataFrame)
    elif form == "polars":
        given = pl.from_arrow(data)
    elif form == "csv":
        given = tmp_path / "data.csv"
        data.to_pandas().to_csv(given, index=False)
    elif form == "parquet":
        import pyarrow.parquet as pq

        given = str(tmp_path / "data.parquet")
        pq.write_table(data, given)
    found, expected = fit(given, condition=["c"]), fit(data, condition=["c"])
    assert same(found, expected)
    drawn = found.sample(7)
    assert isinstance(drawn, Table)
    assert drawn.columns.schema == data.schema
    assert drawn.columns.equals(expected.sample(7).columns)  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["numpy", "torch", "npy", "data"])
def test_equivalence_an_array_in_any_form_learns_the_same(form: str, tmp_path: Path) -> None:
    given: Any = {"numpy": array(), "torch": torch.from_numpy(array()), "data": Array(array())}.get(form)
    if form == "npy":
        given = tmp_path / "data.npy"
        np.save(given, array())
    found = fit(given)
    assert same(found, fit(array()))
    drawn = found.sample(4)
    assert isinstance(drawn, Array)
    assert (drawn.values.shape, drawn.values.dtype) == ((4, 3), np.float32)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 3, 2)])
def test_arrays_of_any_shape(shape: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).normal(size=(30, *shape))
    drawn = fit(data, "training.steps=3").sample(4)
    assert isinstance(drawn, Array)
    assert (drawn.values.shape, drawn.values.dtype) == ((4, *shape), np.float64)


def test_images_with_and_without_labels() -> None:
    drawn = fit(pictures(), *TINY_IMAGES).sample(3)
    assert isinstance(drawn, Images)
    assert (drawn.pixels.shape, drawn.pixels.dtype, drawn.mode) == ((3, 5, 4, 1), np.uint8, "L")
    assert drawn.labels is None
    labelled = Images(pictures()[..., None], "L", labels=np.array(["cat", "dog", "owl"] * 10), label_name="animal")
    bundle = fit(labelled, *TINY_IMAGES, condition=["animal"])
    owls = bundle.sample(3, given={"animal": "owl"})
    assert isinstance(owls, Images)
    assert owls.label_name == "animal"
    assert owls.labels is not None
    assert owls.labels.tolist() == ["owl"] * 3


@pytest.mark.parametrize("preset", ["auto", "edm", "ddpm", "ncsn"])
def test_every_preset_by_its_own_defaults(preset: str) -> None:
    small = override(sf.recipes.PRESETS[preset](), ["network.width=16", "training.steps=3"])
    bundle = sf.fit(array(), small, device="cpu")
    assert bundle.recipe.name == preset
    assert len(bundle.sample(2, steps=5)) == 2


def test_columns_choose_and_several_conditions_come_back_in_place() -> None:
    data = table().append_column("d", pa.array(np.arange(60) % 2 == 0))
    drawn = fit(data, "training.steps=3", columns=["c", "b", "d", "a"], condition=["d", "c"]).sample(50)
    assert isinstance(drawn, Table)
    assert drawn.columns.column_names == ["c", "b", "d", "a"]
    assert drawn.columns.schema == data.select(["c", "b", "d", "a"]).schema
    occurred = {(c, d) for c, d in zip(data["c"].to_pylist(), data["d"].to_pylist(), strict=True)}
    assert {*zip(drawn.columns["c"].to_pylist(), drawn.columns["d"].to_pylist(), strict=True)} <= occurred


@pytest.mark.parametrize("kind", ["int8", "uint16", "int32", "int64", "float32", "float64", "bool", "str"])
def test_conditions_keep_their_types_and_values(kind: str) -> None:
    values = pa.array(np.array([1, 2, 3] * 20).astype(kind) if kind != "bool" else [True, False, True] * 20)
    values = pa.array([0.1, 5.1, 7.3] * 20, values.type) if kind.startswith("float") else values
    data = pa.table({"x": np.random.default_rng(0).normal(size=60), "c": values})
    drawn = fit(data, "training.steps=3", condition=["c"]).sample(20)
    assert isinstance(drawn, Table)
    assert drawn.columns.schema == data.schema
    assert set(drawn.columns["c"].to_pylist()) <= set(data["c"].to_pylist())


# -- the seed ---------------------------------------------------------------------------------------------------------


def test_the_seed_decides_everything_and_the_global_generator_nothing() -> None:
    first = fit(array(), seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        before = torch.random.get_rng_state()
        second = fit(array(), seed=3)
        second.sample(2)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert same(first, second)
    assert not same(first, fit(array(), seed=4))
    assert first.facts["training"]["seed"] == 3


def test_loading_gives_what_fit_returned(tmp_path: Path) -> None:
    made = fit(array(), out=tmp_path / "run")
    loaded = sf.load(tmp_path / "run", device="cpu")
    assert same(made, loaded)
    assert loaded.facts == made.facts
    assert not loaded.denoiser.training
    assert not made.denoiser.training


def test_facts_say_what_was_done(tmp_path: Path) -> None:
    bundle = fit(array(), out=tmp_path / "run")
    assert bundle.facts["data"]["rows"] == 60
    assert bundle.facts["data"]["fingerprint"] == Array(array()).fingerprint()
    assert bundle.facts["training"]["steps"] == 20
    assert bundle.facts["training"]["parameters"] == sum(p.numel() for p in bundle.denoiser.parameters())
    journal = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert journal[-1]["step"] == 20
    # That of the last measurement or, where it has risen since, the least.
    measured = [line["held_out"]["mean"] for line in journal if "held_out" in line]
    assert bundle.facts["training"]["held_out_loss"] in (measured[-1], min(measured))
    assert [line["step"] for line in journal] == sorted({line["step"] for line in journal})


# -- interrupted is uninterrupted -------------------------------------------------------------------------------------


def history(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "steps_per_second")} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    run = tmp_path_factory.mktemp("whole") / "run"
    return fit(table(), "training.steps=47", out=run, condition=["c"]), run


@pytest.mark.parametrize("stops", [[1], [10], [13, 1, 20], [46]])
def test_law_an_interrupted_run_equals_the_uninterrupted_one(
    stops: list[int], uninterrupted: tuple[Bundle, Path], tmp_path: Path
) -> None:
    whole, whole_run = uninterrupted
    run = tmp_path / "run"
    done = 0
    for stop in stops:
        done += stop
        with pytest.raises(Interrupted, match=f"stopped at step {done}; the same command goes on"):
            fit(table(), "training.steps=47", out=run, condition=["c"], report=StopAt(stop))
        with pytest.raises(BundleError, match="training has not finished here"):
            sf.load(run)
    told = StopAt()
    parts = fit(table(), "training.steps=47", out=run, condition=["c"], report=told)
    assert f"going on from step {done}" in told.said
    assert same(whole, parts)
    assert history(run) == history(whole_run)
    assert parts.sample(5).fingerprint() == whole.sample(5).fingerprint()
    assert parts.facts["training"]["held_out"] == whole.facts["training"]["held_out"]


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_law_interrupted_images_too(optimiser: str, tmp_path: Path) -> None:
    settings = (
        "network.channels=[16,32]",
        "network.blocks=[1,1]",
        "network.attention=[false,true]",
        "training.steps=6",
        f"training.optimiser={optimiser}",
    )
    whole = fit(pictures(), *settings, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(pictures(), *settings, out=tmp_path / "run", report=StopAt(3))
    assert same(whole, fit(pictures(), *settings, out=tmp_path / "run"))
    assert history(tmp_path / "run") == history(tmp_path / "whole")


class Killed(BaseException):
    """What a killed process does."""


# -- solvers fitted after training ------------------------------------------------------------------------------------

# Never ended early, which would leave too little to pay for solvers.
AUTO = ("sampler.name=auto", "training.steps=47", "checkpoint.every=7", "training.patience=99")


@pytest.fixture
def long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solvers may cost thirty times what training did, so that 47 steps are enough for 70 paths or so."""
    monkeypatch.setattr(finish, "_FITTING_SHARE", 30.0)


@pytest.mark.parametrize("killed_at", ["training", "fitting", "saving"])
def test_law_a_run_killed_and_gone_on_with_has_the_same_solvers(
    killed_at: str, long_enough: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"condition": ["c"]}
    whole = fit(table(), *AUTO, out=tmp_path / "whole", **options)
    assert whole.solvers is not None
    true_update = Trainer._update

    def killed(self: Trainer) -> Any:
        if self.number == 30:
            raise Killed
        return true_update(self)

    def die(*arguments: object, **named: object) -> None:
        raise Killed

    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        if killed_at == "training":
            patch.setattr(Trainer, "_update", killed)
        else:
            patch.setattr(Bundle, "with_solvers" if killed_at == "fitting" else "save", die)
        fit(table(), *AUTO, out=run, **options)
    assert not (run / "solvers.json").exists()
    found = fit(table(), *AUTO, out=run, **options)
    assert found.solvers == whole.solvers
    assert (run / "solvers.json").read_bytes() == (tmp_path / "whole" / "solvers.json").read_bytes()
    assert sf.load(run, device="cpu").solvers == whole.solvers
    assert found.sample(5).fingerprint() == whole.sample(5).fingerprint()


def test_what_was_fitted_is_said_with_its_errors_and_taken_by_sample(long_enough: None) -> None:
    told = StopAt()
    bundle = fit(array(), *AUTO, report=told)
    assert bundle.solvers is not None
    said = [text for text in told.said if text.startswith("solvers fitted to the model")]
    assert len(said) == 1
    for solver in bundle.solvers.fitted:
        shown = f"{solver.error:.2g} with {solver.steps}"
        assert (shown in said[0].replace(" evaluations", "").split("deviation ")[1].split(", ")) == (
            solver.steps in (5, 10, 20, 50)
        )
    assert bundle.sample(4).fingerprint() == bundle.sample(4, sampler="fitted").fingerprint()


@pytest.mark.parametrize("settings", [(), ("sampler.name=heun",), ("sampler.name=adaptive",)])
def test_other_samplers_and_short_training_have_no_solvers(settings: tuple[str, ...], tmp_path: Path) -> None:
    # Of 47 steps of 16 rows a tenth pays for no path.
    told = StopAt()
    bundle = fit(array(), *AUTO[1:], *(settings or AUTO[:1]), out=tmp_path / "run", report=told)
    assert bundle.solvers is None
    assert not (tmp_path / "run" / "solvers.json").exists()
    assert not any("solvers fitted" in text for text in told.said)


@pytest.mark.parametrize("name", ["heun", "adaptive"])
def test_a_sampler_that_needs_none_has_none_however_long_training_was(name: str, long_enough: None) -> None:
    assert fit(array(), *AUTO[1:], f"sampler.name={name}").solvers is None


def test_a_recipe_may_ask_for_fitted_before_there_are_any(long_enough: None, tmp_path: Path) -> None:
    assert fit(array(), *AUTO[1:], "sampler.name=fitted").solvers is not None
    short = fit(array(), "sampler.name=fitted", "training.steps=2")
    with pytest.raises(OptionError, match="no solver was fitted to this model"):
        short.sample(2)
    with pytest.raises(OptionError, match="of langevin, not of"):
        fit(array(), "sampler.name=fitted", "sampler.moves=3", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shape", [(2,), (64,), (1, 28, 28), (3, 32, 32), (3, 128, 128)])
@pytest.mark.parametrize("steps", [10, 1000, 30_000, 10**6])
def test_paths_cost_at_most_a_tenth_of_training_and_fit_into_memory(shape: tuple[int, ...], steps: int) -> None:
    bundle = SimpleNamespace(features=SimpleNamespace(codec=SimpleNamespace(shape=shape)))
    paths = finish._paths(bundle, 3.0 * steps * 256)  # type: ignore[arg-type]
    fewest = 64 if np.prod(shape) < 64 else 16
    assert paths == 0 or fewest <= paths <= 2048
    # Forward and backward of a row count as three evaluations.
    assert paths * COST <= 3 * steps * 256 / 10
    assert paths * int(np.prod(shape)) <= 1 << 18
    # There are some where one may pay for the fewest: after 1000 steps, of rows of at most 16 384 numbers.
    assert (paths > 0) == (steps >= 1000 and int(np.prod(shape)) <= 16_384)


@pytest.mark.parametrize("step", [1, 7, 8, 30])
def test_law_a_run_killed_between_checkpoints_equals_the_uninterrupted_one(
    step: int, uninterrupted: tuple[Bundle, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, settings = tmp_path / "run", ("training.steps=47", "checkpoint.every=7")
    true_update = Trainer._update

    def killed(self: Trainer) -> Any:
        if self.number == step:
            raise Killed
        return true_update(self)

    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        patch.setattr(Trainer, "_update", killed)
        fit(table(), *settings, out=run, condition=["c"])
    # The log is ahead of the checkpoint, and its last line is torn.
    if (run / "metrics.jsonl").exists():
        with open(run / "metrics.jsonl", "a") as file:
            file.write('{"step": ')
    told = StopAt()
    found = fit(table(), *settings, out=run, condition=["c"], report=told)
    assert (f"going on from step {step // 7 * 7}" in told.said) == (step >= 7)
    assert same(uninterrupted[0], found)
    assert history(run) == history(uninterrupted[1])


def test_a_run_killed_at_any_write_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the k-th rename, for every k, until a run comes through; each time the same command goes on."""
    settings = ("training.steps=6", "checkpoint.every=2")
    expected = fit(array(), *settings)
    true_replace = os.replace
    kills = 0
    for k in range(1, 30):
        run = tmp_path / f"run{k}"
        calls = 0

        def replace(source: Any, target: Any, k: int = k) -> None:
            nonlocal calls
            calls += 1
            if calls == k:
                raise Killed
            true_replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(storage.os, "replace", replace)
            try:
                fit(array(), *settings, out=run)
                break
            except Killed:
                kills += 1
        found = fit(array(), *settings, out=run)
        assert same(expected, found)
        assert same(expected, sf.load(run, device="cpu"))
    # fit.json; twice a checkpoint of two files, a manifest and its folder; a bundle of three files and a manifest.
    assert kills == 1 + 2 * 4 + 4


def test_a_stop_at_the_very_last_step_is_no_interruption(tmp_path: Path) -> None:
    bundle = fit(array(), out=tmp_path / "run", report=StopAt(20))
    assert bundle.facts["training"]["steps"] == 20
    assert same(bundle, fit(array()))


def test_a_finished_run_has_nothing_to_do(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = fit(array(), out=run)
    before, told = tree(run), StopAt()
    second = fit(array(), out=run, report=told)
    assert same(first, second)
    assert tree(run) == before
    assert any("is complete already, nothing to do" in text for text in told.said)
    assert told.steps == 0


def test_the_machine_may_choose_otherwise_when_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` chose at the beginning is kept, even if this machine would now choose another precision."""
    run = tmp_path / "run"
    free = recipe("training.precision=auto")
    monkeypatch.setattr("scorefield.resolve.pick_precision", lambda device: ("bfloat16", "fast"))
    with pytest.raises(Interrupted):
        sf.fit(array(), free, out=run, device="cpu", report=StopAt(5))
    monkeypatch.setattr("scorefield.resolve.pick_precision", lambda device: ("float32", "slow"))
    assert sf.fit(array(), free, out=run, device="cpu").recipe.training.precision == "bfloat16"


# -- another request --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "one number"}, "begun with other data .*array of 60 rows.*choose another --out"),
        ({"data": "type"}, "other data .*float32.*now .*float64"),
        ({"recipe": "training.batch=8"}, r"begun with recipe training.batch 16, now 8"),
        ({"recipe": "training.steps=21"}, r"begun with recipe training.steps 20, now 21"),
        ({"recipe": "name=other"}, r"begun with recipe name 'edm', now 'other'"),
        ({"seed": 1}, "begun with seed 0, now 1"),
    ],
)
def test_going_on_with_something_else_is_refused_with_the_difference(
    change: dict[str, Any], message: str, finished: bool, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    if finished:
        fit(array(), out=run)
    else:
        with pytest.raises(Interrupted):
            fit(array(), out=run, report=StopAt(5))
    before = tree(run)
    data = array()
    if change.get("data") == "one number":
        data[30, 1] += 1
    elif change.get("data") == "type":
        data = data.astype(np.float64)
    with pytest.raises(OptionError, match=message):
        fit(data, *([change["recipe"]] if "recipe" in change else []), out=run, seed=change.get("seed", 0))
    assert tree(run) == before


def test_going_on_with_another_condition_is_refused(tmp_path: Path) -> None:
    data = table().drop_columns(["c"]).append_column("d", pa.array(np.arange(60) % 2))
    fit(data, "training.steps=2", out=tmp_path / "run", condition=["d"])
    with pytest.raises(OptionError, match=r"begun with condition \['d'\], now \[\]"):
        fit(data, "training.steps=2", out=tmp_path / "run")


def test_a_renamed_or_copied_file_is_the_same_data(tmp_path: Path) -> None:
    for name in ("one.npy", "two.npy"):
        np.save(tmp_path / name, array())
    with pytest.raises(Interrupted):
        fit(tmp_path / "one.npy", out=tmp_path / "run", report=StopAt(3))
    assert fit(tmp_path / "two.npy", out=tmp_path / "run").facts["training"]["steps"] == 20


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    before = tree(tmp_path)
    for out in (foreign, tmp_path / "file"):
        with pytest.raises(OptionError, match="it exists and is not a run of scorefield; choose another name"):
            fit(array(), out=out)
    with pytest.raises(OptionError, match="cannot be made"):
        fit(array(), out=tmp_path / "file" / "run")
    assert tree(tmp_path) == before


def test_an_empty_folder_and_a_run_killed_at_birth_are_welcome(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".fit.json.partial").write_text('{"recip')
    fit(array(), "training.steps=2", out=tmp_path / "run")
    assert (tmp_path / "run" / MANIFEST).exists()


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"data": 3}'])
def test_a_damaged_fit_json_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(Interrupted):
        fit(array(), out=tmp_path / "run", report=StopAt(3))
    (tmp_path / "run" / "fit.json").write_text(text)
    with pytest.raises(BundleError, match=r"fit\.json"):
        fit(array(), out=tmp_path / "run")


# -- what cannot be learned -------------------------------------------------------------------------------------------


def bad_arrays() -> list[Any]:
    cases = []
    for value, word in ((np.nan, "1 NaN"), (np.inf, "±Inf"), (-np.inf, "±Inf"), (1e35, "beyond")):
        data = array()
        data[41, 2] = value
        cases.append(pytest.param(data, rf"{word}.*row 42, column 2", id=f"{value}"))
    return cases


@pytest.mark.parametrize(("data", "message"), bad_arrays())
def test_data_that_is_not_finite_is_refused_with_count_and_place(
    data: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        fit(data, out=tmp_path / "run")
    frame = pa.table({str(i): data[:, i] for i in range(3)})
    with pytest.raises(DataError, match=message.replace("column 2", "column '2'")):
        fit(frame, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (array()[:1], "1 row, at least 2"),
        (array()[:0], "holds nothing"),
        (np.ones((9, 3)), "all rows are equal"),
        (np.ones((9, 4, 4), np.uint8), "all 9 images are equal"),
        (np.tile(np.arange(6.0).reshape(2, 3), (9, 1, 1)), "all rows are equal"),
        (pa.table({"a": [1.0, 1.0]}), "no column varies"),
        (pa.table({"a": [f"{i} words" for i in range(40)]}), "no column varies.*a: left out, every value is different"),
        (np.array(["a", "b"]), "is no data"),
        ("nothing.csv", "no such file"),
        ("toy:mooons", "did you mean 'moons'"),
        (3, "is no data"),
    ],
)
def test_data_without_a_distribution_is_refused(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((DataError, OptionError), match=message):
        fit(data, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (["noise.sigma_min=5", "noise.sigma_max=1"], {}, "sigma_min 5 must lie below"),
        (["network.kind=unet"], {}, "unet needs rows of shape"),
        (["objective.times=levels"], {}, "times=levels needs"),
        ([], {"device": "gpu"}, "--device gpu: expected cpu, cuda or auto"),
        ([], {"columns": ["a", "zz"]}, "no column 'zz'"),
        ([], {"columns": ["a", "a"]}, "asked for 2 times"),
        ([], {"condition": ["cc"]}, "no column 'cc' to condition on.*'c'"),
        ([], {"condition": ["a", "b", "c"]}, "every column is a condition"),
        ([], {"on_bad": "ignore"}, "on_bad: 'ignore'"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_created(
    settings: list[str], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = {"device": "cpu", "condition": ["c"], "out": tmp_path / "run"} | options
    if "columns" in options:
        given["condition"] = []
    with pytest.raises(OptionError, match=message):
        sf.fit(table(), recipe(*settings), **given)
    assert list(tmp_path.iterdir()) == []


def test_conditions_that_are_missing_or_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=4)
    for column, message in (
        (pa.nulls(4), "condition 'c' is missing throughout"),
        (pa.nulls(4, pa.string()), "condition 'c' is missing throughout"),
        ([1.0, 2.0, np.nan, 1.0], "condition 'c'.*nan.*row 3|row 3, column 'c'"),
        (np.array([1, 2, 3, 4], dtype="datetime64[D]"), r"'c' holds datetime64"),
        (["a", "a", "a", "a"], r"'c' is constant"),
    ):
        table = pa.table({"x": x, "c": column if isinstance(column, pa.Array) else pa.array(column)})
        with pytest.raises(DataError, match=message):
            fit(table, out=tmp_path / "run", condition=["c"])
    assert list(tmp_path.iterdir()) == []


def test_a_condition_may_be_missing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, gaps = random.normal(size=200), random.random(200) < 0.3
    seen = {"kind": ["a" if value < 0 else "b" for value in x], "age": np.round(50 + 9 * x).astype(int)}
    columns = {name: pa.array(values, mask=gaps) for name, values in seen.items()}
    table = pa.table({"x": x, **columns})
    run = fit(table, out=tmp_path / "run", condition=["kind", "age"])
    assert isinstance(run, Bundle)
    drawn = run.sample(100, given={"kind": ""}).columns
    assert drawn.schema == table.schema
    assert (drawn["kind"].null_count, drawn["age"].null_count) == (100, 100)  # they are missing together
    shares = [run.sample(300).columns[name].null_count / 300 for name in columns]
    assert shares[0] == shares[1]
    assert abs(shares[0] - 0.3) < 0.15
    scores = run.log_prob(table.slice(0, 20))
    assert bool(scores.log_prob.isfinite().all())
    assert sf.Bundle.load(tmp_path / "run").sample(9, seed=3).columns.equals(run.sample(9, seed=3).columns)


@pytest.mark.parametrize(
    "data",
    [
        np.array([[0.0, 1.0], [1.0, 5.0]]),
        np.repeat(array()[:3], 10, axis=0),
        np.stack([array()[:, 0], 2 * array()[:, 0]], axis=1),
        np.r_[np.zeros(59), 1e6][:, None],
        array()[:19],
        array()[:21],
    ],
    ids=["two rows", "duplicates", "collinear", "one outlier", "19 rows", "21 rows"],
)
def test_poor_data_is_learned_without_a_division_by_zero(data: np.ndarray, tmp_path: Path) -> None:
    bundle = fit(data, out=tmp_path / "run")
    drawn = bundle.sample(20)
    assert isinstance(drawn, Array)
    assert np.isfinite(drawn.values).all()
    for name in ("bundle.json", "fit.json"):
        json.loads((tmp_path / "run" / name).read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity


def test_a_loss_that_is_not_finite_is_an_error_and_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_update = Trainer._update
    calls = 0

    def poisoned(self: Trainer) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            with torch.no_grad():
                next(self.model.parameters()).fill_(torch.nan)
        return true_update(self)

    monkeypatch.setattr(Trainer, "_update", poisoned)
    with pytest.raises(TrainingError, match="step 4: loss nan"):
        fit(array(), out=tmp_path / "run")
    assert not (tmp_path / "run" / MANIFEST).exists()


def test_law_nan_weights_never_become_a_checkpoint_or_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the loss is looked at every twenty steps only and a checkpoint may come in between."""
    true_update = Trainer._update

    def poisoned(self: Trainer) -> Any:
        done = true_update(self)
        if self.number >= 5:
            with torch.no_grad():
                next(self.model.parameters()).fill_(torch.nan)
        return done

    monkeypatch.setattr(Trainer, "_check_finite", lambda *arguments: None)
    monkeypatch.setattr(Trainer, "_update", poisoned)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"step 6: .* weights are not finite"):
        fit(array(), "checkpoint.every=2", out=run)
    assert sorted(place.name for place in (run / "checkpoints").iterdir())[-1] == "step-000000004"
    assert not (run / MANIFEST).exists()
    with pytest.raises(TrainingError, match="weights are not finite"):
        fit(array(), "checkpoint.every=1000", out=tmp_path / "other")
    assert not (tmp_path / "other" / MANIFEST).exists()


def test_a_saved_model_is_no_run_to_go_on_with(tmp_path: Path) -> None:
    fit(array()).save(tmp_path / "model")
    before = tree(tmp_path)
    with pytest.raises(OptionError, match=r"model: it is a saved model, not a run; choose another --out"):
        fit(array(), out=tmp_path / "model")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["/proc/run", "file/run", "n" * 300, "locked"])
def test_an_impossible_place_is_refused_before_training(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    true_access = os.access
    # Whoever may do anything, as root, is refused by no mode of a folder.
    monkeypatch.setattr(os, "access", lambda p, mode: "locked" not in str(p) and true_access(p, mode))
    monkeypatch.setattr(Trainer, "_update", lambda self: pytest.fail("trained"))
    with pytest.raises(OptionError, match=r"--out .*(cannot be made|cannot be reached|nothing can be written there)"):
        fit(array(), out=tmp_path / place)


def test_progress_ends_with_the_last_step_and_says_what_was_chosen() -> None:
    told = StopAt()
    fit(np.ascontiguousarray(np.c_[array(), np.ones(60)]), report=told)
    assert told.reported[-1].number == 20
    assert told.reported[-1].share == 1
    for word in ("1 constant element", "σ_min", "noise:", "network: mlp", "training: batch 16", "sampler: heun"):
        assert any(word in sentence for sentence in told.said), word


def test_the_public_face_has_what_it_names_and_nothing_else() -> None:
    for name in sf.__all__:
        assert getattr(sf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        sf.fitt  # noqa: B018
