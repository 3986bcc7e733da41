"""Reads a CSV file into typed columns, after one pass that found its form sound."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from scorefield.data import csv_scan, schema
from scorefield.data.kinds import Table
from scorefield.data.limits import Limits
from scorefield.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_THOUSANDS = r"^\s*[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?\s*$"
_COMMA_DECIMAL = r"^\s*[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?\s*$"
_PLAIN = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
_BLOCK = 16 << 20  # bytes that Arrow parses at a time, one thread each
_AS_WRITTEN = r"^\s*[+-]?[0-9][0-9:]*\s*$"  # whole numbers and times of day
_ONE_FORM = (r"^\d\d:\d\d$", r"^\d\d:\d\d:\d\d$")  # of times that are read as such


def read_csv(path: Path, columns: Sequence[str] | None, limits: Limits) -> Table:
    """Read .csv or .csv.gz.

    Types are those of whole columns: int64, float64, bool, date32, timestamp, time32, string. A cell is missing when it
    is empty or one of NA, N/A, NULL, null without quotes. Columns of whole numbers with leading zeros, of times of day
    some of which have seconds, and of integers beyond 64 bits stay text, as numbers would not give them back; a note
    says so.

    Args:
        path: the file.
        columns: names to keep, in this order; None for all.
        limits: caps on the length of a line and on all bytes.

    Returns:
        the table, with the line of its first row where rows are lines.

    Raises:
        DataError: for any fault of form, with file, line and column.
        OptionError: for an unknown column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    source = str(path)
    stored = path.stat().st_size
    packed = path.suffix.lower() == ".gz"
    if not packed:
        limits.check_bytes(stored, None, source)
    with _open(path) as stream:
        found = csv_scan.scan(stream, source, limits, stored if packed else None)
    kept = found.names if columns is None else schema.check_choice(columns, found.names, source)
    places = [found.names.index(name) for name in kept]
    with _open(path) as stream:
        table = _parse(stream, found, places, {}, source)
    as_text = _not_numbers(table, places, found, source)
    if as_text:
        with _open(path) as stream:
            again = _parse(stream, found, list(as_text), {place: pa.string() for place in as_text}, source)
        for place in list(as_text):
            if any(pc.all(pc.match_substring_regex(again.column(_key(place)), form)).as_py() for form in _ONE_FORM):
                del as_text[place]
            elif pc.all(pc.match_substring_regex(again.column(_key(place)), _AS_WRITTEN)).as_py():
                table = table.set_column(places.index(place), _key(place), again.column(_key(place)))
            else:
                del as_text[place]  # floats such as 1e+20 are whole and large, and no integers
    table = table.rename_columns(kept)
    first_line = None if found.multiline else found.first_line
    for place, name in enumerate(kept):
        if pa.types.is_string(table.schema.field(place).type):
            where = _Where(source, name, places[place] + 1, first_line)
            table = table.set_column(place, name, _text(table.column(place), where, found.notes))
    return Table(table, found.header, source, (*found.notes, *as_text.values()), first_line)


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        import gzip

        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


def _key(place: int) -> str:
    return f"c{place}"


def _parse(
    stream: BinaryIO, found: csv_scan.Scan, places: list[int], types: dict[int, pa.DataType], source: str
) -> pa.Table:
    """Parse the columns at these places, named c0, c1, …, as text or as types inferred over the whole column."""
    import pyarrow as pa
    import pyarrow.csv

    block = max(_BLOCK, 4 * found.longest + 1024)
    options = pa.csv.ReadOptions(
        column_names=[_key(place) for place in range(len(found.names))],
        skip_rows_after_names=int(found.header),
        block_size=min(block, (1 << 31) - 1),
    )
    form = pa.csv.ParseOptions(delimiter=found.delimiter, newlines_in_values=found.multiline)
    convert = pa.csv.ConvertOptions(
        null_values=list(csv_scan.MISSING),
        true_values=["true", "True", "TRUE"],
        false_values=["false", "False", "FALSE"],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        check_utf8=False,
        include_columns=[_key(place) for place in places],
        column_types={_key(place): kind for place, kind in types.items()},
    )
    try:
        table = pa.csv.read_csv(stream, options, form, convert)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataError(f"{source}: {error}") from error
    if table.num_rows != found.rows:
        raise DataError(
            f"{source}: {table.num_rows} rows were parsed where {found.rows} were counted; did the file change?"
        )
    return table


