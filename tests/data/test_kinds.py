"""The three kinds: rows, fingerprints that see every change of content and nothing else, frames and other doors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from scorefield.data import Array, Data, Images, Table, read
from scorefield.errors import DataError, OptionError

TABLE = read(pa.table({"n": [1, None, 3], "s": ["a", "", None], "b": [True, None, False]}))
ARRAY = Array(np.arange(6.0).reshape(3, 2), np.array([0, 1, 0]), "y")
IMAGES = Images(np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4, 1), "L", np.array(["a", "b", "a"]), "label")


@pytest.mark.parametrize("data", [TABLE, ARRAY, IMAGES], ids=["table", "array", "images"])
def test_rows_keep_the_kind_and_take_their_labels_along(data: Data) -> None:
    swapped = data.rows(np.array([2, 0, 1]))
    assert type(swapped) is type(data)
    assert len(swapped) == 3
    assert swapped.fingerprint() != data.fingerprint()
    assert swapped.rows(np.array([1, 2, 0])).fingerprint() == data.fingerprint()
    assert len(data.rows(np.array([], dtype=int))) == 0
    for wrong in ([3], [-1], [0.5], [[0]]):
        with pytest.raises(DataError):
            data.rows(np.array(wrong))
    assert data.kind in data.describe()


def test_promise_20_a_fingerprint_sees_every_change_of_a_table() -> None:
    base = {"n": [1, None, 3], "s": ["a", "", None]}
    changes = [
        {"n": [1, 0, 3], "s": ["a", "", None]},
        {"n": [1, None, 4], "s": ["a", "", None]},
        {"n": [1, None, 3], "s": ["a", None, None]},
        {"n": [1, None, 3], "s": ["", "a", None]},
        {"m": [1, None, 3], "s": ["a", "", None]},
        {"s": ["a", "", None], "n": [1, None, 3]},
        {"n": [1.0, None, 3.0], "s": ["a", "", None]},
    ]
    prints = {read(pa.table(columns)).fingerprint() for columns in [base, *changes]}
    assert len(prints) == 1 + len(changes)


def test_promise_20_chunks_offsets_and_leftovers_do_not_count() -> None:
    whole = pa.table({"n": [9, 1, 2, None, 3] * 30_000, "s": ["z", "é", "", None, "long " * 9] * 30_000})
    table = Table(whole.slice(1, 149_990))
    pieces = [whole.slice(1, 7), whole.slice(8, 70_000), whole.slice(70_008, 149_990 - 70_007)]
    assert Table(pa.concat_tables(pieces)).fingerprint() == table.fingerprint()
    # The same cells with other bytes under the null.
    dirty = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([5, 77]).tobytes())])
    assert Table(pa.table({"n": dirty})).fingerprint() == Table(pa.table({"n": pa.array([5, None])})).fingerprint()
    buffers = [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([0, 1, 4], np.int32).tobytes()), pa.py_buffer(b"abcd")]
    text = pa.Array.from_buffers(pa.string(), 2, buffers)
    assert text.to_pylist() == ["a", None]
    assert Table(pa.table({"s": text})).fingerprint() == Table(pa.table({"s": pa.array(["a", None])})).fingerprint()


def test_promise_20_a_null_does_not_blur_large_integers() -> None:
    prints = {read(pa.table({"n": [2**53 + place, None]})).fingerprint() for place in range(2)}
    assert len(prints) == 2


def test_promise_20_a_fingerprint_sees_every_change_of_arrays_and_images() -> None:
    values = np.arange(6.0).reshape(3, 2)
    arrays = [
        Array(values),
        Array(values.reshape(2, 3)),
        Array(values.astype(np.float32)),
        Array(-values),
        Array(values, np.array([0, 1, 0]), "y"),
        Array(values, np.array([0, 1, 1]), "y"),
        Array(values, np.array([0, 1, 0]), "z"),
        Array(values, np.array(["0", "1", "0"]), "y"),
    ]
    assert len({array.fingerprint() for array in arrays}) == len(arrays)
    assert Array(np.asfortranarray(values)).fingerprint() == Array(values).fingerprint()
    changed = IMAGES.pixels.copy()
    changed[2, 3, 3] += 1
    images = [
        IMAGES,
        Images(changed, "L", IMAGES.labels, "label"),
        Images(IMAGES.pixels, "L"),
        IMAGES.rows(np.arange(2)),
    ]
    assert len({image.fingerprint() for image in images}) == len(images)
    moved = Images(IMAGES.pixels.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1), "L", IMAGES.labels, "label")
    assert moved.fingerprint() == IMAGES.fingerprint()


def test_pandas_nan_is_missing_and_said() -> None:
    frame = pd.DataFrame(
        {"f": [1.0, np.nan], "s": ["a", None], "c": pd.Categorical(["x", "y"]), "t": pd.to_datetime(["2020-01-02"] * 2)}
    )
    found = read(frame)
    assert isinstance(found, Table)
    assert found.columns["f"].to_pylist() == [1.0, None]
    assert found.columns["c"].to_pylist() == ["x", "y"]
    assert pa.types.is_timestamp(found.columns.schema.field("t").type)
    assert any("NaN read as missing in 'f'" in note for note in found.notes)
    assert any("index is left out" in note for note in read(frame.set_index("f")).notes)


def test_durations_and_times_of_day_stay_what_they_are() -> None:
    table = pa.table(
        {
            "d": pa.array([5, None, 7], pa.duration("ms")),
            "t": pa.array([60, 3, None], pa.time32("s")),
            "u": pa.array([1, 2, 3], pa.time64("us")),
        }
    )
    found = read(table)
    assert isinstance(found, Table)
    assert found.columns.equals(table)
    assert found.notes == ()
    # Equal content has one fingerprint, other content another.
    assert found.fingerprint() == read(table).fingerprint()
    for name in ("d", "t", "u"):
        other = table.set_column(table.column_names.index(name), name, table[name].take(pa.array([1, 0, 2])))
        assert read(other).fingerprint() != found.fingerprint()


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1, "x"]}),
        pd.DataFrame({"a": [object()]}),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame({"a": []}),
        pd.DataFrame(index=[1, 2]),
        pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
        pl.DataFrame({"a": [[1, 2]]}),
        pl.DataFrame({"a": [1]}).lazy(),
        pa.table({"": [1]}),
    ],
)
def test_frames_that_are_no_table_are_refused(frame: object) -> None:
    with pytest.raises(DataError, match=r"expected|mixed|appears"):
        read(frame)


def test_polars() -> None:
    frame = pl.DataFrame({"n": [1, None], "s": ["a", "b"], "c": pl.Series(["x", "y"], dtype=pl.Categorical)})
    found = read(frame)
    assert isinstance(found, Table)
    assert found.columns.to_pydict() == {"n": [1, None], "s": ["a", "b"], "c": ["x", "y"]}


def test_columns_of_kinds_without_names() -> None:
    with pytest.raises(OptionError, match="no column names"):
        read(np.zeros((3, 2)), columns=["a"])
    with pytest.raises(OptionError, match="no column 'b'"):
        read(pa.table({"a": [1]}), columns=["b"])


@pytest.mark.parametrize("source", [[[1.0, 2.0]], {"a": [1]}, None, 3, pd.Series([1.0])])
def test_what_is_no_data(source: object) -> None:
    with pytest.raises(DataError, match="is no data, expected a path"):
        read(source)


def test_paths_that_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"no such file or folder, did you mean 'table\.csv'"):
        read(tmp_path / "tabel.csv")
    (tmp_path / "book.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"ending '\.xlsx' is not known"):
        read(tmp_path / "book.xlsx")


def test_data_is_read_as_itself() -> None:
    assert read(ARRAY) is ARRAY
