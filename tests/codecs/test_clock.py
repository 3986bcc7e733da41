"""Times of day and durations as columns: every unit there and back, on the step they were written on, and by range."""

from __future__ import annotations

import json
from datetime import time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from scorefield import api, recipes
from scorefield.codecs.between import Among, wishes
from scorefield.codecs.category import Category
from scorefield.codecs.choose import codec_from_json
from scorefield.codecs.clock import Clock
from scorefield.codecs.table import TableCodec
from scorefield.data import Table, read, write
from scorefield.data.clock import DAY, PER_SECOND, of_ticks
from scorefield.errors import DataError, OptionError
from scorefield.given import given_row
from scorefield.overrides import override

KINDS = ["time32[s]", "time32[ms]", "time64[us]", "time64[ns]", *(f"duration[{unit}]" for unit in PER_SECOND)]


def column(counts: np.ndarray, kind: str, **others: Any) -> Table:
    """With the third cell missing."""
    values = of_ticks(counts, pa.type_for_alias(kind)).to_pylist()
    values[2] = None
    return Table(pa.table({"c": pa.array(values, pa.type_for_alias(kind)), **others}), source="t.csv")


def fitted(data: Table) -> TableCodec:
    codec = TableCodec.fit(data)
    again = codec_from_json(json.loads(json.dumps(codec.to_json())))
    assert isinstance(again, TableCodec)
    assert again == codec
    return again


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 60, 900])
def test_law_values_and_types_come_back(kind: str, step: int) -> None:
    unit = PER_SECOND[pa.type_for_alias(kind).unit]
    counts = np.random.default_rng(0).integers(0, DAY // step, 200) * step * unit
    data = column(counts, kind)
    codec = fitted(data)
    assert isinstance(codec.columns[0].values, Clock)
    assert codec.decode(codec.spread(data)[0]).columns.equals(data.columns)
    # What is drawn is of the step that was seen, in the range that was seen.
    drawn = codec.decode(torch.linspace(-3, 3, 500).reshape(-1, 1).expand(500, codec.shape[0])).columns["c"]
    found = [_seconds(value) for value in drawn.drop_null().to_pylist()]
    assert len(set(found)) > min(30, DAY / step / 5)
    assert all(abs(second / step - round(second / step)) < 1e-9 for second in found)
    assert max(found) <= counts.max() / unit


def _seconds(value: Any) -> float:
    if isinstance(value, time):
        value = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond)
    return float(value / timedelta(seconds=1))


def test_what_they_are_is_said() -> None:
    half = np.random.default_rng(0).integers(0, 40, 300) * 1800
    assert TableCodec.fit(column(half, "time32[s]")).describe() == [
        "c: times of day from 00:00:00 to 19:30:00; 0.3% missing [times of day]"
    ]
    (line,) = TableCodec.fit(column(half + DAY, "duration[s]")).describe()
    assert line.startswith("c: durations from 1 days 00:00:00 to 1 days 19:30:00")


def test_nanoseconds_of_months_come_back_where_they_are_whole_seconds() -> None:
    counts = np.random.default_rng(0).integers(0, 400 * DAY, 200)
    data = column(counts * 10**9, "duration[ns]")
    codec = fitted(data)
    assert codec.decode(codec.spread(data)[0]).columns.equals(data.columns)
    (entry,) = codec.columns
    assert isinstance(entry.values, Clock)
    assert entry.values.per == 10**9
    finer = column(counts * 10**9 + 400_000_000, "duration[ns]")  # of new rows, which stand for the nearest second
    assert codec.decode(codec.spread(finer)[0]).columns.equals(data.columns)
    wide = column(counts * 10**9 + np.arange(200), "duration[ns]", x=np.arange(200) % 7)
    assert "c: left out, durations of a range too wide for their unit, duration[ns]" in fitted(wide).describe()


def test_times_are_read_from_text_and_text_from_times(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, DAY, 200)
    data = column(counts * 10**6, "time64[us]")
    codec = fitted(data)
    write(data, tmp_path / "t.csv")
    again = read(tmp_path / "t.csv")
    assert isinstance(again, Table)
    assert torch.equal(codec.encode(again), codec.encode(data))
    text = Table(pa.table({"c": pa.array(["12:30", "08:00:05", "18:00:00"])}), source="u.csv")
    assert codec.decode(codec.encode(text)).columns["c"].to_pylist() == [time(12, 30), time(8, 0, 5), time(18)]
    with pytest.raises(DataError, match=r"u.csv: column 'c' holds string, .*'24:00' is no time of a day"):
        codec.encode(Table(pa.table({"c": pa.array(["24:00"])}), source="u.csv"))
    # Some of another form were text in training; a file of the others alone is read as times.
    (tmp_path / "mixed.csv").write_text("c\n" + "12:30\n08:00:05\n18:00\n" * 40)
    mixed = TableCodec.fit(read(tmp_path / "mixed.csv"))  # type: ignore[arg-type]
    (tmp_path / "short.csv").write_text("c\n12:30\n18:00\n")
    assert mixed.unusable(read(tmp_path / "short.csv")) == {}


