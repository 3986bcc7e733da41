"""A bundle on disk: bit-identical samples, any rows in any chunks, refused when damaged, foreign or hostile."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
import safetensors.torch
import torch

from scorefield import api, drawing
from scorefield.bundle import Bundle
from scorefield.card import short
from scorefield.data import Array, Images, Table, read
from scorefield.drawing import Progress
from scorefield.errors import BundleError, DataError, Interrupted, OptionError, SamplingError, WriteError
from scorefield.overrides import override
from scorefield.recipes import PRESETS
from scorefield.samplers.fitted import FittedSolver
from scorefield.samplers.presets import mala, unipc
from scorefield.storage import MANIFEST

SMALL = ["network.width=16", "training.steps=20", "training.batch=16", "training.precision=float32"]
SMALL_IMAGES = ["network.channels=[32]", "network.blocks=[1]", "network.attention=[false]", "training.steps=5"]


def table(rows: int = 60) -> pa.Table:
    random = np.random.default_rng(0)
    kind = random.choice(["a", "b"], rows)
    return pa.table(
        {
            "kind": kind,
            "n": random.integers(0, 9, rows).astype(np.int16),
            "x": np.where(kind == "a", 3.0, -3.0) + random.normal(size=rows),
            "unit": np.full(rows, 7, np.int8),
        }
    )


def images(rows: int = 40) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 4, 4, 1)).astype(np.uint8)
    return Images(pixels, "L", labels=np.arange(rows) % 3, label_name="label")


def fit(data: Any, condition: list[str], preset: str = "edm", settings: list[str] | None = None) -> Bundle:
    return api.fit(data, override(PRESETS[preset](), settings or SMALL), condition=condition, device="cpu")


@pytest.fixture(scope="module")
def made() -> dict[str, Bundle]:
    """Small bundles of each kind of data and preset."""
    array = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    return {
        "table": fit(table(), ["kind"]),
        "array": fit(array, []),
        "images": fit(images(), ["label"], settings=[*SMALL_IMAGES, *SMALL[2:]]),
        "ddpm": fit(array, [], "ddpm", [*SMALL, "noise.levels=20", "sampler.steps=20"]),
        "ncsn": fit(array, [], "ncsn", [*SMALL, "sampler.steps=6"]),
    }


KINDS = ("table", "array", "images", "ddpm", "ncsn")


@pytest.fixture
def folder(made: dict[str, Bundle], tmp_path: Path) -> Path:
    made["table"].save(tmp_path / "run")
    return tmp_path / "run"


def numbers(data: Any) -> np.ndarray:
    """Drawn rows as one float64 array, (rows, numbers)."""
    if isinstance(data, Table):
        plain = data.columns.drop_columns(["kind"]) if "kind" in data.columns.column_names else data.columns
        return np.stack([column.to_numpy().astype(np.float64) for column in plain.columns], axis=1)
    values = data.pixels if isinstance(data, Images) else data.values
    return values.reshape(len(values), -1).astype(np.float64)


def replaced(folder: Path, name: str, content: bytes) -> None:
    """Put other content under a name, with a manifest that holds: what a forger would do."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load((folder / "model.safetensors").read_bytes())


def fields(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "bundle.json").read_text())


