"""One door to all data: `read` looks at what it is given and sends it to the reader of that form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scorefield.data.kinds import Array, Data, Images, Table
from scorefield.data.limits import Limits
from scorefield.errors import DataError, OptionError

ENDINGS = (".csv", ".csv.gz", ".tsv", ".parquet", ".npy", ".npz")


def read(
    source: Any,
    *,
    columns: Sequence[str] | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
    limits: Limits = Limits(),
) -> Data:
    """Read a data set, from a file, a folder, memory, or one of the sets that need no file.

    Args:
        source: a path (.csv, .csv.gz, .tsv, .parquet, .npy, .npz, a folder of images, or of Parquet files with one
            schema), "toy:NAME", "sklearn:NAME", a numpy array, a torch tensor, an Arrow table, a DataFrame of pandas
            or polars.
        columns: columns to keep, in this order; for .npz the array, then its labels; None for all.
        on_bad: "raise" to refuse bad images, all listed at once; "skip" to leave them out, said in the notes.
        limits: caps on memory, checked before anything is decoded.

    Returns:
        a Table, an Array or Images. Its notes say everything that was converted or left out.

    Raises:
        DataError: the data is wrong, with file, row or line, and column.
        OptionError: an option is wrong, with the closest right one.
    """
    if on_bad not in ("raise", "skip"):
        raise OptionError(f"on_bad: {on_bad!r}, expected 'raise' or 'skip'")
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        if isinstance(text, str) and text.startswith("toy:"):
            from scorefield.data.toy import read_toy

            return _select(read_toy(text.removeprefix("toy:")), columns)
        if isinstance(text, str) and text.startswith("sklearn:"):
            from scorefield.data.sklearn_sets import read_sklearn

            return _select(read_sklearn(text.removeprefix("sklearn:")), columns)
        return _read_path(Path(os.fsdecode(text)), columns, on_bad, limits)
    return _select(_from_memory(source, limits), columns)


def _read_path(path: Path, columns: Sequence[str] | None, on_bad: Literal["raise", "skip"], limits: Limits) -> Data:
    """The reader by what the path is and how its name ends."""
    try:
        if path.is_dir():
            return _read_folder(path, columns, on_bad, limits)
        if not path.exists():
            near = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
            from scorefield.data.schema import suggestion

            raise DataError(f"{path}: no such file or folder{suggestion(path.name, near)}")
        if not path.is_file():
            raise DataError(f"{path}: neither a file nor a folder")
        name = path.name.lower()
        if name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
            from scorefield.data.csv_read import read_csv

            return read_csv(path, columns, limits)
        if name.endswith(".parquet"):
            from scorefield.data.parquet import read_parquet

            return read_parquet([path], columns, on_bad, limits, str(path))
        if name.endswith(".npz"):
            from scorefield.data.npz import read_npz

            return read_npz(path, columns, limits)
        if name.endswith(".npy"):
            from scorefield.data.arrays import read_npy

            return _select(read_npy(path, limits), columns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    raise DataError(f"{path}: the ending {path.suffix!r} is not known, expected {', '.join(ENDINGS)} or a folder")


def _read_folder(path: Path, columns: Sequence[str] | None, on_bad: Literal["raise", "skip"], limits: Limits) -> Data:
    """A folder of images, or of Parquet files that are the parts of one data set."""
    parts = sorted(
        part for part in path.iterdir() if part.suffix.lower() == ".parquet" and not part.name.startswith(".")
    )
    if parts:
        from scorefield.data.parquet import read_parquet

        return read_parquet(parts, columns, on_bad, limits, str(path))
    from scorefield.data.image_folder import read_folder

    return _select(read_folder(path, on_bad, limits), columns)


def _from_memory(source: Any, limits: Limits) -> Data:
    """The reader by the type's own module: none of the libraries is imported for asking."""
    if isinstance(source, (Table, Array, Images)):
        return source
    if isinstance(source, np.ndarray):
        from scorefield.data.arrays import from_memory

        return from_memory(source, limits)
    library = type(source).__module__.partition(".")[0]
    if library == "pyarrow" and type(source).__name__ == "Table":
        from scorefield.data.frames import from_arrow

        return from_arrow(source, "Arrow table")
    if library == "pandas" and hasattr(source, "iloc") and getattr(source, "ndim", 0) == 2:
        from scorefield.data.frames import from_pandas

        return from_pandas(source)
    if library == "polars":
        from scorefield.data.frames import from_polars

        return from_polars(source)
    if all(hasattr(source, name) for name in ("detach", "cpu", "numpy")):
        from scorefield.data.arrays import from_memory

        return from_memory(source, limits)
    raise DataError(
        f"{type(source).__module__}.{type(source).__qualname__} is no data, expected a path, a numpy array, "
        "a torch tensor, an Arrow table, or a pandas or polars DataFrame"
    )


def _select(data: Data, columns: Sequence[str] | None) -> Data:
    """The columns asked for; of images the label columns; an array has no names."""
    if columns is None:
        return data
    from scorefield.data.schema import check_choice, select

    if isinstance(data, Table):
        return replace(data, columns=select(data.columns, columns, data.source))
    if isinstance(data, Array):
        raise OptionError(f"{data.source}: columns {list(columns)} asked for, but an array has no column names")
    kept = check_choice(columns, list(data.label_columns), data.source)
    labels = {name: data.label_columns[name] for name in kept}
    return replace(data, labels=labels[kept[0]], label_name=kept[0], label_columns=labels)
