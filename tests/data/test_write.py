"""Writing: what is written reads back the same, a form that does not fit is refused before, no half file is left."""

from __future__ import annotations

import os
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scorefield.data import Array, Images, Table, csv_scan, read, write
from scorefield.errors import DataError, WriteError

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = st.text(st.sampled_from('ab",;\n\r é€NA'), max_size=6)
KINDS = {
    "n": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "f": (pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    "b": (pa.bool_(), st.booleans()),
    "s": (pa.string(), WORDS),
    "d": (pa.date32(), st.dates(date(1000, 1, 1))),
    "c": (pa.time32("s"), st.times().map(lambda t: t.replace(microsecond=0))),
    "t": (
        pa.timestamp("s"),
        st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)).map(lambda t: t.replace(microsecond=0)),
    ),
}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    rows = draw(st.integers(1, 5))
    columns, types = {}, {}
    for name in draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=6, unique=True)):
        kind, cell = KINDS[name]
        # One cell at least says the column's type; text says it by a letter.
        known = draw(cell)
        cells = [known, *draw(st.lists(st.none() | cell, min_size=rows - 1, max_size=rows - 1))]
        columns[name] = ["word" + known, *cells[1:]] if name == "s" else cells
        types[name] = kind
    arrays = [pa.array(cells, types[name]) for name, cells in columns.items()]
    return Table(pa.Table.from_arrays(arrays, names=list(columns)))


@quick
@given(data=tables())
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_law_a_table_comes_back(tmp_path: Path, data: Table, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    write(data, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_scan, "_BLOCK", 16)
        found = read(path)
    assert isinstance(found, Table)
    assert found.columns.equals(data.columns)
    assert found.fingerprint() == data.fingerprint()


@quick
@given(
    rows=st.integers(1, 4),
    width=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["f4", "f8", "i4", "i8"]),
)
@pytest.mark.parametrize("ending", [".npy", ".npz", ".csv", ".parquet"])
def test_law_an_array_comes_back(tmp_path: Path, rows: int, width: int, seed: int, kind: str, ending: str) -> None:
    values = (np.random.default_rng(seed).normal(size=(rows, width)) * 1e3).astype(kind)
    path = tmp_path / f"data{ending}"
    write(read(values), path)
    found = read(path)
    if isinstance(found, Table):
        assert not found.header
        values_back = np.stack([column.to_numpy() for column in found.columns.columns], axis=1)
        # CSV knows one integer and one float type; the digits must give the same number of the narrower one.
        np.testing.assert_array_equal(values_back.astype(kind), values)
        assert values_back.dtype.kind == values.dtype.kind
    else:
        assert isinstance(found, Array)
        np.testing.assert_array_equal(found.values, values, strict=True)


@pytest.mark.parametrize("ending", [".npy", ".npz"])
@pytest.mark.parametrize("shape", [(5,), (5, 2, 3)])
def test_other_shapes_come_back(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    write(read(values), tmp_path / f"data{ending}")
    found = read(tmp_path / f"data{ending}")
    assert isinstance(found, Array)
    np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 5, 6, 1), (3, 5, 6, 3), (3, 5, 6, 4), (3, 1, 5, 6), (3, 3, 5, 6)])
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_promise_15_the_users_own_layout_and_type_come_back(
    tmp_path: Path, ending: str, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / f"data{ending}"
    write(read(values), path)
    stored = np.load(path)["x"] if ending == ".npz" else np.load(path)
    np.testing.assert_array_equal(stored, values, strict=True)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize(
    "labels", [None, np.array([3, 1, 3]), np.array(["ä b", "c", "ä b"])], ids=["none", "int", "text"]
)
@pytest.mark.parametrize("target", ["folder", "data.parquet"])
def test_law_images_come_back(tmp_path: Path, mode: str, labels: np.ndarray | None, target: str) -> None:
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}[mode]
    kind = np.uint16 if mode == "I;16" else np.uint8
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (3, 5, 6, channels)).astype(kind)
    name = "" if labels is None else "label"
    data = Images(pixels, mode, labels, name, maximum=int(np.iinfo(kind).max))
    write(data, tmp_path / target)
    found = read(tmp_path / target)
    assert isinstance(found, Images)
    assert found.mode == mode
    np.testing.assert_array_equal(found.pixels, pixels, strict=True)
    assert found.fingerprint() == data.fingerprint()


