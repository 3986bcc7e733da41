"""scorefield logprob: columns and values in each form of file, ranks, skipped rows; and each refusal."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from scorefield import finish, load
from scorefield.cli.console import Console
from scorefield.data import Images, Table, write
from scorefield.drawing import Progress
from scorefield.scoring import Scoring, rank

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[[Path, str, str], None]
TINY = [
    *("--steps", "60", "--set", "network.width=16", "--set", "training.batch=16"),
    *("--set", "training.precision=float32", "--set", "training.patience=99"),
]
TINY_IMAGES = [*TINY[4:], "--steps", "2"]
TINY_IMAGES += [
    *("--set", "network.channels=[32]", "--set", "network.blocks=[1]", "--set", "network.attention=[false]")
]
FAST = ["--tolerance", "0.05"]


def points(rows: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)


def counts() -> pa.Table:
    random = np.random.default_rng(1)
    return pa.table({"kind": ["a", "b"] * 30, "n": random.integers(0, 5, 60), "m": random.integers(0, 3, 60)})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, program: Callable[..., int]) -> Path:
    """A run with held-out rows, one too short for any, one of conditional integers, one of images, and their data."""
    folder = tmp_path_factory.mktemp("place")
    np.save(folder / "points.npy", points())
    np.save(folder / "new.npy", points(9, seed=5))
    np.save(folder / "deep.npy", np.zeros((5, 3), np.float32))
    np.save(folder / "nan.npy", np.full((3, 2), np.nan, np.float32))
    write(Table(counts()), folder / "counts.csv")
    write(Table(counts().select(["kind", "n"])), folder / "fewer.csv")
    (folder / "torn.csv").write_text("kind,n,m\na,1,2\nc,1,1\nb,,0\nb,4\n")
    (folder / "bad.csv").write_text("kind,n,m\na,1,2\nc,1,1\nb,,0\nb,4,1\n")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1)).astype(np.uint8)
    write(Images(pixels, "L"), folder / "pets.parquet")
    write(Images(pixels[:, :3].copy(), "L"), folder / "small.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "_RANKING_SHARE", 1.0)
        patch.setattr(finish, "_FEWEST_RANKED", 3)
        assert program("fit", folder / "points.npy", "--out", folder / "kept", *TINY) == 0
    assert program("fit", folder / "points.npy", "--out", folder / "short", *TINY) == 0
    numbers = ["--column-type", "n=number", "--column-type", "m=number"]
    assert program("fit", folder / "counts.csv", "--out", folder / "table", "--condition", "kind", *numbers, *TINY) == 0
    assert program("fit", folder / "pets.parquet", "--out", folder / "images", *TINY_IMAGES) == 0
    return folder


def columns(path: Path) -> dict[str, np.ndarray]:
    """The named columns of a file, read without the project's own readers."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    read = pa.csv.read_csv if path.suffix == ".csv" else pa.parquet.read_table
    table = read(path)
    return {name: table[name].to_numpy().astype(np.float64) for name in table.column_names}


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz"])
def test_each_form_has_log_p_and_its_error_by_name(run: Run, place: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"scores{ending}"
    code, said, err = run("logprob", place / "kept", place / "new.npy", "--out", out, *FAST)
    assert code == 0, err
    found, expected = columns(out), load(place / "kept", "cpu").log_prob(points(9, seed=5), Scoring(0.05))
    assert list(found) == ["log_prob", "std_error"]
    np.testing.assert_allclose(found["log_prob"], expected.log_prob, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["std_error"], expected.std_error, rtol=1e-6)
    assert said.startswith(f"{out}: log p {float(expected.log_prob.mean()):.4g} ± ")
    assert "over 9 rows" in said
    assert said.strip().endswith("ms a row")
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_options_reach_the_work(run: Run, place: Path, tmp_path: Path) -> None:
    given = {
        "probes": (["--probes", 3, "--seed", 4], Scoring(0.05, probes=3, seed=4)),
        "draws": (["--draws", 2], Scoring(0.05, draws=2)),
        "variational": (["--variational", "--draws", 1, "--probes", 2], Scoring(0.05, 2, 1, fitted=True)),
        "noise": (["--noise", 0.7], Scoring(0.05, noise=0.7)),
    }
    bundle, seen = load(place / "table", "cpu"), set()
    write(Table(counts().slice(0, 4)), tmp_path / "few.csv")
    for options, how in given.values():
        code, _, err = run(
            "logprob", place / "table", tmp_path / "few.csv", "--out", tmp_path / "a.npz", *FAST, *options
        )
        assert code == 0, err
        found = columns(tmp_path / "a.npz")["log_prob"]
        np.testing.assert_allclose(found, bundle.log_prob(counts().slice(0, 4), how).log_prob, rtol=0, atol=1e-9)
        seen.add(found.tobytes())
    assert len(seen) == len(given)


@pytest.mark.parametrize(("model", "data", "elements"), [("table", "counts.csv", 2), ("images", "pets.parquet", 16)])
def test_bits_are_those_of_integers(
    run: Run, place: Path, tmp_path: Path, model: str, data: str, elements: int
) -> None:
    options = ["--bits", *FAST, "--draws", 1, "--probes", 2]
    code, said, err = run("logprob", place / model, place / data, "--out", tmp_path / "a.parquet", *options)
    assert code == 0, err
    found = columns(tmp_path / "a.parquet")
    assert list(found) == ["log_prob", "std_error", "bits_per_dim"]
    np.testing.assert_allclose(found["bits_per_dim"], -found["log_prob"] / elements / math.log(2), rtol=1e-12)
    assert f", {found['bits_per_dim'].mean():.4g} bits/dim, each known to" in said
    # Of five and of three equally likely values, and of 256: a code of less would beat the source.
    assert found["bits_per_dim"].mean() > {2: math.log2(15) / 2 - 0.2, 16: 7.5}[elements]


@pytest.mark.parametrize("against", [None, "points.npy"])
def test_ranks_are_among_held_out_rows_or_those_that_are_named(
    run: Run, place: Path, tmp_path: Path, against: str | None
) -> None:
    named = [] if against is None else ["--against", place / against]
    options = ["--percentile", "--anomaly", *FAST, *named]
    np.save(tmp_path / "odd.npy", np.array([[0.0, 0.0], [30.0, 0.0], [np.nan, 0.0]], np.float32))
    command = ["logprob", place / "kept", tmp_path / "odd.npy", "--skip-bad", "--out", tmp_path / "a.csv"]
    code, _, err = run(*command, *options)
    assert code == 0, err
    assert (f"{place / 'points.npy'}: the rows to rank against" in err) == (against is not None)
    found, bundle = columns(tmp_path / "a.csv"), load(place / "kept", "cpu")
    assert list(found) == ["log_prob", "std_error", "percentile", "anomaly"]
    reference = bundle.reference if against is None else bundle.log_prob(points(), Scoring(0.05)).log_prob
    assert reference is not None
    assert len(reference) == (6 if against is None else 60)
    expected = 100 * rank(torch.from_numpy(found["log_prob"]), reference)
    np.testing.assert_allclose(found["percentile"], expected, rtol=1e-12)
    np.testing.assert_allclose(found["percentile"] / 100 + found["anomaly"], [1, 1, np.nan], rtol=1e-12)
    assert found["anomaly"][1] > 1 - 1 / len(reference)
    assert found["anomaly"][0] < 0.3
    code, _, err = run(*command, *options, "--seed", 9)
    assert code == 0, err


def test_held_out_rows_that_are_kept_are_those_that_were_not_trained_on(place: Path) -> None:
    reference = load(place / "kept", "cpu").reference
    assert reference is not None
    every = load(place / "kept", "cpu").log_prob(points()).log_prob
    apart = (reference.unsqueeze(1) - every).abs()
    assert float(apart.amin(1).max()) < 1e-9
    assert len(apart.argmin(1).unique()) == len(reference)


def test_skipped_rows_are_nan_and_listed_and_the_others_are_as_without_them(
    run: Run, place: Path, tmp_path: Path
) -> None:
    command = ["logprob", place / "table", place / "bad.csv", "--out", tmp_path / "a.csv", *FAST]
    code, said, err = run(*command, "--skip-bad", "--bits")
    assert code == 0, err
    found = columns(tmp_path / "a.csv")
    for values in found.values():
        assert np.isnan(values).tolist() == [False, True, True, False]
    assert "row 2 gets NaN: condition 'kind' was never 'c' in training" in err
    assert "row 3 gets NaN: column 'n' is missing" in err
    assert "over 2 rows" in said
    clean = pa.table({"kind": ["a", "a", "a", "b"], "n": [1, 1, 1, 4], "m": [2, 2, 2, 1]})
    expected = load(place / "table", "cpu").log_prob(clean, Scoring(0.05)).log_prob
    np.testing.assert_allclose(found["log_prob"][[0, 3]], expected[[0, 3]], rtol=0, atol=1e-9)
    (tmp_path / "worse.csv").write_text("kind,n,m\n" + "c,1,1\n" * 8)
    command[2] = tmp_path / "worse.csv"
    code, said, err = run(*command, "--skip-bad", "--bits")
    assert code == 0, err
    assert "no row has a density" in said
    assert "and 3 more rows without a density" in err
    assert np.isnan(columns(tmp_path / "a.csv")["log_prob"]).all()


# -- refusals ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "no run": ("nowhere new.npy --out a.csv", "nowhere: no such folder"),
    "no data": ("kept gone.npy --out a.csv", "gone.npy: no such file"),
    "ending": ("kept new.npy --out a.txt", "the ending '.txt' is not known"),
    "npy": ("kept new.npy --out a.npy", ".npy has no place for named columns, expected .csv, .parquet or .npz"),
    "folder for images": ("kept new.npy --out a", "a path without ending is a folder of PNGs"),
    "folder gone": ("kept new.npy --out gone/a.csv", "the folder gone does not exist"),
    "out is data": ("table counts.csv --out counts.csv", "--out counts.csv: it would take the place of the rows"),
    "out is against": (
        "table bad.csv --out ./counts.csv --percentile --against counts.csv",
        "--out counts.csv: it would take the place of the rows",
    ),
    "no tolerance": ("kept new.npy --out a.csv --tolerance 0", "finite and above 0, got 0"),
    "nan tolerance": ("kept new.npy --out a.csv --tolerance nan", "got nan"),
    "one probe": ("kept new.npy --out a.csv --probes 1", "0 for the exact divergence, or at least 2, got 1"),
    "no draws": ("table counts.csv --out a.csv --draws 0", "draws must be at least 1, got 0"),
    "no noise": ("kept new.npy --out a.csv --noise 0", "above 0, got 0"),
    "noise beyond the model": ("kept new.npy --out a.csv --noise 1e9", "must lie between the model's levels"),
    "bits of continuous data": ("kept new.npy --out a.csv --bits", "not integers are 'element 0', 'element 1'"),
    "no held-out rows": ("short new.npy --out a.csv --percentile", "short keeps no held-out rows"),
    "no held-out rows for anomalies": ("short new.npy --out a.csv --anomaly", "name some with --against DATA"),
    "against nothing": ("kept new.npy --out a.csv --against points.npy", "--percentile, --anomaly or both"),
    "against gone": ("kept new.npy --out a.csv --anomaly --against gone.npy", "gone.npy: no such file"),
    "against other rows": ("kept new.npy --out a.csv --anomaly --against deep.npy", "deep.npy: rows have shape (3,)"),
    "ranks at another level": ("kept new.npy --out a.csv --anomaly --noise 0.5", "with --noise name others"),
    "device": ("kept new.npy --out a.csv --device tpu", "--device tpu"),
    "another shape": ("kept deep.npy --out a.csv", "deep.npy: rows have shape (3,), expected (2,)"),
    "another kind": ("kept counts.csv --out a.csv", "counts.csv"),
    "other columns": ("table fewer.csv --out a.csv --skip-bad", "columns ['m'] are missing"),
    "torn file": ("table torn.csv --out a.csv --skip-bad", "torn.csv, line 5, column 3"),
    "rows without a density": ("table bad.csv --out a.csv", "row 2: condition 'kind' was never 'c' in training; row 3"),
    "images of another size": ("images small.parquet --out a.csv --skip-bad", "small.parquet"),
    "nothing good": ("kept nan.npy --out a.csv", "3 of 3 rows have no density"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_use_is_refused_before_the_network_is_asked_and_nothing_is_written(
    refused: Refused, place: Path, case: str
) -> None:
    words, part = REFUSED[case]
    refused(place, f"logprob {words}", part)


def test_the_guard_of_the_refusals_sees_a_call(
    run: Run, unasked: None, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(AssertionError, match="the network was called"):
        run("logprob", "kept", "new.npy", "--out", "a.csv")
    assert not (place / "a.csv").exists()


def test_rows_to_rank_by_that_have_no_density_at_all_are_refused(run: Run, place: Path, tmp_path: Path) -> None:
    options = ["--anomaly", "--skip-bad", "--against", place / "nan.npy", "--out", tmp_path / "a.csv", *FAST]
    code, out, err = run("logprob", place / "kept", place / "new.npy", *options)
    assert (code, out) == (2, ""), err
    assert "no row to rank against" in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_stops_within_a_chunk_unless_all_is_done(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    true_drawing = Console.drawing

    def drawing(self: Console, done: str) -> Callable[[Progress], None]:
        tell = true_drawing(self, done)

        def signalled(progress: Progress) -> None:
            if progress.share == 1.0 if last else 0.05 < progress.share < 0.5 and not self.should_stop():
                os.kill(os.getpid(), signal.SIGINT)
            tell(progress)

        return signalled

    monkeypatch.setattr(Console, "drawing", drawing)
    code, _, err = run("logprob", place / "kept", place / "new.npy", "--out", tmp_path / "a.csv")
    if last:
        assert code == 0, err
        assert len(columns(tmp_path / "a.csv")["log_prob"]) == 9
    else:
        assert code == 75
        assert "of 9 rows were scored, nothing was written" in err
        assert list(tmp_path.iterdir()) == []
