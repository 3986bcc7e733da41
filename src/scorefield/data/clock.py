"""Times of day and durations as whole numbers of their unit, and as text."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
DAY = 86_400  # seconds
_FORM = re.compile(r"\s*(-)?(?:(\d+)\s*(?:d|days?),?\s*)?(\d+):([0-5]\d)(?::([0-5]\d)(\.\d+)?)?\s*")


def is_clock(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of times of day or of durations."""
    import pyarrow as pa

    return bool(pa.types.is_time(kind) or pa.types.is_duration(kind))


def ticks(column: Any) -> Any:
    """Times or durations, Arrow's array or chunked one, as int64 of their unit; missing ones stay missing."""
    import pyarrow as pa

    whole = pa.int32() if pa.types.is_time32(column.type) else pa.int64()
    return column.cast(whole).cast(pa.int64())


def of_ticks(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Whole numbers (n,) as times or durations; times of day are kept within the day."""
    import pyarrow as pa

    whole = np.round(values).astype(np.int64)
    if pa.types.is_time(kind):
        whole = whole.clip(0, DAY * PER_SECOND[kind.unit] - 1)
    return pa.array(whole.astype(np.int32) if pa.types.is_time32(kind) else whole).cast(kind)


def cast(column: Any, kind: pa.DataType) -> Any:
    """Arrow's cast of its array or chunked one, and those that it lacks: `of_texts`, and `as_text` of times.

    Raises:
        ValueError, pyarrow.ArrowException: for what does not fit.
    """
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return of_texts(column, kind)
    if pa.types.is_string(kind) and is_clock(column.type):
        return as_text(column)
    return column.cast(kind)


def of_texts(texts: Any, kind: pa.DataType) -> Any:
    """Text, Arrow's array or chunked one, as values of a type; 12:30, 12:30:05.5 and "2 days 03:00" are times.

    A duration may also be a whole number of its unit.

    Raises:
        ValueError: for text of another form, and times that are not of one day or of less than the unit.
        pyarrow.ArrowException: for text that is none of another type.
    """
    import pyarrow as pa

    if not is_clock(kind):
        return texts.cast(kind)
    counts = pa.array([None if text is None else _ticks(text, kind) for text in texts.to_pylist()], pa.int64())
    found = counts.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64()).cast(kind)
    return pa.chunked_array([found]) if isinstance(texts, pa.ChunkedArray) else found


def _ticks(text: str, kind: pa.DataType) -> int:
    import pyarrow as pa

    duration = pa.types.is_duration(kind)
    if duration and re.fullmatch(r"\s*-?\d+\s*", text):
        return int(text)
    match = _FORM.fullmatch(text)
    if match is None or (not duration and (match[1] or match[2])):
        form = f"a duration such as 26:30:00, or a whole number of {kind.unit}" if duration else "a time such as 12:30"
        raise ValueError(f"{text!r} is not {form}")
    sign, days, hours, minutes, seconds, rest = match.groups()
    whole = (24 * int(days or 0) + int(hours)) * 3600 + 60 * int(minutes) + int(seconds or 0)
    count = (whole + Fraction(rest or 0)) * PER_SECOND[kind.unit]
    if count.denominator != 1:
        raise ValueError(f"{text!r} is finer than {kind.unit}, in which the column counts")
    if not duration and whole >= DAY:
        raise ValueError(f"{text!r} is no time of a day")
    return int(-count if sign else count)


def in_words(count: float, kind: pa.DataType) -> str:
    """A whole number of the unit of a type as text, such as 12:30:05 or 1 days 02:30:00."""
    unit = PER_SECOND[kind.unit]
    whole, part = divmod(round(abs(count)), unit)
    days, seconds = divmod(whole, DAY)
    clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    fraction = f".{part:0{len(str(unit)) - 1}d}".rstrip("0") if part else ""
    return ("-" if count < 0 else "") + (f"{days} days " if days else "") + clock + fraction


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times of day as text in the shortest form that is enough for all of them; durations as whole numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = column.cast(pa.string())
    if not pa.types.is_time(column.type):
        return text
    counts = ticks(column).drop_null().to_numpy()
    for seconds, characters in ((60, 5), (1, 8)):
        if (counts % (seconds * PER_SECOND[column.type.unit]) == 0).all():
            return pc.utf8_slice_codeunits(text, 0, characters)
    return text
