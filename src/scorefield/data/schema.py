"""Which Arrow columns a table may hold, and how the others become one of them or are refused."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scorefield.errors import DataError, OptionError

if TYPE_CHECKING:
    import pyarrow as pa


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse empty and duplicate column names.

    Args:
        names: the names in order.
        where: the file and line, for the message.

    Raises:
        DataError: naming the columns.
    """
    for place, name in enumerate(names, start=1):
        if not name.strip():
            raise DataError(f"{where}, column {place}: the header has an empty name, expected a name for every column")
    for name, count in Counter(names).items():
        if count > 1:
            places = [str(place) for place, other in enumerate(names, start=1) if other == name]
            raise DataError(
                f"{where}, columns {', '.join(places)}: the name {name!r} appears {count} times, expected once"
            )


def normalise(table: pa.Table, source: str) -> tuple[pa.Table, list[str]]:
    """Bring an Arrow table to the types that a table may hold.

    Args:
        table: any Arrow table.
        source: where it came from, for messages.

    Returns:
        the table of int, float, bool, string, date, timestamp, time, duration and all-missing columns, and notes of
        what changed.

    Raises:
        DataError: for empty or duplicate names and for types that have no row-wise value, naming the column.
    """
    import pyarrow as pa

    check_names(table.column_names, source)
    notes: list[str] = []
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            kind = pa.string()
        elif pa.types.is_date64(kind):
            kind = pa.date32()
        elif pa.types.is_decimal(kind):
            kind = pa.float64()
            notes.append(f"{source}, column {name!r}: {column.type} read as float64")
        elif not _plain(kind):
            raise DataError(
                f"{source}, column {name!r}: type {kind} cannot be a column of a table; expected integers, floats, "
                "booleans, strings, dates, timestamps, times or durations; --columns takes the others alone"
            )
        columns.append(column if column.type == kind else _cast(column, kind, name, source))
    return pa.table(columns, names=table.column_names), notes


def select(table: pa.Table, columns: Sequence[str] | None, source: str) -> pa.Table:
    """The columns asked for, in the order asked for; all of them for None.

    Raises:
        OptionError: for an unknown or repeated name.
    """
    if columns is None:
        return table
    return table.select(check_choice(columns, table.column_names, source))


def check_choice(wanted: Sequence[str], known: Sequence[str], source: str) -> list[str]:
    """The names wanted, once each is known and none comes twice.

    Args:
        wanted: what the user asked for.
        known: what there is.
        source: where, for the message.

    Raises:
        OptionError: naming the wrong one and the closest right one.
    """
    if isinstance(wanted, str):
        wanted = [wanted]
    if not wanted:
        raise OptionError(f"{source}: no columns asked for, expected some of {', '.join(known)}")
    for name in wanted:
        if name not in known:
            raise OptionError(f"{source}: no column {name!r}{suggestion(name, known)}; it has {_listed(known)}")
    for name, count in Counter(wanted).items():
        if count > 1:
            raise OptionError(f"{source}: column {name!r} asked for {count} times")
    return list(wanted)


def suggestion(name: str, known: Sequence[str]) -> str:
    """ ", did you mean X?" for the closest known name, or nothing."""
    folded = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    return f", did you mean {folded[close[0]]!r}?" if close else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def _plain(kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_date,
        pa.types.is_timestamp,
        pa.types.is_time,
        pa.types.is_duration,
        pa.types.is_null,
    )
    return any(test(kind) for test in tests)


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, source: str) -> pa.ChunkedArray:
    import pyarrow as pa

    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise DataError(f"{source}, column {name!r}: {column.type} does not fit {kind}: {error}") from error
