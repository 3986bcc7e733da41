"""Writes a table as CSV that reads back as the same table: quotes only where needed, floats that round-trip."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, BinaryIO

from scorefield.data.clock import as_text, is_clock
from scorefield.data.csv_scan import MISSING, as_header
from scorefield.data.kinds import Table
from scorefield.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 1 << 16


def write_csv(data: Table, stream: BinaryIO) -> None:
    """Write a table as UTF-8 CSV with commas and \\n.

    A missing cell is empty (NA in a table of one column, where an empty line would be no row); text that would read as
    a missing cell is quoted. The header is left out where the table came without one, unless its first row would be
    taken for a header.

    Args:
        data: any table.
        stream: open for writing bytes.
    """
    names = data.columns.column_names
    if (data.header and as_header(names)) or _reads_as_header(data):
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(names)
        stream.write(line.getvalue().encode("utf-8"))
    for batch in _as_text(data.columns).to_batches(max_chunksize=_ROWS):
        stream.write(_lines(batch))


def check_header(data: Table, where: str) -> None:
    """Refuse column names that would read back as a row, unless they are the names that columns without a header get.

    Args:
        data: any table.
        where: the path, for the message.

    Raises:
        DataError: naming the columns.
    """
    names = data.columns.column_names
    unnamed = names == [str(place) for place in range(len(names))]
    if data.header and not unnamed and not as_header(names):
        raise DataError(
            f"{where}: the column names {', '.join(names)} are all numbers, and would read back from CSV as a row; "
            "rename them, or write .parquet"
        )


def _reads_as_header(data: Table) -> bool:
    if len(data) == 0:
        return True
    first = _lines(_as_text(data.columns.slice(0, 1)).combine_chunks().to_batches()[0]).decode("utf-8")
    return as_header(next(csv.reader(io.StringIO(first, newline=""))))


def _as_text(columns: pa.Table) -> pa.Table:
    """A table whose times of day are text, in the shortest form that is enough for all of a column."""
    for place, (name, column) in enumerate(zip(columns.column_names, columns.columns, strict=True)):
        if is_clock(column.type):
            columns = columns.set_column(place, name, as_text(column))
    return columns


def _lines(batch: pa.RecordBatch) -> bytes:
    """The rows of a batch as CSV text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    comma, end, nothing = (pa.scalar(text, pa.large_string()) for text in (",", "\n", ""))
    missing = "NA" if batch.num_columns == 1 else ""
    cells = [pc.fill_null(_cells(column), missing) for column in batch.columns]
    rows = pc.binary_join_element_wise(*(cell.cast(pa.large_string()) for cell in cells), comma)
    ended = pc.binary_join_element_wise(rows, nothing, end)
    _, offsets, text = ended.buffers()
    if not len(ended) or text is None:
        return b""
    return memoryview(text)[
        : int.from_bytes(memoryview(offsets)[8 * len(ended) : 8 * len(ended) + 8], "little")
    ].tobytes()


def _cells(column: pa.Array) -> pa.Array:
    """A column's cells as CSV text, nulls kept."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind):
        quoted = pc.binary_join_element_wise('"', pc.replace_substring(column, '"', '""'), '"', "")
        special = pc.or_(pc.match_substring_regex(column, '[,;\t"\r\n]'), pc.is_in(column, value_set=pa.array(MISSING)))
        return pc.if_else(special, quoted, column)
    if pa.types.is_floating(kind):
        if pa.types.is_float16(kind):
            column = column.cast(pa.float32())
        text = column.cast(pa.string())
        # Arrow writes 2.0 as 2, which would come back as an integer.
        whole = pc.match_substring_regex(text, "^-?[0-9]+$")
        return pc.if_else(whole, pc.binary_join_element_wise(text, "", ".0"), text)
    return column.cast(pa.string())