# -- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_law_a_saved_and_loaded_bundle_draws_the_same_bits(made: dict[str, Bundle], kind: str, tmp_path: Path) -> None:
    before = made[kind]
    before.save(tmp_path / "ü run")
    after = Bundle.load(tmp_path / "ü run")
    assert after.recipe == before.recipe
    assert after.noise_range == before.noise_range
    assert after.facts == before.facts
    assert after.features.codec == before.features.codec
    first, second = before.sample(9, seed=3), after.sample(9, seed=3)
    assert first.fingerprint() == second.fingerprint()
    assert before.sample(9, seed=4).fingerprint() != first.fingerprint()
    after.save(tmp_path / "again")
    for name in ("model.safetensors", "bundle.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ü run" / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_law_row_i_does_not_depend_on_how_many_rows_or_chunks(
    made: dict[str, Bundle], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made[kind].sample(50, seed=1)
    drawn = [made[kind].sample(5, seed=1)]
    width = int(np.prod(made[kind].features.codec.shape))
    for chunk in (1, 7, 49):
        monkeypatch.setattr(drawing, "_CHUNK", chunk * width)
        drawn.append(made[kind].sample(50, seed=1))
    expected = numbers(whole)
    scale = expected.std(0) + 1e-9
    for part in drawn:
        found = numbers(part)
        # Products of other sizes round differently, by 10⁻⁷ of the scale; a rounded integer may hardly ever flip.
        assert (np.abs(found - expected[: len(found)]) / scale).max() < (3e-6 if kind != "images" else 0.1)
    if kind == "table":
        assert isinstance(whole, Table)
        assert all(
            p.columns["kind"].to_pylist() == whole.columns["kind"].to_pylist()[: len(p)]
            for p in drawn
            if isinstance(p, Table)
        )


def test_samples_have_the_form_of_the_data(made: dict[str, Bundle]) -> None:
    drawn = made["table"].sample(30, seed=0)
    assert isinstance(drawn, Table)
    assert drawn.columns.schema == table().schema
    assert set(drawn.columns["unit"].to_pylist()) == {7}
    assert set(drawn.columns["n"].to_pylist()) <= set(range(9))
    array = made["array"].sample(30, seed=0)
    assert isinstance(array, Array)
    assert (array.values.shape, array.values.dtype) == ((30, 3), np.float32)
    pictures = made["images"].sample(30, seed=0)
    assert isinstance(pictures, Images)
    assert (pictures.pixels.shape, pictures.pixels.dtype, pictures.mode) == ((30, 4, 4, 1), np.uint8, "L")
    assert pictures.labels is not None
    assert pictures.labels.dtype == images().labels.dtype  # type: ignore[union-attr]
    assert set(pictures.labels.tolist()) <= {0, 1, 2}


def test_what_is_given_holds_and_reaches_the_model(made: dict[str, Bundle]) -> None:
    drawn = made["table"].sample(40, seed=0, given={"kind": "b"})
    assert isinstance(drawn, Table)
    assert set(drawn.columns["kind"].to_pylist()) == {"b"}
    other = made["table"].sample(40, seed=0, given={"kind": "a"})
    # The same noise under another condition: only the model's condition tells them apart.
    assert np.abs(numbers(drawn) - numbers(other)).max() > 1e-3


def test_a_sampler_is_taken_as_it_is(made: dict[str, Bundle]) -> None:
    bundle = made["array"]
    own = numbers(bundle.sample(5, seed=1, sampler=unipc(7)))
    assert np.array_equal(own, numbers(bundle.sample(5, seed=1, sampler="unipc", steps=np.int64(7))))  # type: ignore[arg-type]
    for wrong in (unipc, 7, Bundle):
        with pytest.raises(OptionError, match=r"a sampler is a name, or one as samplers.presets.heun\(18\) makes it"):
            bundle.sample(5, sampler=wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="unipc is given as it is"):
        bundle.sample(5, sampler=unipc(), steps=5)
    with pytest.raises(OptionError, match="mala needs a model with an energy"):
        bundle.sample(5, sampler=mala())


def test_an_energy_is_walked_by_metropolis_rule_and_all_evaluations_are_counted() -> None:
    data = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    bundle = fit(data, [], settings=[*SMALL, "network.energy=true"])
    told: list[Progress] = []
    drawn = numbers(bundle.sample(4, sampler=mala(steps=3, moves=2), on_progress=told.append))
    assert np.isfinite(drawn).all()
    # A score and an energy where a level begins and of each proposal, and the last estimate.
    assert told[-1].evaluations == 4 * (3 * 2 * (1 + 2) + 1)


def test_another_sampler_and_steps_draw_other_rows(made: dict[str, Bundle]) -> None:
    seen = {made["array"].sample(4, sampler=name, steps=5).fingerprint() for name in ("heun", "euler", "ddim", "ddpm")}
    assert len(seen) == 4
    assert made["array"].sample(4, steps=5).fingerprint() in seen  # heun is the recipe's own


@pytest.mark.parametrize("kind", ["array", "ddpm", "ncsn"])
@pytest.mark.parametrize("chunk", [4, 10, 99])
def test_progress_goes_by_step_and_reaches_one_only_at_the_end(
    made: dict[str, Bundle], kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "_CHUNK", 3 * chunk)
    said: list[Progress] = []
    made[kind].sample(10, steps=5, on_progress=said.append)
    told = [progress.share for progress in said]
    assert told[0] == 0
    assert told == sorted(told)
    assert [share for share in told if share >= 1] == [1.0]
    chunks = -(-10 // chunk)
    assert len(told) == chunks * (5 + 1)
    # A chunk's last told step leaves one fifth of the chunk to do.
    assert told[4] == pytest.approx(min(chunk, 10) / 10 * 4 / 5)
    evaluations = [progress.evaluations for progress in said]
    assert evaluations == sorted(evaluations)
    # Heun asks twice a step and once at the last level; DDPM once a level, Langevin once a move and level besides.
    assert evaluations[-1] == 10 * {"array": 2 * 4 + 1, "ddpm": 5, "ncsn": 5 * 100 + 1}[kind]


def test_what_progress_raises_stops_between_steps(made: dict[str, Bundle]) -> None:
    told: list[float] = []

    def stop(progress: Progress) -> None:
        told.append(progress.share)
        if progress.share > 0.3:
            raise Interrupted("enough")

    with pytest.raises(Interrupted, match="enough"):
        made["array"].sample(10, steps=10, on_progress=stop)
    assert told == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("kind", KINDS)
def test_a_blank_row_has_the_form_of_a_sample_without_the_model(
    made: dict[str, Bundle], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = made[kind].sample(1)
    monkeypatch.setattr(type(made[kind].denoiser), "_input_scales", None)
    with pytest.raises(TypeError):
        made[kind].sample(1)
    blank = made[kind].blank()
    assert short(blank) == short(drawn)
    if isinstance(drawn, Table):
        assert isinstance(blank, Table)
        assert blank.columns.schema == drawn.columns.schema
        with pytest.raises(OptionError, match="'kind' was never 'c'"):
            made[kind].blank(given={"kind": "c"})


def test_saving_never_writes_among_foreign_files(made: dict[str, Bundle], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(OptionError, match=r"'README\.md' and is neither a model nor a run"):
        made["array"].save(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("left", [[], [".bundle.json.partial"], ["fit.json", "metrics.jsonl"], [MANIFEST, "notes.txt"]])
def test_saving_takes_an_empty_folder_a_run_a_model_and_what_a_cut_off_save_left(
    made: dict[str, Bundle], left: list[str], tmp_path: Path
) -> None:
    for name in left:
        (tmp_path / name).write_text("{}")
    made["array"].save(tmp_path)
    assert Bundle.load(tmp_path).sample(2).fingerprint() == made["array"].sample(2).fingerprint()


def test_saving_over_a_bundle_replaces_it(made: dict[str, Bundle], folder: Path) -> None:
    made["array"].save(folder)
    assert Bundle.load(folder).sample(3).fingerprint() == made["array"].sample(3).fingerprint()


def test_the_card_names_data_recipe_and_conditions(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    for word in (
        "table of 60 rows",
        "edm",
        "conditions | kind",
        fields(folder)["data"]["fingerprint"],
        "scorefield sample",
    ):
        assert word in text


# -- misuse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rows": 0}, OptionError, "rows must be at least 1, got 0"),
        ({"rows": -3}, OptionError, "got -3"),
        ({"rows": 2, "steps": 1}, OptionError, "steps must be at least 2, got 1"),
        ({"rows": 2, "steps": 0}, OptionError, "steps must be at least 2, got 0"),
        ({"rows": 2, "steps": 4, "tolerance": 0.1}, OptionError, "steps or a tolerance, not both"),
        ({"rows": 2, "sampler": "auto", "tolerance": float("nan")}, OptionError, "positive and finite, got nan"),
        ({"rows": 2, "tolerance": 0.1}, OptionError, "heun takes steps"),
        ({"rows": 2, "sampler": "fitted"}, OptionError, "no solver was fitted"),
        ({"rows": 2, "sampler": "adaptive", "steps": 4}, OptionError, "a tolerance, not 4 steps"),
        ({"rows": 2, "sampler": "heum"}, OptionError, "'heum' is not known.*heun"),
        ({"rows": 2, "given": {"kind": "c"}}, OptionError, "'kind' was never 'c'.*a, b"),
        ({"rows": 2, "given": {"m": 3}}, OptionError, r"no column 'm'; there are \['kind', 'n', 'x'\]"),
    ],
)
def test_misuse_is_refused_before_the_model_is_asked(
    made: dict[str, Bundle],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(*args: object) -> None:
        raise AssertionError("the network was called")

    monkeypatch.setattr(type(made["table"].denoiser), "_input_scales", asked)
    with pytest.raises(error, match=message):
        made["table"].sample(**options)
    with pytest.raises(AssertionError, match="the network was called"):
        made["table"].sample(2)


def test_a_condition_for_a_model_without_one_says_how_to_get_one(made: dict[str, Bundle]) -> None:
    with pytest.raises(OptionError, match="fit it with --condition colour"):
        made["array"].sample(2, given={"colour": "red"})


def test_a_model_that_draws_nan_says_so(made: dict[str, Bundle], folder: Path) -> None:
    broken = Bundle.load(folder)
    with torch.no_grad():
        next(broken.denoiser.parameters()).fill_(torch.nan)
    with pytest.raises(SamplingError, match="3 of 3 rows are not finite"):
        broken.sample(3)


# -- fitted solvers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def solved(made: dict[str, Bundle]) -> dict[str, Bundle]:
    """Bundles with solvers, of a model with a condition and of one without."""
    return {name: made[name].with_solvers(200) for name in ("table", "array")}


@pytest.mark.parametrize("kind", ["table", "array"])
def test_law_saved_and_loaded_solvers_draw_the_same_bits(
    solved: dict[str, Bundle], made: dict[str, Bundle], kind: str, tmp_path: Path
) -> None:
    before = solved[kind]
    before.save(tmp_path / "run")
    after = Bundle.load(tmp_path / "run")
    assert after.solvers == before.solvers is not None
    for options in ({"sampler": "fitted"}, {"sampler": "auto", "steps": 5}, {"sampler": "fitted", "tolerance": 0.2}):
        first, second = before.sample(9, **options), after.sample(9, **options)  # type: ignore[arg-type]
        assert first.fingerprint() == second.fingerprint()
    after.save(tmp_path / "again")
    assert (tmp_path / "again" / "solvers.json").read_bytes() == (tmp_path / "run" / "solvers.json").read_bytes()
    # One without solvers in its place leaves none of another model behind.
    made[kind].save(tmp_path / "run")
    assert Bundle.load(tmp_path / "run").solvers is None


@pytest.mark.parametrize("steps", [5, 12])
def test_the_error_of_a_solver_is_what_other_rows_show(solved: dict[str, Bundle], steps: int) -> None:
    # Rows of `sample` from the same first draws by the solver and by the exact flow, on noise that it was not fitted
    # to or judged by. H₀: the error said has the expectation of the one found; apart by less than 5 standard errors,
    # false alarm 6e-7. Coarse: the standard errors are wide, `test_choice` has the sharper one.
    bundle = solved["array"]
    solver = bundle.sampler_for("fitted", steps)
    assert isinstance(solver, FittedSolver)
    rows = 400
    found, exact = (
        bundle.features.encode(drawn)[0].double()
        for drawn in (
            bundle.sample(rows, seed=7, sampler="fitted", steps=steps),
            bundle.sample(rows, seed=7, sampler="adaptive", tolerance=1e-6),
        )
    )
    squares = (found - exact).square().mean(1) / bundle.denoiser.sigma_data**2
    error = float(squares.mean().sqrt())
    std_error = float(squares.std()) / rows**0.5 / (2 * error)
    assert abs(error - solver.error) < 5 * float(np.hypot(std_error, solver.std_error))


def test_auto_without_solvers_is_unipc_and_with_them_a_fitted_one(
    made: dict[str, Bundle], solved: dict[str, Bundle]
) -> None:
    assert made["array"].sampler_for("auto") == unipc()
    assert made["array"].sampler_for("auto", 7) == unipc(7)
    assert solved["array"].sampler_for().name == "heun"  # the recipe's own, of edm
    auto = solved["array"].sampler_for("auto", 7)
    assert isinstance(auto, FittedSolver)
    assert auto.steps <= 7
    expected = made["array"].sample(5, sampler="unipc")
    assert made["array"].sample(5, sampler="auto").fingerprint() == expected.fingerprint()


DAMAGED = {
    "none": [],
    "no list": {"times": [1.0]},
    "text": ["x"],
    "a field less": [{"times": [2.0, 1.0], "weights": [[1.0, 0.5], [1.0, 0.5]], "error": 0.1}],
    "rising times": [{"times": [1.0, 2.0], "weights": [[1.0, 0.5], [1.0, 0.5]], "error": 0.1, "std_error": 0.1}],
    "too many weights": [{"times": [2.0], "weights": [[1.0, 0.5, 0.5]], "error": 0.1, "std_error": 0.1}],
    "nan": [{"times": [2.0], "weights": [[1.0, float("nan")]], "error": 0.1, "std_error": 0.1}],
    "twice": 2 * [{"times": [2.0], "weights": [[1.0, 0.5]], "error": 0.1, "std_error": 0.1}],
}


@pytest.mark.parametrize("case", DAMAGED)
def test_solvers_that_are_none_are_refused_by_name(solved: dict[str, Bundle], tmp_path: Path, case: str) -> None:
    solved["array"].save(tmp_path / "run")
    for content in (json.dumps(DAMAGED[case]).encode(), json.dumps(DAMAGED[case]).encode()[:-1]):
        replaced(tmp_path / "run", "solvers.json", content)
        with pytest.raises(BundleError, match=r"solvers\.json.* is not as expected"):
            Bundle.load(tmp_path / "run")


def test_a_flipped_bit_in_the_solvers_is_refused(solved: dict[str, Bundle], tmp_path: Path) -> None:
    solved["array"].save(tmp_path / "run")
    content = bytearray((tmp_path / "run" / "solvers.json").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "run" / "solvers.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"solvers\.json is damaged"):
        Bundle.load(tmp_path / "run")


# -- rows varied, and both ways of the flow ---------------------------------------------------------------------------


def rows_of(kind: str, rows: int = 40) -> Any:
    array = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    return {"table": table().slice(0, rows), "array": array[:rows], "images": images(rows)}[kind]  # of training


@pytest.mark.parametrize("kind", ["table", "array", "images"])
def test_at_the_lowest_level_rows_stay_and_at_the_highest_they_are_forgotten(
    made: dict[str, Bundle], kind: str
) -> None:
    bundle, data = made[kind], read(rows_of(kind))
    x0, conditions = bundle.features.encode(data)
    low, high = (1.0001 * bundle.recipe.noise.sigma_min, 0.9999 * bundle.recipe.noise.sigma_max)  # type: ignore[operator]

    def encoded(rows: Any) -> torch.Tensor:
        values, again = bundle.features.encode(rows)
        assert again is None or torch.equal(again, conditions)
        return values

    def apart(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).square().mean().sqrt())

    kept = encoded(bundle.vary(data, low, seed=1))
    # What a rounded number of the data and the noise of the lowest level leave.
    assert apart(kept, x0) < 3 * low + 0.02
    # The same noise on other rows with the same conditions: at the top what they were is lost.
    other = bundle.features.decode(x0.flip(0), conditions)
    ends = [apart(encoded(bundle.vary(data, s, seed=1)), encoded(bundle.vary(other, s, seed=1))) for s in (low, high)]
    assert ends[0] > 0.8 * apart(x0, x0.flip(0))
    assert ends[1] < 0.25 * apart(x0, x0.flip(0))


def test_a_row_is_varied_the_same_in_any_chunks_and_its_noise_is_its_own(
    made: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rows_of("array")
    whole = numbers(made["array"].vary(data, 0.5, seed=2))
    monkeypatch.setattr(drawing, "_CHUNK", 3 * 7)
    np.testing.assert_allclose(numbers(made["array"].vary(data, 0.5, seed=2)), whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(numbers(made["array"].vary(data[:9], 0.5, seed=2)), whole[:9], rtol=0, atol=1e-5)
    assert np.abs(numbers(made["array"].vary(data, 0.5, seed=3)) - whole).max() > 0.01
    assert len(np.unique(numbers(made["array"].vary(data[:1].repeat(30, 0), 0.5)), axis=0)) == 30


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noise": 0.0}, OptionError, "noise must lie between the model's levels, .* got 0"),
        ({"noise": -1.0}, OptionError, "got -1"),
        ({"noise": float("nan")}, OptionError, "got nan"),
        ({"noise": float("inf")}, OptionError, "got inf"),
        ({"noise": 1e-9}, OptionError, "got 1e-09"),
        ({"noise": 1e9}, OptionError, r"got 1e\+09"),
        ({"noise": 0.5, "steps": 1}, OptionError, "steps must be at least 2, got 1"),
        ({"noise": 0.5, "sampler": "adaptive"}, OptionError, "a grid to begin in, adaptive has none"),
        ({"noise": 0.5, "sampler": "huen"}, OptionError, "'huen' is not known.*heun"),
        ({"noise": 0.5, "data": np.zeros((4, 5), np.float32)}, DataError, "shape"),
        ({"noise": 0.5, "data": np.full((4, 3), np.nan, np.float32)}, DataError, "NaN"),
        ({"noise": 0.5, "data": np.zeros((0, 3), np.float32)}, DataError, "row"),
    ],
)
def test_misuse_of_vary_is_refused_before_the_model_is_asked(
    made: dict[str, Bundle],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(*args: object) -> None:
        raise AssertionError("the network was called")

    monkeypatch.setattr(type(made["array"].denoiser), "_input_scales", asked)
    with pytest.raises(error, match=message):
        made["array"].vary(**{"data": rows_of("array"), **options})


@pytest.mark.parametrize("kind", ["table", "array", "images"])
def test_law_decoding_undoes_encoding(made: dict[str, Bundle], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, data = made[kind], read(rows_of(kind))
    conditions = bundle.features.encode(data)[1]
    z = bundle.encode(data, tolerance=1e-6)
    back = bundle.decode(z, conditions, tolerance=1e-6)
    assert type(back) is type(data)
    tolerance = 1e-3 if kind != "images" else 1  # a level of grey
    expected = numbers(data)
    if kind == "table":  # numbers beyond those seen come back as the last of these
        seen = numbers(read(table()))
        expected = expected.clip(seen.min(0), seen.max(0))
    np.testing.assert_allclose(numbers(back), expected, rtol=0, atol=tolerance)
    if isinstance(back, Table):
        assert isinstance(data, Table)
        assert back.columns["kind"].to_pylist() == data.columns["kind"].to_pylist()
        assert back.columns["n"].to_pylist() == data.columns["n"].to_pylist()
    if isinstance(back, Images):
        assert back.label_columns["label"].tolist() == data.label_columns["label"].tolist()  # type: ignore[union-attr]
    monkeypatch.setattr(drawing, "_CHUNK", 7 * int(np.prod(bundle.features.codec.shape)))
    torch.testing.assert_close(bundle.encode(data, tolerance=1e-6), z, rtol=0, atol=1e-4)


def test_interpolation_ends_in_the_rows_and_is_of_as_many(made: dict[str, Bundle]) -> None:
    a, b = rows_of("array")[:12], rows_of("array")[12:24]
    ways = made["array"].interpolate(a, b, [0.0, 0.5, 1.0], tolerance=1e-6)
    np.testing.assert_allclose(numbers(ways[0]), a, rtol=0, atol=1e-3)
    np.testing.assert_allclose(numbers(ways[2]), b, rtol=0, atol=1e-3)
    middle = numbers(ways[1])
    assert np.abs(middle - a).max() > 0.1
    assert np.abs(middle - b).max() > 0.1
    assert made["array"].interpolate(a, b, []) == []
    with pytest.raises(OptionError, match="as many rows, got 12 and 11"):
        made["array"].interpolate(a, b[:11], [0.5])
    # Of a conditional model between rows of one kind; the conditions are those of the first.
    alike = table().filter(pa.compute.equal(table()["kind"], "a"))
    ends = made["table"].interpolate(alike[:5], alike[5:10], [0.0, 1.0], tolerance=1e-6)
    for end, rows in zip(ends, (alike[:5], alike[5:10]), strict=True):
        assert isinstance(end, Table)
        assert end.columns["kind"].to_pylist() == ["a"] * 5
        np.testing.assert_allclose(numbers(end), numbers(read(rows)), rtol=0, atol=1e-3)


# -- damage and malice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "bundle.json", "README.md"])
def test_a_flipped_bit_or_a_missing_byte_in_any_file_is_refused_by_name(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        Bundle.load(folder)
    os.truncate(folder / name, len(content) - 1)
    with pytest.raises(BundleError, match=f"{name} has {len(content) - 1} bytes, the manifest says {len(content)}"):
        Bundle.load(folder)


def test_weights_that_do_not_fit_are_listed_and_none_is_loaded(folder: Path) -> None:
    weights = tensors(folder)
    names = [name for name in weights if name.startswith("network")]
    gone, wide, half = names[0], names[1], names[2]
    del weights[gone]
    weights["network.planted"] = torch.zeros(2)
    weights[wide] = torch.zeros(3, 3, 3)
    weights[half] = weights[half].half()
    replaced(folder, "model.safetensors", safetensors.torch.save(weights))
    with pytest.raises(BundleError) as refused:
        Bundle.load(folder)
    message = str(refused.value)
    assert f"missing ['{gone}']" in message
    assert "unexpected ['network.planted']" in message
    assert f"{wide} (3, 3, 3) torch.float32, expected" in message
    assert f"{half} " in message
    assert "torch.float16" in message


def test_weights_of_another_recipe_are_refused(made: dict[str, Bundle], folder: Path, tmp_path: Path) -> None:
    made["array"].save(tmp_path / "other")
    replaced(folder, "model.safetensors", (tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(BundleError, match=r"weights do not fit|not as expected"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 1),
        ("format", None),
        ("recipe", {"name": "x", "surprise": 1}),
        ("recipe", []),
        ("features", {}),
        ("features", {"codec": [], "conditions": None, "order": []}),
        ("noise_range", {"sigma_data": 1}),
        ("noise_range", None),
    ],
)
def test_a_bundle_json_of_another_form_or_version_is_refused(folder: Path, path: str, value: Any) -> None:
    changed = fields(folder) | {path: value}
    replaced(folder, "bundle.json", json.dumps(changed).encode())
    with pytest.raises(BundleError, match=str(folder)):
        Bundle.load(folder)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_bundle_json_that_is_none_is_refused(folder: Path, content: bytes) -> None:
    replaced(folder, "bundle.json", content)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        Bundle.load(folder)


def test_a_pickle_in_place_of_weights_is_refused_and_never_executed(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    payload = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    for name in ("model.safetensors", "bundle.json"):
        replaced(folder, name, payload)
        with pytest.raises(BundleError):
            Bundle.load(folder)
    # One beside them is not even looked at.
    (folder / "model.pt").write_bytes(payload)
    (folder / "data.pkl").write_bytes(payload)
    with pytest.raises(BundleError):
        Bundle.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("claim", [10**6, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_claims_more_than_the_file_is_refused_before_memory_is_taken(folder: Path, claim: int) -> None:
    import tracemalloc

    content = (folder / "model.safetensors").read_bytes()
    replaced(folder, "model.safetensors", struct.pack("<Q", claim) + content[8:])
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=f"model.safetensors: its header claims {claim} bytes"):
            Bundle.load(folder)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(content) + 10**6
    finally:
        tracemalloc.stop()


def test_tensors_that_claim_more_than_the_file_are_refused(folder: Path) -> None:
    for header in (
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"w": {"dtype": "object", "shape": [2], "data_offsets": [0, 8]}},
    ):
        text = json.dumps(header).encode()
        replaced(folder, "model.safetensors", struct.pack("<Q", len(text)) + text + b"\0" * 8)
        with pytest.raises(BundleError):
            Bundle.load(folder)
    for content in (b"", b"1234567"):
        replaced(folder, "model.safetensors", content)
        with pytest.raises(BundleError, match=f"{len(content)} bytes are no safetensors file"):
            Bundle.load(folder)


def test_what_is_no_bundle_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere: no such folder.*scorefield fit"):
        Bundle.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.load(tmp_path / "file")
    with pytest.raises(BundleError, match=r"is not a scorefield model: it has no MANIFEST\.json"):
        Bundle.load(tmp_path)
    (folder / MANIFEST).unlink()
    (folder / "fit.json").write_text("{}")
    with pytest.raises(BundleError, match=r"training has not finished here, the same `scorefield fit` goes on"):
        Bundle.load(folder)


def test_a_place_that_cannot_be_written_is_refused(made: dict[str, Bundle], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(BundleError, match="cannot be made"):
            made["array"].save(path)
    assert (tmp_path / "file").read_text() == "x"


def test_a_disk_that_fills_up_leaves_the_former_bundle(
    made: dict[str, Bundle], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Bundle.load(folder).sample(4).fingerprint()
    calls = 0
    true_sync = os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= 2:
            raise OSError(28, "No space left on device")
        true_sync(handle)

    with (  # noqa: PT012
        monkeypatch.context() as patch,
        pytest.raises(WriteError, match=r"bundle\.json: cannot write \d+ bytes: No sp"),
    ):
        patch.setattr(os, "fsync", full)
        made["array"].save(folder)
    assert Bundle.load(folder).sample(4).fingerprint() == before


@pytest.mark.parametrize("kind", ["array", "ddpm", "ncsn"])
def test_a_network_that_is_lost_far_from_the_data_draws_near_them(kind: str, made: dict[str, Bundle]) -> None:
    # One start in a hundred thousand lies where no row of training did, and a network may be wrong there without limit.
    lost = copy.deepcopy(made[kind])
    with torch.no_grad():
        for parameter in lost.denoiser.parameters():
            parameter.mul_(30)
    drawn = lost.sample(50, seed=0).values
    low, high = (bound.numpy() for bound in lost.features.codec.bounds)
    values = lost.features.codec.encode(Array(drawn)).numpy()
    assert (values >= low - 0.1 * (high - low) - 1e-4).all()
    assert (values <= high + 0.1 * (high - low) + 1e-4).all()