def _not_numbers(table: pa.Table, places: list[int], found: csv_scan.Scan, source: str) -> dict[int, str]:
    """The columns whose inferred type would not give the file's text back, each with the note that says why."""
    import pyarrow as pa
    import pyarrow.compute as pc

    notes = {}
    for place, column in zip(places, table.columns, strict=True):
        where = f"{source}, column {found.names[place]!r}"
        if pa.types.is_integer(column.type) and place in found.leading_zeros:
            notes[place] = f"{where}: whole numbers with leading zeros, kept as text"
        elif pa.types.is_time(column.type):
            notes[place] = f"{where}: times of day in several forms, kept as text"
        elif pa.types.is_floating(column.type):
            bounds = pc.min_max(column).as_py()
            beyond = max(abs(bounds["min"] or 0.0), abs(bounds["max"] or 0.0))
            if 2.0**63 <= beyond < 1e30 and pc.all(pc.equal(pc.floor(column), column)).as_py():
                notes[place] = f"{where}: whole numbers beyond 64 bits, kept as text"
    return notes


class _Where:
    """A column of a file, for messages: its name, its number from 1, the line of its first row if rows are lines."""

    def __init__(self, source: str, name: str, number: int, first_line: int | None) -> None:
        self.source, self.name, self.number, self.first_line = source, name, number, first_line

    def row(self, place: int) -> str:
        line = f"row {place + 1}" if self.first_line is None else f"line {self.first_line + place}"
        return f"{self.source}, {line}, column {self.number} ({self.name!r})"


def _text(column: pa.ChunkedArray, where: _Where, notes: list[str]) -> pa.ChunkedArray:
    """A text column as it is; numbers in disguise are refused, or read as numbers where nothing is in doubt."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tokens = pa.array(csv_scan.MISSING)
    sample = column.slice(0, 1000).drop_null()
    sample = sample.filter(pc.invert(pc.is_in(sample, value_set=tokens)))
    if len(sample) and not re.match(r"\s*[+-]?[.\d]|true$|false$", sample[0].as_py(), re.IGNORECASE):
        return column  # plainly text: no second look at the whole column
    absent = pc.is_in(column, value_set=tokens)
    rest = pc.if_else(absent, pa.scalar(None, pa.string()), column)
    for pattern, name, hint in (
        (_THOUSANDS, "thousands separators", "write the numbers without them"),
        (_COMMA_DECIMAL, "decimal commas", "write decimal points"),
    ):
        matches = pc.match_substring_regex(rest, pattern)
        if pc.any(matches).as_py() and pc.all(pc.or_(matches, pc.match_substring_regex(rest, _PLAIN))).as_py():
            first = pc.index(matches, True).as_py()
            raise DataError(f"{where.row(first)}: {column[first].as_py()!r} has {name}; expected a number: {hint}")
    if not pc.any(absent).as_py():
        return column
    typed = _cast(rest)
    if typed is None:
        return column
    first = pc.index(absent, True).as_py()
    notes.append(
        f"{where.row(first)}: {pc.sum(absent).as_py()} quoted cells such as {column[first].as_py()!r} read as missing"
    )
    return typed


def _cast(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The first type that every cell fits, or None for text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pc.any(pc.match_substring_regex(column, r"^\s*[+-]?0[0-9]+\s*$")).as_py():
        return None
    trimmed = pc.utf8_trim_whitespace(column)
    for kind in (pa.int64(), pa.bool_(), pa.date32(), pa.timestamp("s"), pa.float64()):
        try:
            return trimmed.cast(kind)
        except pa.ArrowException:
            continue
    return None
