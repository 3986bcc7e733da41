"""scorefield impute and sample --given: files as people have them in and out, interruption; and each refusal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from scorefield import filling, load
from scorefield.cli.console import Console
from scorefield.data import Table, read, write
from scorefield.drawing import Progress
from scorefield.filling import Filling

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[[Path, str, str], None]
TINY = [
    *("--steps", "60", "--set", "network.width=16", "--set", "training.batch=16"),
    *("--set", "training.precision=float32", "--set", "training.patience=99"),
]
FAST = ["--particles", 4, "--levels", 8]
HEADER = "name,count,height,member,day,note\n"
HOLES = (
    HEADER + "ann,3,170.5,true,2024-01-05,x\n"
    ",4,,false,2024-02-01,\n"
    "bob,,171.2,,,z\n"
    ",,,,,\n"
    'bob,7,180.0,true,2024-03-09,"a, b"\n'
)
MISSING, NOT_MODELLED = 12, 2  # cells of the text above


def lines(rows: int = 120) -> str:
    random = np.random.default_rng(0)
    text = [HEADER.replace(",note", "")]
    for _ in range(rows):
        day = date(2024, 1, 1) + timedelta(int(random.integers(0, 100)))
        name = random.choice(["ann", "bob", ""], p=[0.5, 0.4, 0.1])
        member = str(bool(random.random() < 0.5)).lower()
        text.append(f"{name},{random.integers(0, 40)},{random.normal(170, 9):.1f},{member},{day}\n")
    return "".join(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, program: Callable[..., int]) -> Path:
    """A run of a mixed table, one of numbers with a condition, one of an array; and tables with holes."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "people.csv").write_text(lines())
    (folder / "holes.csv").write_text(HOLES)
    (folder / "unseen.csv").write_text(HOLES.replace("ann", "eve"))
    (folder / "fewer.csv").write_text("name,count\nann,\n")
    (folder / "torn.csv").write_text(HOLES + "ann,3\n")
    (folder / "drawn.csv").write_text("draw," + HOLES.replace("\n", "\n1,")[:-2])
    (folder / "words.csv").write_text(HOLES.replace("ann,3", "ann,three"))
    (folder / "empty.csv").write_text(HEADER)
    random = np.random.default_rng(1)
    table = pa.table({"kind": [1, 2] * 60, "x": random.normal(size=120), "n": random.integers(0, 50, 120)})
    write(Table(table), folder / "numbers.parquet")
    partly = table.slice(0, 6).set_column(1, "x", pa.array([None, 0.5, None, 1.0, 2.0, None], pa.float64()))
    write(Table(partly), folder / "partly.parquet")
    write(Table(partly.set_column(0, "kind", pa.array([1, None] * 3))), folder / "unconditional.parquet")
    np.save(folder / "points.npy", random.normal(size=(60, 2)).astype(np.float32))
    assert program("fit", folder / "people.csv", "--out", folder / "people", *TINY) == 0
    assert program("fit", folder / "numbers.parquet", "--out", folder / "numbers", "--condition", "kind", *TINY) == 0
    assert program("fit", folder / "points.npy", "--out", folder / "points", *TINY) == 0
    return folder


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_is_filled_as_it_lies_there(run: Run, place: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"full{ending}"
    code, said, err = run("impute", place / "people", place / "holes.csv", "--out", out, "--draws", 3, *FAST)
    assert code == 0, err
    assert said.startswith(f"{out}: 15 rows, {MISSING - NOT_MODELLED} missing cells drawn 3 times each, ")
    assert f", {NOT_MODELLED} cells of columns that are not modelled stay missing; " in said
    assert said.strip().endswith("ms a row")
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    # Read without the project's own readers.
    options = pa.csv.ConvertOptions(strings_can_be_null=True)
    table = pa.csv.read_csv(out, convert_options=options) if ending == ".csv" else pa.parquet.read_table(out)
    assert table.column_names == ["draw", "name", "count", "height", "member", "day", "note"]
    kinds = [str(kind) for kind in table.schema.types]
    assert kinds == ["int64", "string", "int64", "double", "bool", "date32[day]", "string"]
    found = table.to_pydict()
    assert found["draw"] == [1, 2, 3] * 5
    before = read(place / "holes.csv")
    assert isinstance(before, Table)
    for name, values in before.columns.to_pydict().items():
        for row, value in enumerate(values):
            three = found[name][3 * row : 3 * row + 3]
            if value is not None or name == "note":
                assert three == [value] * 3
            else:
                assert None not in three
    assert set(found["name"]) == {"ann", "bob"}
    assert all(0 <= count < 40 for count in found["count"])
    assert all(round(height, 1) == height for height in found["height"])
    # The text of seen cells is as it was.
    if ending == ".csv":
        text = out.read_text().splitlines()
        assert text[1:4] == ["1,ann,3,170.5,true,2024-01-05,x"] + [f"{k},ann,3,170.5,true,2024-01-05,x" for k in (2, 3)]
        assert text[13] == '1,bob,7,180.0,true,2024-03-09,"a, b"'


def test_the_work_is_that_of_the_library_and_a_seed_repeats_it(run: Run, place: Path, tmp_path: Path) -> None:
    drawn = []
    for options in ([], ["--seed", 5], ["--seed", 5, "--particles", 8], ["--seed", 5, "--levels", 9]):
        command = ["impute", place / "people", place / "holes.csv", "--out", tmp_path / "a.parquet", *FAST, *options]
        code, _, err = run(*command)
        assert code == 0, err
        drawn.append(pa.parquet.read_table(tmp_path / "a.parquet"))
    bundle = load(place / "people", "cpu")
    for table, (particles, levels, seed) in zip(drawn, [(4, 8, 0), (4, 8, 5), (8, 8, 5), (4, 9, 5)], strict=True):
        expected = bundle.impute(place / "holes.csv", seed=seed, how=Filling(particles, levels))
        assert table.equals(expected.columns)
        assert "draw" not in table.column_names
    assert len({str(table.to_pydict()) for table in drawn}) == 4


@pytest.mark.parametrize("ending", [".npz", ".npy", ".parquet"])
def test_numbers_may_be_written_as_an_array_and_conditions_stay(
    run: Run, place: Path, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"full{ending}"
    code, said, err = run("impute", place / "numbers", place / "partly.parquet", "--out", out, "--draws", 2, *FAST)
    assert code == 0, err
    assert said.startswith(f"{out}: 12 rows, 3 missing cells drawn 2 times each; ")
    if ending == ".parquet":
        values = np.stack([column.to_numpy() for column in pa.parquet.read_table(out).columns], axis=1)
    else:
        loaded = np.load(out, allow_pickle=False)
        values = loaded["x"] if ending == ".npz" else loaded
    assert values.shape == (12, 4)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values[:, 0], [1, 2] * 6)
    np.testing.assert_array_equal(values[:, 1], np.repeat([1, 2] * 3, 2))
    np.testing.assert_array_equal(values[[2, 3, 6, 7, 8, 9], 2], [0.5, 0.5, 1, 1, 2, 2])


def test_a_table_without_holes_comes_back(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    (tmp_path / "whole.csv").write_text("name,count,height,member,day\nann,3,170.5,true,2024-01-05\n")
    code, said, err = run("impute", place / "people", tmp_path / "whole.csv", "--out", out)
    assert code == 0, err
    assert "1 rows, 0 missing cells drawn" in said
    assert out.read_text() == (tmp_path / "whole.csv").read_text()


def test_rows_are_drawn_with_columns_given(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    given = ["--given", "name=ann", "--given", "count>=10", "--given", "count<20", "--given", "member!=true"]
    code, said, err = run("sample", place / "people", "--rows", 6, "--out", out, *given)
    assert code == 0, err
    assert "sampler: a particle filter" in err.splitlines()
    assert "6 rows" in said
    found = pa.csv.read_csv(out).to_pydict()
    assert set(found["name"]) == {"ann"}
    assert all(10 <= count < 20 for count in found["count"])
    assert set(found["member"]) == {False}
    code, _, err = run("sample", place / "numbers", "--rows", 6, "--out", out, "--given", "kind=2", "--given", "n<25")
    assert code == 0, err
    found = pa.csv.read_csv(out).to_pydict()
    assert set(found["kind"]) == {2}
    assert max(found["n"]) < 25


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_stops_within_a_chunk_unless_all_is_done(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    true_drawing = Console.drawing

    def drawing(self: Console, done: str) -> Callable[[Progress], None]:
        tell = true_drawing(self, done)

        def signalled(progress: Progress) -> None:
            if progress.share == 1.0 if last else 0.05 < progress.share < 0.9 and not self.should_stop():
                os.kill(os.getpid(), signal.SIGINT)
            tell(progress)

        return signalled

    monkeypatch.setattr(Console, "drawing", drawing)
    monkeypatch.setattr(filling, "_PARTICLES", 4)
    code, out, err = run("impute", place / "people", place / "holes.csv", "--out", tmp_path / "a.csv", *FAST)
    if last:
        assert code == 0, err
        assert len((tmp_path / "a.csv").read_text().splitlines()) == 6
    else:
        assert (code, out) == (75, "")
        assert "of 3 rows were filled, nothing was written" in err
        assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_until_all_is_filled(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.csv"
    out.write_text("mine\n")

    def broken(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scorefield.filling._drawn", broken)
    code, _, _ = run("impute", place / "people", place / "holes.csv", "--out", out, *FAST)
    assert (code, out.read_text(), [path.name for path in tmp_path.iterdir()]) == (75, "mine\n", ["a.csv"])
    monkeypatch.undo()
    assert run("impute", place / "people", place / "holes.csv", "--out", out, *FAST)[0] == 0
    assert len(out.read_text().splitlines()) == 6


# -- refusals ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "no run": ("impute nowhere holes.csv --out a.csv", "nowhere: no such folder"),
    "no data": ("impute people gone.csv --out a.csv", "gone.csv: no such file"),
    "ending": ("impute people holes.csv --out a.txt", "the ending '.txt' is not known"),
    "no ending": ("impute people holes.csv --out a", "a path without ending is a folder of PNGs"),
    "folder gone": ("impute people holes.csv --out gone/a.csv", "the folder gone does not exist"),
    "out is data": ("impute people holes.csv --out ./holes.csv", "would take the place of the rows that are read"),
    "text in an array": ("impute people holes.csv --out a.npz", "an array holds numbers only; write .csv or .parquet"),
    "device": ("impute people holes.csv --out a.csv --device tpu", "--device tpu"),
    "unseen name": ("impute people unseen.csv --out a.csv", "column 'name' was never 'eve' in training, known are"),
    "words for numbers": ("impute people words.csv --out a.csv", "'count' holds string, the model was trained with"),
    "fewer columns": ("impute people fewer.csv --out a.csv", "columns ['height', 'member', 'day'] are missing"),
    "other columns": ("impute people partly.parquet --out a.csv", "and has ['kind', 'x', 'n'] instead"),
    "torn": ("impute people torn.csv --out a.csv", "torn.csv, line 7"),
    "empty": ("impute people empty.csv --out a.csv", "empty.csv"),
    "a column draw": ("impute people drawn.csv --out a.csv --draws 2", "it has a column 'draw'"),
    "no condition": ("impute numbers holes.csv --out a.csv", "no column 'kind' to condition on"),
    "a condition missing": ("impute numbers unconditional.parquet --out a.csv", "'kind' has 3 missing cells"),
    "an array": ("impute people points.npy --out a.csv", "points.npy: array, expected a table with missing cells"),
    "a model of arrays": ("impute points holes.csv --out a.csv", "fills missing cells of a table, this model is of"),
    "given nothing": ("sample people --out a.csv --given name", "expected COL=VALUE"),
    "given twice": ("sample people --out a.csv --given count=3 --given count>2", "'count' is given twice"),
    "given unknown": ("sample people --out a.csv --given nam=ann", "no column 'nam', did you mean 'name'"),
    "given unseen": ("sample people --out a.csv --given name=eve", "never 'eve' in training, known are ann, bob"),
    "given no range": ("sample people --out a.csv --given count>99", "no value is meant, there were 0 to"),
    "given and a sampler": ("sample people --out a.csv --given count=3 --sampler heun", "not by a sampler"),
    "given and levels": ("sample people --out a.csv --given count=3 --trajectory w.npz", "not by a sampler"),
    "a range of a condition": ("sample numbers --out a.csv --given kind>9", "none of its values is meant, known are"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_use_is_refused_before_the_network_is_asked_and_nothing_is_written(
    refused: Refused, place: Path, case: str
) -> None:
    refused(place, *REFUSED[case])


@pytest.mark.parametrize("option", [("--draws", 0), ("--draws", "x"), ("--particles", 0), ("--levels", 1)])
def test_numbers_out_of_range_are_refused(
    run: Run, unasked: None, place: Path, tmp_path: Path, option: tuple[str, object]
) -> None:
    code, out, err = run("impute", place / "people", place / "holes.csv", "--out", tmp_path / "a.csv", *option)
    assert (code, out) == (2, "")
    assert option[0] in err
    assert list(tmp_path.iterdir()) == []


def test_the_guard_of_the_refusals_sees_a_call(
    run: Run, unasked: None, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(AssertionError, match="the network was called"):
        run("impute", "people", "holes.csv", "--out", "a.csv")
    assert not (place / "a.csv").exists()
