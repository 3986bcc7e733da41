"""Dates and times by calendar parts: every unit and zone there and back, weekdays kept, what never came refused."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefield.codecs.calendar import Calendar
from scorefield.codecs.choose import codec_from_json
from scorefield.codecs.table import TableCodec
from scorefield.data import Table
from scorefield.randomness import Stream

TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
DAY = 86_400


def column(values: Any, kind: pa.DataType) -> Table:
    return Table(pa.table({"c": pa.array(values, kind)}), source="t.csv")


def fitted(data: Table) -> TableCodec:
    """After JSON."""
    codec = TableCodec.fit(data, {"c": "date"})
    again = codec_from_json(json.loads(json.dumps(codec.to_json())))
    assert isinstance(again, TableCodec)
    assert again == codec
    return again


def comes_back(data: Table) -> TableCodec:
    """In double precision, in which a day has nanoseconds."""
    codec = fitted(data)
    assert codec.decode(codec.spread(data)[0]).columns.equals(data.columns)
    return codec


def days(chosen: str, rows: int, start: date = date(2021, 1, 4)) -> list[date]:
    """The next days of these weekdays, Monday being 0."""
    every = (start + timedelta(days=day) for day in range(10**6))
    return [day for day, _ in zip((day for day in every if str(day.weekday()) in chosen), range(rows), strict=False)]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", TICKS)
def test_law_times_of_every_unit_and_zone_come_back(unit: str, zone: str | None) -> None:
    random = np.random.default_rng(0)
    for seconds in (random.integers(-(10**8), 10**8, 80), DAY * random.integers(-900, 900, 80) + DAY - 1):
        data = column((seconds * TICKS[unit]).tolist(), pa.timestamp(unit, zone))
        codec = comes_back(data)
        # Whole seconds and days need no more than single precision.
        assert codec.decode(codec.encode(data)).columns.equals(data.columns)
    fine = random.integers(-(10**8) * TICKS[unit], 10**8 * TICKS[unit], 80)
    comes_back(column([None, *fine.tolist()], pa.timestamp(unit, zone)))


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.dates(), min_size=2, max_size=40, unique=True),
    copies=st.integers(1, 3),
    gaps=st.integers(0, 2),
)
def test_law_dates_come_back(values: list[date], copies: int, gaps: int) -> None:
    data = column([*values * copies, *[None] * gaps], pa.date32())
    codec = comes_back(data)
    z = Stream(0, "z").normal(len(data), codec.shape).double().clamp(-4, 4)
    assert codec.decode(codec.spread(data, torch.special.ndtr(z))[0]).columns.equals(data.columns)


@pytest.mark.parametrize("chosen", ["01234", "05", "6"])
def test_weekdays_that_never_came_are_never_drawn(chosen: str) -> None:
    dates = days(chosen, 400)
    codec = comes_back(column(dates, pa.date32()))
    values = codec.columns[0].values
    assert isinstance(values, Calendar)
    assert "week" in values.parts
    assert "day" not in values.parts
    drawn = codec.decode(2 * Stream(0, "x").normal(1000, codec.shape)).columns["c"].to_pylist()
    assert {str(day.weekday()) for day in drawn} == set(chosen)


@pytest.mark.parametrize("rows", [20, 100, 5000])
def test_weekdays_that_differ_by_chance_are_no_names(rows: int) -> None:
    random = np.random.default_rng(0)
    for values in (random.integers(0, 9000, rows), np.arange(rows)):
        kept = TableCodec.fit(column(values.tolist(), pa.int32()), {"c": "number"})
        codec = TableCodec.fit(Table(pa.table({"c": pa.array(values.astype(np.int32)).cast(pa.date32())})))
        assert codec.shape == kept.shape == (1,)


def test_dates_of_unseen_weekdays_and_times_are_refused_with_those_known() -> None:
    codec = fitted(column(days("01234", 400), pa.date32()))
    found = codec.unusable(column([date(2022, 5, 6), date(2022, 5, 7), None], pa.date32()))
    assert list(found) == [1, 2]
    assert "'c' was never 'Saturday' in training, known are Friday, Monday, Thursday, Tuesday, Wednesday" in found[1]
    assert "'c' is missing, which it never was" in found[2]
    noon = fitted(column([DAY * day + DAY // 2 for day in range(0, 900, 7)], pa.timestamp("s")))
    found = noon.unusable(column([DAY * 7 + DAY // 2, DAY * 7], pa.timestamp("s")))
    assert list(found) == [1]
    assert "'c' has seconds 0, which was always 43200 in training" in found[1]


@pytest.mark.parametrize("half", [0, 500, 999])
def test_law_a_part_that_is_constant_is_put_back(half: int) -> None:
    every_day = column([DAY * 1000 * (day * day) + 1000 * 3600 + half for day in range(40)], pa.timestamp("ms"))
    codec = comes_back(every_day)
    assert codec.shape == (1,)
    assert codec.decode(codec.encode(every_day)).columns.equals(every_day.columns)
    one_day = column([DAY * 1000 * 7 + second * 1000 for second in range(40)], pa.timestamp("ms"))
    assert comes_back(one_day).shape == (1,)


def test_days_drawn_lie_within_those_seen_and_times_within_the_day() -> None:
    random = np.random.default_rng(0)
    seconds = DAY * random.integers(100, 200, 300) + random.integers(0, DAY, 300)
    codec = fitted(column(seconds.tolist(), pa.timestamp("s")))
    drawn = codec.decode(5 * Stream(0, "x").normal(2000, codec.shape)).columns["c"].cast(pa.int64()).to_numpy()
    assert set(np.unique(drawn // DAY)) <= set(range(100, 200))
    assert (drawn % DAY).min() == (seconds % DAY).min()
    assert (drawn % DAY).max() == (seconds % DAY).max()


def test_law_the_weight_of_a_time_is_the_slope_of_its_parts() -> None:
    """A day and a second each have a bin of one, so that the log-Jacobian is Σ log dx/du, as autograd has it."""
    random = np.random.default_rng(0)
    data = column((DAY * random.integers(0, 999, 60) + random.integers(0, DAY, 60)).tolist(), pa.timestamp("s"))
    codec = fitted(data)
    u = Stream(0, "u").uniform(60, codec.shape).requires_grad_()
    x, jacobian = codec.spread(data, u)
    (slopes,) = torch.autograd.grad(x.sum(), u)
    assert codec.shape == (2,)
    torch.testing.assert_close(jacobian, slopes.log().sum(1), rtol=1e-9, atol=1e-9)


def test_times_written_in_minutes_are_drawn_in_minutes() -> None:
    minutes = np.random.default_rng(0).integers(0, 10**6, 300)
    data = column((60 * minutes).tolist(), pa.timestamp("s"))
    codec = comes_back(data)
    drawn = codec.decode(torch.randn(200, *codec.shape, generator=torch.Generator().manual_seed(0)))
    seconds = np.array(drawn.columns["c"].cast(pa.int64()).to_pylist())
    assert (seconds % 60 == 0).all()
    assert len(np.unique(seconds)) > 150
