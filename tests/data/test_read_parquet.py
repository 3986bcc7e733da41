"""Parquet: truncated, flipped, differing and inflated files are refused; a file of ours cannot change unseen."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from scorefield.data import Images, Limits, Table, read, write
from scorefield.errors import DataError, OptionError


def sample_table() -> pa.Table:
    return pa.table(
        {
            "n": list(range(200)),
            "s": [f"word{i % 7}" for i in range(200)],
            "f": [i / 7 if i % 5 else None for i in range(200)],
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.parquet"
    write(read(sample_table()), path)
    return path


def test_a_table_comes_back(file: Path) -> None:
    found = read(file)
    assert isinstance(found, Table)
    assert found.columns.equals(sample_table())
    chosen = read(file, columns=["f", "n"])
    assert isinstance(chosen, Table)
    assert chosen.columns.column_names == ["f", "n"]
    with pytest.raises(OptionError, match="no column 'm'"):
        read(file, columns=["m"])


def test_promise_17_truncated_anywhere(file: Path) -> None:
    whole = file.read_bytes()
    for keep in (0, 1, 4, 50, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        file.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"data\.parquet"):
            read(file)


def test_promise_17_no_flipped_bit_changes_content_unseen(file: Path) -> None:
    whole, expected = file.read_bytes(), read(file).fingerprint()
    draw = random.Random(0)
    refused = 0
    places = draw.sample(range(len(whole) * 8), 600)
    for place in places:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << (place % 8)
        file.write_bytes(flipped)
        try:
            found = read(file)
        except DataError:
            refused += 1
            continue
        assert found.fingerprint() == expected, f"bit {place} changed the content unseen"
    # The pages and most of the footer carry meaning: a reader that checks nothing refuses few of these.
    assert refused > len(places) / 4


def test_promise_17_a_flip_in_the_pages_is_seen_where_some_columns_are_read(file: Path) -> None:
    whole = file.read_bytes()
    expected = read(file, columns=["n"]).fingerprint()
    chunk = pq.ParquetFile(file).metadata.row_group(0).column(0)
    start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    refused = 0
    places = range(8 * start, 8 * (start + chunk.total_compressed_size), 5)
    for place in places:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << (place % 8)
        file.write_bytes(flipped)
        with contextlib.suppress(DataError):
            assert read(file, columns=["n"]).fingerprint() == expected, f"bit {place} changed the content unseen"
            continue
        refused += 1
    # All but some bits of the page's header, such as its statistics.
    assert refused > 0.8 * len(places)


def test_promise_17_flips_in_files_of_others_never_escape_as_other_errors(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(sample_table(), path)
    whole = path.read_bytes()
    draw = random.Random(1)
    refused = 0
    for place in draw.sample(range(len(whole) * 8), 300):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with contextlib.suppress(DataError):
            read(path)
            continue
        refused += 1
    assert refused > 0


def test_promise_17_a_later_file_with_another_schema(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(pa.table({"a": [1], "b": ["x"], "c": [1.0]}), folder / "part-0.parquet")
    pq.write_table(pa.table({"a": [2], "b": ["y"], "c": [2.0]}), folder / "part-1.parquet")
    found = read(folder)
    assert isinstance(found, Table)
    assert found.columns.to_pydict() == {"a": [1, 2], "b": ["x", "y"], "c": [1.0, 2.0]}
    pq.write_table(pa.table({"a": [2.5], "b": ["y"], "d": [2.0]}), folder / "part-2.parquet")
    with pytest.raises(DataError) as error:
        read(folder)
    for part in ("part-2.parquet", "column 'a' is double, expected int64", "'c' is missing", "'d' is new"):
        assert part in str(error.value)


def test_promise_12_a_repeated_cell_is_counted_before_it_is_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(60_000, np.int32)), pa.array(["x" * 100_000]))
    pq.write_table(pa.table({"s": column}), path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"decompression bomb|Limits\.bytes"):
        read(path)


def test_promise_12_the_metadata_is_checked_before_any_page(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("a page was read"))
    with pytest.raises(DataError, match=r"Limits\.bytes"):
        read(file, limits=Limits(bytes=100))


def test_types_that_no_table_holds_name_the_column(tmp_path: Path) -> None:
    path = tmp_path / "nested.parquet"
    pq.write_table(pa.table({"a": [1], "deep": [[1, 2]]}), path)
    with pytest.raises(DataError, match="column 'deep'"):
        read(path)


def test_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), path)
    with pytest.raises(DataError, match="no rows"):
        read(path)


def test_categories_and_decimals_become_plain_and_decimals_are_said(tmp_path: Path) -> None:
    from decimal import Decimal

    path = tmp_path / "types.parquet"
    columns = {
        "c": pa.array(["x", "y", "x"]).dictionary_encode(),
        "m": pa.array([Decimal("1.50"), None, Decimal("2.25")]),
    }
    pq.write_table(pa.table(columns), path)
    found = read(path)
    assert isinstance(found, Table)
    assert found.columns.to_pydict() == {"c": ["x", "y", "x"], "m": [1.5, None, 2.25]}
    assert any("'m'" in note and "float64" in note for note in found.notes)


def png_bytes(value: int, size: tuple[int, int] = (5, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, value).save(stream, format="PNG")
    return stream.getvalue()


def hub_file(path: Path, cells: list[bytes | None]) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": cell, "path": f"{i}.png"} for i, cell in enumerate(cells)], kind)
    labels = list(range(len(cells)))
    pq.write_table(pa.table({"image": images, "label": labels, "class": [f"c{i}" for i in labels]}), path)


def test_images_as_on_the_hub(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    hub_file(path, [png_bytes(value) for value in (0, 100, 255)])
    found = read(path)
    assert isinstance(found, Images)
    assert (found.pixels.shape, found.mode, found.label_name) == ((3, 4, 5, 1), "L", "label")
    assert found.pixels[:, 0, 0, 0].tolist() == [0, 100, 255]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2]
    assert found.label_columns["class"].tolist() == ["c0", "c1", "c2"]
    by_class = read(path, columns=["class"])
    assert isinstance(by_class, Images)
    assert by_class.label_name == "class"


def test_promise_18_bad_images_in_parquet_are_all_listed_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    hub_file(path, [png_bytes(1), b"", png_bytes(2)[:-20], None, png_bytes(3)])
    with pytest.raises(DataError) as error:
        read(path)
    for part in ("3 of 5", "row 2 (1.png): 0 bytes", "row 3 (2.png): truncated", "row 4 (3.png): no bytes"):
        assert part in str(error.value)
    found = read(path, on_bad="skip")
    assert isinstance(found, Images)
    assert found.label_columns["class"].tolist() == ["c0", "c4"]
    assert any("left out" in note and "2.png" in note for note in found.notes)


def test_a_missing_label_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png_bytes(1), "path": "a.png"}] * 2, kind)
    pq.write_table(pa.table({"image": images, "label": pa.array([1, None])}), path)
    with pytest.raises(DataError, match="row 2, column 'label': a missing label"):
        read(path)


def test_the_fingerprint_in_the_file_is_what_is_verified(file: Path) -> None:
    table = pq.read_table(file)
    claims = json.loads(table.schema.metadata[b"scorefield"])
    claims["fingerprint"] = "0" * 64
    pq.write_table(table.replace_schema_metadata({b"scorefield": json.dumps(claims).encode()}), file)
    with pytest.raises(DataError, match="fingerprint"):
        read(file)