def test_few_times_are_names_that_have_an_order() -> None:
    data = column(np.tile([12, 13, 18], 100) * 3600, "time32[s]", x=np.arange(300) % 40 + 0.5)
    codec = fitted(data)
    assert codec.decode(codec.encode(data)).columns.equals(data.columns)
    assert isinstance(codec.columns[0].values, Category)
    for text, expected in (("c>12:30", [False, True, True]), ("c=12:00|18:00", [True, False, True])):
        (constraint,) = given_row(codec, wishes([text])).constraints
        assert constraint.allowed.flatten().tolist() == expected  # type: ignore[attr-defined]
    assert given_row(codec, {"c": Among((time(13), time(18)))}).constraints
    with pytest.raises(OptionError, match="none of its values is meant"):
        given_row(codec, wishes(["c>18:30"]))
    ordered = TableCodec.fit(data, {"c": "ordered:18:00<12:00<13:00"})
    assert ordered.decode(ordered.encode(data)).columns.equals(data.columns)
    with pytest.raises(OptionError, match="'noon' is not a time"):
        TableCodec.fit(data, {"c": "ordered:18:00<noon<13:00"})


def test_odd_times_beyond_those_seen_are_refused_where_only_these_are_drawn() -> None:
    odd = np.sort(np.random.default_rng(0).integers(0, 60_000, 50))
    codec = fitted(column(np.tile(odd, 40), "time32[s]"))
    assert isinstance(codec.columns[0].values, Clock)
    given_row(codec, {"c": of_ticks(odd[-1:], pa.time32("s"))[0].as_py()})
    with pytest.raises(OptionError, match="--given c=23:59:59: there were c: times of day"):
        given_row(codec, {"c": time(23, 59, 59)})


def test_one_time_beside_gaps_and_one_throughout_come_back() -> None:
    data = column(np.full(30, 3600), "time32[s]", x=pa.array(np.arange(30) % 7 + 0.5))
    codec = fitted(data)
    assert codec.decode(codec.encode(data)).columns.equals(data.columns)
    same = Table(pa.table({"c": of_ticks(np.full(30, 3600), pa.duration("ms")), "x": np.arange(30) % 7 + 0.5}))
    codec = fitted(same)
    assert codec.decode(codec.encode(same)).columns.equals(same.columns)
    assert not codec.unusable(same)
    other = Table(same.columns.set_column(0, "c", of_ticks(np.full(30, 7), pa.duration("ms"))))
    assert len(codec.unusable(other)) == 30


def test_times_are_given_by_value_and_by_range() -> None:
    counts = np.random.default_rng(0).integers(0, DAY // 60, 400) * 60
    codec = TableCodec.fit(column(counts, "time32[s]", x=pa.array(np.random.default_rng(1).normal(size=400))))
    known = given_row(codec, wishes(["c=12:30"]))
    assert codec.decode(known.cells.at(None)[0]).columns["c"].to_pylist() == [time(12, 30)]
    assert known.values == {"c": time(12, 30)}
    (constraint,) = given_row(codec, wishes(["c>=08:00", "c<09:00"])).constraints
    (again,) = given_row(codec, wishes(["c>07:59:30", "c<=08:59"])).constraints
    assert vars(constraint) == vars(again)
    for text, message in (
        ("c=8h", "not a time such as 12:30"),
        ("c>x", "'x' is not a time"),
        ("c=01:00|02:00", "or a range"),
    ):
        with pytest.raises(OptionError, match=message):
            given_row(codec, wishes([text]))
    with pytest.raises(OptionError, match="no value is meant, there were times of day from"):
        given_row(codec, wishes(["c>12:00", "c<11:00"]))
    with pytest.raises(OptionError, match=r"--given c=2\.5: the column holds"):
        given_row(codec, {"c": 2.5})


def test_a_model_of_times_draws_fills_and_keeps_ranges() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(6 * 60, 20 * 60, 300) * 60
    took = pa.array((counts // 60 + random.integers(0, 30, 300)) * 1000, pa.duration("ms"))
    data = column(counts, "time32[s]", took=took)
    settings = ["network.width=16", "training.steps=40", "training.batch=32", "training.precision=float32"]
    bundle = api.fit(data.columns, override(recipes.edm(), settings), device="cpu")
    drawn = bundle.sample(40)
    assert isinstance(drawn, Table)
    assert drawn.columns.schema == data.columns.schema
    late = bundle.sample(20, given=wishes(["c>18:00"]))
    assert isinstance(late, Table)
    assert min(late.columns["c"].to_pylist()) > time(18)
    filled = bundle.impute(data.columns.slice(0, 5))
    assert filled.columns["c"].null_count == 0
    assert filled.columns.schema == data.columns.schema
