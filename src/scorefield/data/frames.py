"""Tables from memory: Arrow tables and the data frames of pandas and polars, which need not be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorefield.data.kinds import Table
from scorefield.data.schema import normalise
from scorefield.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def from_arrow(table: pa.Table, source: str, notes: tuple[str, ...] = ()) -> Table:
    """An Arrow table as data.

    Args:
        table: any Arrow table.
        source: for messages.
        notes: what was found so far.

    Returns:
        the table, of the types that a table may hold.

    Raises:
        DataError: for no rows, no columns, bad names, and types that no table holds.
    """
    if table.num_columns == 0:
        raise DataError(f"{source}: no columns, expected at least one")
    if table.num_rows == 0:
        raise DataError(f"{source}: no rows, expected at least one")
    plain, more = normalise(table.replace_schema_metadata(None), source)
    return Table(plain, source=source, notes=(*notes, *more))


def from_pandas(frame: object) -> Table:
    """A pandas DataFrame as data: its index is left out, its NaN are missing cells, both said in notes.

    Raises:
        DataError: for columns whose cells are not all of one type, and as `from_arrow`.
    """
    import pandas as pd
    import pyarrow as pa

    assert isinstance(frame, pd.DataFrame)
    source = "pandas DataFrame"
    if isinstance(frame.columns, pd.MultiIndex):
        raise DataError(f"{source}: columns of several levels, expected one name a column")
    notes = []
    if not isinstance(frame.index, pd.RangeIndex):
        notes.append(f"{source}: its index is left out; reset_index() makes it a column")
    names = [str(name) for name in frame.columns]
    if any(not isinstance(name, str) for name in frame.columns):
        notes.append(f"{source}: column names that are no strings, such as {names[0]!r}, are read as strings")
    columns = []
    for place, name in enumerate(names):
        try:
            columns.append(pa.Array.from_pandas(frame.iloc[:, place]))
        except (pa.ArrowException, TypeError, ValueError) as error:
            kind = frame.iloc[:, place].dtype
            raise DataError(f"{source}, column {name!r}: {kind} cells of mixed or unknown types: {error}") from error
    floats = [
        name for place, name in enumerate(names) if frame.iloc[:, place].dtype.kind == "f" and columns[place].null_count
    ]
    if floats:
        notes.append(f"{source}: NaN read as missing in {', '.join(map(repr, floats))}")
    plain = [column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column]) for column in columns]
    return from_arrow(pa.Table.from_arrays(plain, names=names), source, tuple(notes))


def from_polars(frame: object) -> Table:
    """A polars DataFrame as data; its nulls are missing cells, and NaN stays NaN.

    Raises:
        DataError: for a LazyFrame or a Series, and as `from_arrow`.
    """
    import polars as pl

    if not isinstance(frame, pl.DataFrame):
        raise DataError(f"polars {type(frame).__name__}: expected a DataFrame: call .collect() or .to_frame() first")
    return from_arrow(frame.to_arrow(), "polars DataFrame")
