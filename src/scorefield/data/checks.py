"""What is wrong or remarkable in data that was read: non-finite and huge values, constant and duplicate columns."""

from __future__ import annotations

import hashlib

import numpy as np

from scorefield.data.kinds import Array, Data, Images, Table, hash_column
from scorefield.errors import DataError

HUGE = 1e30  # nothing measured is this large: it is an overflow or a mark for "missing", and float32 ends at 3.4e38


def check_finite(data: Data) -> None:
    """Refuse NaN, ±Inf and |x| > 1e30 in numeric data; missing cells of a table are no fault.

    Args:
        data: what `read` returned.

    Raises:
        DataError: with the counts, and the first row and column.
    """
    if isinstance(data, Images):
        return
    if isinstance(data, Array):
        _check_array(data)
    else:
        _check_table(data)


def remarks(data: Data) -> tuple[str, ...]:
    """What a user should know before training: one row, constant columns, equal columns, no variation at all.

    Args:
        data: what `read` returned.

    Returns:
        sentences, none for unremarkable data.
    """
    found = []
    if len(data) == 1:
        found.append(f"{data.source}: only one row, nothing can be learnt about how rows differ")
    if isinstance(data, Table):
        found += _column_remarks(data)
    else:
        values = data.values if isinstance(data, Array) else data.pixels
        if len(data) > 1 and values.min() == values.max():
            found.append(f"{data.source}: every value is {values.flat[0]}: the data does not vary")
        elif isinstance(data, Array) and values.ndim == 2 and len(data) > 1:
            constant = np.flatnonzero(values.min(axis=0) == values.max(axis=0))
            if len(constant):
                listed = ", ".join(map(str, constant[:10])) + (", …" if len(constant) > 10 else "")
                found.append(f"{data.source}: {len(constant)} constant columns (counted from 0): {listed}")
    return tuple(found)


def _check_array(data: Array) -> None:
    values = data.values
    if values.dtype.kind != "f":
        return
    step = max(1, (8 << 20) // max(1, values.itemsize * int(np.prod(values.shape[1:]))))
    counts = np.zeros(3, dtype=np.int64)
    first: tuple[int, ...] | None = None
    for start in range(0, len(values), step):
        part = values[start : start + step]
        # Minimum and maximum carry a NaN along, so a clean chunk costs two passes and no copy.
        low, high = part.min(initial=0), part.max(initial=0)
        if low >= -HUGE and high <= HUGE:
            continue
        wrong, these = _wrong(part)
        counts += these
        if first is None:
            position = np.unravel_index(int(np.argmax(wrong)), part.shape)
            first = (start + int(position[0]), *(int(place) for place in position[1:]))
    if first is not None:
        column = ", ".join(map(str, first[1:]))
        where = f"row {first[0] + 1}" + (f", column {column} (counted from 0)" if column else "")
        raise DataError(_message(data.source, counts, where, values[first]))


def _check_table(data: Table) -> None:
    import pyarrow as pa

    counts = np.zeros(3, dtype=np.int64)
    first: tuple[int, str, float] | None = None
    for name, column in zip(data.columns.column_names, data.columns.columns, strict=True):
        if not pa.types.is_floating(column.type):
            continue
        start = 0
        for chunk in column.chunks:
            values = chunk.fill_null(0).to_numpy(zero_copy_only=False)
            if len(values) and not (values.min() >= -HUGE and values.max() <= HUGE):
                wrong, these = _wrong(values)
                counts += these
                row = int(np.argmax(wrong))
                if first is None or start + row < first[0]:
                    first = (start + row, name, values[row])
            start += len(chunk)
    if first is not None:
        line = "" if data.first_line is None else f" (line {data.first_line + first[0]})"
        where = f"row {first[0] + 1}{line}, column {first[1]!r}"
        raise DataError(_message(data.source, counts, where, first[2]))


def _wrong(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which values are wrong, and how many are NaN, infinite, huge."""
    nan, infinite = np.isnan(values), np.isinf(values)
    with np.errstate(invalid="ignore", over="ignore"):
        huge = np.isfinite(values) & (np.abs(values.astype(np.float64, copy=False)) > HUGE)
    return nan | infinite | huge, np.array([nan.sum(), infinite.sum(), huge.sum()])


def _message(source: str, counts: np.ndarray, where: str, value: float) -> str:
    kinds = [f"{count} {name}" for count, name in zip(counts, ("NaN", "±Inf", "beyond ±1e30"), strict=True) if count]
    return (
        f"{source}: {int(counts.sum())} values are not usable ({', '.join(kinds)}); the first is {value} at {where}; "
        "expected finite numbers (in a table, a missing value is an empty cell)"
    )


def _column_remarks(data: Table) -> list[str]:
    import pyarrow.compute as pc

    found = []
    seen: dict[str, str] = {}
    for name, column in zip(data.columns.column_names, data.columns.columns, strict=True):
        where = f"{data.source}, column {name!r}"
        if column.null_count == len(column):
            found.append(f"{where}: every cell is missing")
            continue
        if len(data) > 1 and pc.count_distinct(column, mode="only_valid").as_py() == 1:
            partly = f", {column.null_count} cells are missing" if column.null_count else ""
            found.append(f"{where}: constant, every value is {pc.first(column).as_py()!r}{partly}")
            continue
        digest = hashlib.sha256(str(column.type).encode())
        for start in range(0, len(column), 1 << 16):
            hash_column(digest, column.slice(start, 1 << 16).combine_chunks())
        twin = seen.setdefault(digest.hexdigest(), name)
        if twin != name and len(data) > 1:
            found.append(f"{where}: the same values as column {twin!r} in every row")
    return found
