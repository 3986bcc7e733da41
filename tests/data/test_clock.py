"""Times of day and durations: whole numbers of their unit and text, there and back; other text refused."""

from __future__ import annotations

from datetime import time, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorefield.data.clock import DAY, PER_SECOND, as_text, in_words, of_texts, of_ticks, ticks

TIMES = {"time32[s]": "s", "time32[ms]": "ms", "time64[us]": "us", "time64[ns]": "ns"}
DURATIONS = {f"duration[{unit}]": unit for unit in PER_SECOND}


@given(st.data(), st.sampled_from([*TIMES.items(), *DURATIONS.items()]))
def test_law_whole_numbers_and_words_come_back(data: st.DataObject, kind_and_unit: tuple[str, str]) -> None:
    kind, (low, high) = pa.type_for_alias(kind_and_unit[0]), (0, DAY * PER_SECOND[kind_and_unit[1]] - 1)
    low, high = (low, high) if pa.types.is_time(kind) else (-9 * high, 9 * high)
    counts = data.draw(st.lists(st.integers(low, high), min_size=1))
    column = of_ticks(np.array(counts), kind)
    assert column.type == kind
    assert ticks(column).to_pylist() == counts
    assert ticks(of_texts(pa.array([in_words(count, kind) for count in counts]), kind)).to_pylist() == counts


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("12:30", "time32[s]", time(12, 30)),
        (" 07:05:09 ", "time32[s]", time(7, 5, 9)),
        ("00:00:00.25", "time32[ms]", time(0, 0, 0, 250_000)),
        ("90", "duration[s]", timedelta(seconds=90)),
        ("26:30:00", "duration[ms]", timedelta(hours=26, minutes=30)),
        ("-1 days 02:00", "duration[s]", -timedelta(days=1, hours=2)),
        ("2 d, 00:00:01.5", "duration[ms]", timedelta(days=2, seconds=1.5)),
    ],
)
def test_oracle_text_is_read_as_pythons_own_times(text: str, kind: str, expected: time | timedelta) -> None:
    assert of_texts(pa.array([text, None]), pa.type_for_alias(kind)).to_pylist() == [expected, None]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("8h", "time32[s]", "'8h' is not a time such as 12:30"),
        ("24:00", "time32[s]", "no time of a day"),
        ("-01:00", "time32[s]", "is not a time"),
        ("12:61", "time32[s]", "is not a time"),
        ("00:00:00.5", "time32[s]", "finer than s"),
        ("1.5", "duration[s]", "is not a duration such as 26:30:00, or a whole number of s"),
    ],
)
def test_other_text_is_refused(text: str, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_texts(pa.array([text]), pa.type_for_alias(kind))


def test_drawn_times_stay_within_the_day() -> None:
    assert of_ticks(np.array([-3.2, DAY + 0.4]), pa.time32("s")).to_pylist() == [time(0), time(23, 59, 59)]


@pytest.mark.parametrize(
    ("counts", "kind", "texts"),
    [
        ([60, 7200], "time32[s]", ["00:01", "02:00"]),
        ([60, 7201], "time32[s]", ["00:01:00", "02:00:01"]),
        ([60_000, 7_200_000], "time32[ms]", ["00:01", "02:00"]),
        ([1_000_000, 2_000_000], "time64[us]", ["00:00:01", "00:00:02"]),
        ([1_000_000, 2_000_001], "time64[us]", ["00:00:01.000000", "00:00:02.000001"]),
        ([60, 7200], "duration[s]", ["60", "7200"]),
    ],
)
def test_times_are_written_in_the_shortest_form_that_is_enough(counts: list[int], kind: str, texts: list[str]) -> None:
    column = pa.chunked_array([of_ticks(np.array(counts), pa.type_for_alias(kind))])
    assert as_text(column).to_pylist() == texts
    assert of_texts(as_text(column), pa.type_for_alias(kind)).to_pylist() == column.to_pylist()


def test_other_types_are_read_by_arrow() -> None:
    assert of_texts(pa.array(["3"]), pa.int64()).to_pylist() == [3]
    with pytest.raises(pa.ArrowException):
        of_texts(pa.array(["x"]), pa.int64())