def test_labels_come_back_from_npz(tmp_path: Path) -> None:
    data = Array(np.random.default_rng(0).normal(size=(4, 2)), np.array([0, 1, 1, 0]), "file")
    write(data, tmp_path / "data.npz")
    assert read(tmp_path / "data.npz").fingerprint() == data.fingerprint()


MIXED = read(pa.table({"n": [1, 2], "s": ["a", "b"]}))
GAPS = read(pa.table({"n": [1.0, None]}))
LARGE = read(pa.table({"i": [2**60, 1], "f": [0.5, 1.5]}))
NUMBERED = read(pa.table({"2019": [1, 2], "2020": [3, 4]}))
DEEP = read(np.zeros((2, 2, 3)))
PICTURES = read(np.zeros((2, 8, 8), np.uint8))
BAD_LABEL = Images(np.zeros((1, 8, 8, 1), np.uint8), "L", np.array(["../up"]), "label")
LABELLED = Array(np.zeros((2, 2)), np.array([0, 1]), "y")


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        (MIXED, "x.npy", "'s' is string"),
        (MIXED, "x.npz", "'s' is string"),
        (GAPS, "x.npy", "1 missing cells"),
        (LARGE, "x.npy", "'i' holds integers that float64 cannot"),
        (NUMBERED, "x.csv", "all numbers"),
        (DEEP, "x.csv", "cannot be rows of a table"),
        (DEEP, "x.parquet", "cannot be rows of a table"),
        (DEEP, "x", "folder of PNGs"),
        (MIXED, "x", "folder of PNGs"),
        (PICTURES, "x.csv", "images cannot be a table"),
        (BAD_LABEL, "x", "cannot be the name of a folder"),
        (LABELLED, "x.npy", "no place for the labels"),
        (MIXED, "x.xlsx", "ending '.xlsx' is not known"),
        (MIXED, "no/such/x.csv", "does not exist"),
    ],
)
def test_a_form_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, data: Table, name: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        write(data, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_numeric_tables_are_arrays_of_their_common_type(tmp_path: Path) -> None:
    write(read(pa.table({"a": [1, 2], "b": [0.5, 1.5]})), tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.array([[1, 0.5], [2, 1.5]]), strict=True)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.csv"
    path.write_text("old\n1\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match=r"x\.csv: cannot be written: .*No space left"):
            write(MIXED, path)
    assert path.read_text() == "old\n1\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.csv"]
    with path.open() as reader:
        write(MIXED, path)
        # Who has the old file open keeps the old file: no reader ever sees a mixture.
        assert reader.read() == "old\n1\n"
    assert path.read_text() == "n,s\n1,a\n2,b\n"


def test_a_folder_with_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        write(PICTURES, tmp_path / "out")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_promise_31_long_and_non_ascii_names(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + ".csv")  # 254 bytes, the most that a name may have is 255
    write(MIXED, path)
    assert read(path).fingerprint() == MIXED.fingerprint()


def test_a_first_row_like_a_header_gets_a_header(tmp_path: Path) -> None:
    data = read(np.array([[0, 1, 2], [5, 6, 7]]))
    write(data, tmp_path / "x.csv")
    found = read(tmp_path / "x.csv")
    assert isinstance(found, Table)
    assert found.columns.to_pydict() == {"0": [0, 5], "1": [1, 6], "2": [2, 7]}


@pytest.mark.parametrize("kind", [object, np.str_])
def test_images_with_text_labels_are_written_to_parquet_over_several_batches(tmp_path: Path, kind: type) -> None:
    labels = np.array(["cat", "a dog"] * 2500, dtype=kind)
    data = Images(np.arange(5000).astype(np.uint8).repeat(16).reshape(5000, 4, 4, 1), "L", labels, "kind")
    write(data, tmp_path / "data.parquet")
    found = read(tmp_path / "data.parquet")
    assert isinstance(found, Images)
    assert found.label_columns["kind"].tolist() == labels.tolist()
    np.testing.assert_array_equal(found.pixels, data.pixels)
