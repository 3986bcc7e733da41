"""scorefield sample with solvers fitted to the model, a tolerance, a trajectory, rows to vary; and each refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scorefield import finish, load
from scorefield.data import Table, read, write
from scorefield.samplers.choice import COUNTS

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[[Path, str, str], None]
TINY = [
    *("--steps", "60", "--set", "network.width=16", "--set", "training.batch=16"),
    *("--set", "training.precision=float32", "--set", "training.patience=99"),
]


def points(rows: int = 60) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, program: Callable[..., int]) -> Path:
    """A run with solvers, one whose training was too short for them, a conditional one of a table, and their data."""
    folder = tmp_path_factory.mktemp("place")
    np.save(folder / "points.npy", points())
    np.save(folder / "deep.npy", np.zeros((5, 3), np.float32))
    random = np.random.default_rng(1)
    write(Table(pa.table({"kind": ["a", "b"] * 30, "x": random.normal(size=60)})), folder / "data.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "_FITTING_SHARE", 30.0)
        assert program("fit", folder / "points.npy", "--out", folder / "solved", *TINY) == 0
    assert program("fit", folder / "points.npy", "--out", folder / "short", *TINY) == 0
    assert program("fit", folder / "data.csv", "--out", folder / "table", "--condition", "kind", *TINY) == 0
    assert (folder / "solved" / "solvers.json").exists()
    assert not (folder / "short" / "solvers.json").exists()
    return folder


# -- what is drawn ----------------------------------------------------------------------------------------------------


def test_what_was_picked_and_the_error_to_expect_are_said(run: Run, place: Path, tmp_path: Path) -> None:
    fitted = load(place / "solved", device="cpu").solvers
    assert fitted is not None
    assert [solver.steps for solver in fitted.fitted] == list(COUNTS)
    loose, tight = fitted.fitted[2].error * 1.0001, min(solver.error for solver in fitted.fitted) / 2
    asked = {
        (): fitted.within(0.01),
        ("--steps", 9): fitted.at_most(9),
        ("--tolerance", loose): fitted.within(loose),
        ("--sampler", "fitted", "--tolerance", 1e-9): min(fitted.fitted, key=lambda solver: solver.error),
    }
    seen = set()
    for options, solver in asked.items():
        code, _, err = run("sample", place / "solved", "--rows", 5, "--out", tmp_path / "a.npy", *options)
        assert code == 0, err
        said = [line for line in err.splitlines() if line.startswith("sampler:")]
        assert len(said) == 1
        assert f"fitted to the model, {solver.steps} evaluations" in said[0]
        assert f"{solver.error:.2g} ± {solver.std_error:.1g} of the data's deviation" in said[0]
        seen.add(np.load(tmp_path / "a.npy").tobytes())
    assert len(seen) == len({solver.steps for solver in asked.values()}) > 1
    for options, words in (
        (["--sampler", "heun", "--steps", 5], "sampler: heun, 5 levels"),
        (["--sampler", "adaptive", "--tolerance", "0.05"], "sampler: adaptive, tolerance 0.05 of a step"),
        # What no fitted solver reaches the adaptive flow does, unless they were asked for by name.
        (["--tolerance", f"{tight:.3g}"], f"sampler: adaptive, tolerance {float(f'{tight:.3g}'):g} of a step"),
    ):
        code, _, err = run("sample", place / "solved", "--rows", 5, "--out", tmp_path / "a.npy", *options)
        assert (code, words in err.splitlines()) == (0, True), err
    code, out, err = run("sample", place / "short", "--rows", 5, "--out", tmp_path / "a.npy")
    said = "sampler: unipc, 20 levels; no solver was fitted to this model, so how far rows end"
    assert (code, said in err) == (0, True), err
    assert out.rstrip().endswith("20 evaluations a row")
    code, out, err = run("sample", place / "short", "--rows", 5, "--out", tmp_path / "a.npy", "--sampler", "heun")
    assert (code, "sampler: heun, 18 levels" in err.splitlines()) == (0, True), err
    assert out.rstrip().endswith("35 evaluations a row")


def test_a_tighter_tolerance_of_an_adaptive_sampler_comes_nearer(run: Run, place: Path, tmp_path: Path) -> None:
    drawn = []
    for tolerance in ("1e-6", "1e-3", "0.1"):
        options = ["--sampler", "adaptive", "--tolerance", tolerance, "--rows", 20, "--out", tmp_path / "a.npy"]
        assert run("sample", place / "solved", *options)[0] == 0
        drawn.append(np.load(tmp_path / "a.npy"))
    near, far = (float(np.abs(other - drawn[0]).mean()) for other in drawn[1:])
    assert 0 < near < far


def test_the_solvers_of_a_run_are_shown(run: Run, place: Path) -> None:
    code, out, _ = run("inspect", place / "solved")
    assert code == 0
    fitted = load(place / "solved", device="cpu").solvers
    assert fitted is not None
    lines = [line.split() for line in out.splitlines() if line.strip().split()[1:2] == ["evaluations"]]
    assert [int(words[0]) for words in lines] == list(COUNTS)
    assert [words[2] for words in lines] == [f"{solver.error:.2g}" for solver in fitted.fitted]
    code, out, _ = run("inspect", place / "short")
    assert (code, "solvers fitted" in out) == (0, False)


@pytest.mark.parametrize(("options", "levels"), [((), None), (("--sampler", "heun", "--steps", 6), 6)])
def test_a_trajectory_leads_to_the_rows(
    run: Run, place: Path, tmp_path: Path, options: tuple[object, ...], levels: int | None
) -> None:
    command = ["sample", place / "solved", "--rows", 7, *options]
    assert run(*command, "--out", tmp_path / "alone.npy")[0] == 0
    code, _, err = run(*command, "--out", tmp_path / "rows.npy", "--trajectory", tmp_path / "way.npz")
    assert code == 0, err
    assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()
    with np.load(tmp_path / "way.npz", allow_pickle=False) as way:
        t, sigma, x, x0 = (way[name] for name in ("t", "sigma", "x", "x0"))
    assert x.shape == x0.shape == (len(t), 7, 2)
    assert levels is None or len(t) == levels
    assert (np.diff(t) < 0).all()
    assert (np.diff(sigma) < 0).all()
    # The last level is all but the rows: in units of the model, which are those of the data up to shift and scale.
    rows, end = np.load(tmp_path / "rows.npy"), x0[-1] if levels else x[-1]
    for column in range(2):
        assert np.corrcoef(rows[:, column], end[:, column])[0, 1] > 0.99


def test_rows_are_varied_little_by_little_noise_and_much_by_much(run: Run, place: Path, tmp_path: Path) -> None:
    moved = []
    for noise in ("0.05", "0.5", "3"):
        code, out, err = run(
            "sample", place / "solved", "--start", place / "points.npy", "--noise", noise, "--out", tmp_path / "a.npy"
        )
        assert code == 0, err
        assert "60 rows" in out
        drawn = np.load(tmp_path / "a.npy")
        assert drawn.shape == (60, 2)
        moved.append(float(np.abs(drawn - points()).mean()))
    assert moved[0] < 0.1
    assert moved == sorted(moved)
    assert moved[-1] > 3 * moved[0]


def test_varied_rows_keep_their_conditions(run: Run, place: Path, tmp_path: Path) -> None:
    options = ["--start", place / "data.csv", "--noise", "0.3", "--sampler", "heun", "--steps", 5]
    code, _, err = run("sample", place / "table", *options, "--out", tmp_path / "new.csv")
    assert code == 0, err
    drawn, before = read(tmp_path / "new.csv"), read(place / "data.csv")
    assert isinstance(drawn, Table)
    assert isinstance(before, Table)
    assert drawn.columns.schema == before.columns.schema
    assert drawn.columns["kind"].to_pylist() == before.columns["kind"].to_pylist()
    assert drawn.columns["x"].to_pylist() != before.columns["x"].to_pylist()


# -- refusals ---------------------------------------------------------------------------------------------------------

VARY = "solved --out a.npy --start points.npy"
WAY = "solved --out a.npy --trajectory"
REFUSED = {
    "steps and tolerance": ("solved --out a.npy --steps 5 --tolerance 0.1", "steps or a tolerance, not both"),
    "no tolerance": ("solved --out a.npy --tolerance 0", "a tolerance is positive and finite, got 0"),
    "negative tolerance": ("solved --out a.npy --tolerance -1", "got -1"),
    "nan tolerance": ("solved --out a.npy --tolerance nan", "got nan"),
    "infinite tolerance": ("solved --out a.npy --tolerance inf", "got inf"),
    "tolerance of heun": ("solved --out a.npy --sampler heun --tolerance 0.1", "adaptive samplers; heun takes steps"),
    "steps of adaptive": ("solved --out a.npy --sampler adaptive --steps 5", "it takes a tolerance, not 5 steps"),
    "steps of the adaptive sde": ("solved --out a.npy --sampler adaptive_sde --steps 5", "not 5 steps"),
    "one step": ("solved --out a.npy --steps 1", "steps must be at least 2, got 1"),
    "no step": ("solved --out a.npy --sampler heun --steps 0", "steps must be at least 2, got 0"),
    "steps backwards": ("solved --out a.npy --steps -3", "steps must be at least 2, got -3"),
    "a name amiss": ("solved --out a.npy --sampler fited", "'fited' is not known, did you mean 'fitted'?"),
    "no energy": ("solved --out a.npy --sampler mala", "mala needs a model with an energy, which network.energy=true"),
    "no solvers": ("short --out a.npy --sampler fitted", "no solver was fitted to this model"),
    "trajectory ending": (f"{WAY} way.npy", "way.npy: a trajectory is written as .npz, got the ending '.npy'"),
    "trajectory nowhere": (f"{WAY} gone/way.npz", "the folder gone does not exist"),
    "trajectory of adaptive": (f"{WAY} way.npz --sampler adaptive", "adaptive ones do not"),
    "trajectory of the adaptive sde": (f"{WAY} way.npz --sampler adaptive_sde", "adaptive ones do not"),
    "trajectory is out": ("solved --out a.npz --trajectory ./a.npz", "--out has this file already"),
    "start alone": (VARY, "--start and --noise go together"),
    "noise alone": ("solved --out a.npy --noise 1", "--start and --noise go together"),
    "start and rows": (f"{VARY} --noise 1 --rows 5", "--start takes its rows"),
    "start and given": (f"{VARY} --noise 1 --given kind=a", "--start takes its rows"),
    "start and trajectory": (f"{VARY} --noise 1 --trajectory way.npz", "--start takes its rows"),
    "start and tolerance": (f"{VARY} --noise 1 --tolerance 0.1", "without --rows, --given, --trajectory, --tolerance"),
    "no noise": (f"{VARY} --noise 0", "noise must lie between the model's levels"),
    "negative noise": (f"{VARY} --noise -1", "got -1"),
    "nan noise": (f"{VARY} --noise nan", "got nan"),
    "infinite noise": (f"{VARY} --noise inf", "got inf"),
    "noise beyond the model": (f"{VARY} --noise 1e9", "got 1e+09"),
    "vary by adaptive": (f"{VARY} --noise 1 --sampler adaptive", "a grid to begin in, adaptive has none"),
    "vary by fitted": (f"{VARY} --noise 1 --sampler fitted", "fitted"),
    "vary in one step": (f"{VARY} --noise 1 --steps 1", "steps must be at least 2, got 1"),
    "vary nothing": ("solved --out a.npy --start gone.npy --noise 1", "gone.npy: no such file"),
    "vary rows of another shape": ("solved --out a.npy --start deep.npy --noise 1", "deep.npy"),
    "vary a table as an array": ("solved --out a.npy --start data.csv --noise 1", "data.csv"),
    "vary an array as a table": ("table --out a.csv --start points.npy --noise 1", "points.npy"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_use_is_refused_before_the_network_is_asked_and_nothing_is_written(
    refused: Refused, place: Path, case: str
) -> None:
    words, part = REFUSED[case]
    refused(place, f"sample {words}", part)


def test_the_guard_of_the_refusals_sees_a_call(
    run: Run, unasked: None, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(AssertionError, match="the network was called"):
        run("sample", "solved", "--rows", 2, "--out", "a.npy")
    assert not (place / "a.npy").exists()


def test_the_noise_that_is_refused_is_named_with_the_levels_that_are_there(
    run: Run, place: Path, tmp_path: Path
) -> None:
    made = load(place / "solved", device="cpu").recipe.noise
    options = ["--start", place / "points.npy", "--noise", "1e9", "--out", tmp_path / "a.npy"]
    err = run("sample", place / "solved", *options)[2]
    low, high = (float(text.strip(",")) for text in err.split("levels, ")[1].split(" got")[0].split(" and "))
    assert made.sigma_min is not None
    assert made.sigma_max is not None
    assert math.isclose(low, made.sigma_min, rel_tol=0.01)
    assert math.isclose(high, made.sigma_max, rel_tol=0.01)
