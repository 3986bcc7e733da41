"""Writes data in the form that the path's ending says, beside its final name and then renamed."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scorefield.data.kinds import Array, Data, Images, Table
from scorefield.data.schema import check_names
from scorefield.errors import DataError, WriteError

ENDINGS = (".csv", ".parquet", ".npy", ".npz")
_EXACT = 1 << 53  # integers up to here are floats without loss


def check_target(path: str | os.PathLike[str], kind: str) -> None:
    """Refuse early what `write` would refuse for any data of a kind, so that no work is done in vain.

    Args:
        path: as for `write`.
        kind: "table", "array" or "images".

    Raises:
        DataError: for an unknown ending, one that does not suit the kind, and a place that cannot be written to.
    """
    target = Path(os.fspath(path))
    if not target.parent.is_dir():
        raise DataError(f"{target}: the folder {target.parent} does not exist")
    ending = target.suffix.lower()
    if ending not in ("", *ENDINGS):
        raise DataError(
            f"{target}: the ending {ending!r} is not known, expected {', '.join(ENDINGS)}, or none for a folder of PNGs"
        )
    if ending == "" and kind != "images":
        raise DataError(
            f"{target}: a path without ending is a folder of PNGs, and the data is of kind {kind}; "
            f"expected {', '.join(ENDINGS)}"
        )
    if ending == "" and target.is_dir() and any(target.iterdir()):
        raise DataError(f"{target}: the folder exists and is not empty, expected a new name")
    if ending == "" and target.is_file():
        raise DataError(f"{target}: a file of this name exists, expected a new name for a folder")
    if ending == ".csv" and kind == "images":
        raise DataError(f"{target}: images cannot be a table; write .parquet, .npz, or a folder of PNGs (no ending)")
    if ending and target.is_dir():
        raise DataError(f"{target}: a folder of this name exists, expected a file or nothing")


def check_fits(data: Data, path: str | os.PathLike[str]) -> None:
    """Refuse early what `write` would refuse for data of this form, so that no work is done in vain.

    Args:
        data: a row or more of what is to be written.
        path: as for `write`.

    Raises:
        DataError: as `check_target`, and where the ending has no place for such rows or their labels.
    """
    target = Path(os.fspath(path))
    check_target(target, data.kind)
    ending = target.suffix.lower()
    if ending:
        _writer(data, ending, str(target))
    else:
        _check_labels(data, target)


def write(data: Data, path: str | os.PathLike[str]) -> None:
    """Write a data set; a file there is replaced, at once and as a whole.

    Args:
        data: a Table, an Array or Images.
        path: .csv, .parquet, .npy or .npz, or a folder without ending for images, as PNGs.

    Raises:
        DataError: before anything is written, where the form does not fit the data.
        WriteError: when the disk refuses, with the path.
    """
    target = Path(os.fspath(path))
    if not isinstance(data, (Table, Array, Images)):
        raise DataError(
            f"{target}: {type(data).__name__} cannot be written, expected a Table, an Array or Images: see read()"
        )
    check_target(target, data.kind)
    ending = target.suffix.lower()
    if ending == "":
        _write_folder(data, target)
    else:
        _write_file(target, _writer(data, ending, str(target)))


def write_arrays(arrays: dict[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write named arrays as .npz, beside the final name and then renamed.

    Args:
        arrays: of plain numbers.
        path: of the file.

    Raises:
        WriteError: when the disk refuses.
    """
    _write_file(Path(os.fspath(path)), lambda stream: _write_npz(arrays, stream))


def _writer(data: Data, ending: str, where: str) -> Callable[[BinaryIO], None]:
    """What writes the data to an open file, once it is known to fit."""
    if ending == ".csv":
        from scorefield.data.csv_write import check_header, write_csv

        table = _as_table(data, where)
        check_header(table, where)
        return lambda stream: write_csv(table, stream)
    if ending == ".parquet":
        from scorefield.data import parquet

        if isinstance(data, Images):
            return lambda stream: parquet.write_images(data, stream)
        table = _as_table(data, where)
        return lambda stream: parquet.write_table(table, stream)
    values, labels = _as_array(data, where)
    if ending == ".npy":
        if labels:
            raise DataError(
                f"{where}: .npy has no place for the labels {', '.join(map(repr, labels))}; write .npz or .parquet"
            )
        return lambda stream: np.lib.format.write_array(stream, values, allow_pickle=False)
    name = data.name if isinstance(data, Array) and data.name else "x"
    if name in labels or any("/" in key or not key for key in labels):
        raise DataError(
            f"{where}: the labels {', '.join(map(repr, labels))} cannot be names in an .npz beside {name!r}"
        )
    return lambda stream: _write_npz({name: values, **labels}, stream)


def _write_npz(arrays: dict[str, np.ndarray], stream: BinaryIO) -> None:
    """As numpy's savez, which cannot take names such as "file"; the same arrays give the same bytes."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, values in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)


def _as_table(data: Data, where: str) -> Table:
    """Rows of numbers as columns named 0, 1, …, with the labels as a further one."""
    import pyarrow as pa

    if isinstance(data, Table):
        return data
    assert isinstance(data, Array)
    if data.values.ndim > 2:
        raise DataError(f"{where}: rows of shape {data.values.shape[1:]} cannot be rows of a table; write .npy or .npz")
    flat = data.values.reshape(len(data), -1)
    columns = [pa.array(np.ascontiguousarray(column)) for column in flat.T]
    names = [str(place) for place in range(len(columns))]
    if data.label_columns:
        names += data.label_columns
        columns += [pa.array(column) for column in data.label_columns.values()]
        check_names(names, where)
    return Table(pa.table(columns, names=names), header=bool(data.label_columns), source=data.source)


def _as_array(data: Data, where: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Values and label columns as plain arrays, or a refusal."""
    if isinstance(data, Table):
        return _numbers(data, where), {}
    labels = {
        name: column.astype(str) if column.dtype.kind == "O" else column for name, column in data.label_columns.items()
    }
    if isinstance(data, Array):
        return data.values, labels
    from scorefield.data.arrays import in_layout

    return in_layout(data), labels


def _numbers(data: Table, where: str) -> np.ndarray:
    """A table of numbers as one array (n, columns), refused where that would lose something."""
    import pyarrow as pa

    columns = []
    for name, column in zip(data.columns.column_names, data.columns.columns, strict=True):
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise DataError(
                f"{where}: column {name!r} is {kind}, and an array holds numbers only; write .csv or .parquet"
            )
        if column.null_count:
            raise DataError(
                f"{where}: column {name!r} has {column.null_count} missing cells, which an array cannot hold; "
                "write .csv or .parquet"
            )
        columns.append(column.to_numpy())
    common = np.result_type(*columns)
    for name, column in zip(data.columns.column_names, columns, strict=True):
        if common.kind == "f" and column.dtype.kind in "iu" and len(column):
            limit = _EXACT if common.itemsize == 8 else 1 << (np.finfo(common).nmant + 1)
            if max(abs(int(column.min())), abs(int(column.max()))) > limit:
                raise DataError(f"{where}: column {name!r} holds integers that {common} cannot; write .csv or .parquet")
    return np.stack([column.astype(common, copy=False) for column in columns], axis=1)


def _check_labels(data: Data, target: Path) -> None:
    """Refuse labels that cannot be names of folders."""
    from scorefield.data import image_folder

    assert isinstance(data, Images)
    image_folder.check_labels(data, str(target))


def _write_folder(data: Data, target: Path) -> None:
    from scorefield.data import image_folder

    assert isinstance(data, Images)
    _check_labels(data, target)
    partial = _partial(target)
    try:
        partial.mkdir()
        image_folder.write_folder(data, partial)
        partial.rename(target)
    except OSError as error:
        raise WriteError(f"{target}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_file(target: Path, fill: Callable[[BinaryIO], None]) -> None:
    """Fill a file beside the target, bring it to disk, and only then give it the name."""
    partial = _partial(target)
    try:
        with partial.open("xb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    except OSError as error:
        raise WriteError(f"{target}: cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _partial(target: Path) -> Path:
    """A short name in the same folder: a long one of the user's plus an ending might be too long for the disk."""
    return target.parent / f".scorefield-{os.getpid()}-{os.urandom(4).hex()}.partial"
