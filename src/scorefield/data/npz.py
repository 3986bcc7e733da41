"""Reads .npz files: which of their arrays is the data, which are labels, and no more bytes than they claim."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from scorefield.data.arrays import as_kind, check_type, read_body, read_header
from scorefield.data.kinds import Array, Images
from scorefield.data.limits import Limits
from scorefield.data.schema import check_choice
from scorefield.errors import DataError, ScorefieldError

DATA_NAMES = ("x", "data", "images", "samples", "features", "values", "arr_0")
LABEL_NAMES = ("label", "labels", "y", "target", "targets", "class", "classes")


def read_npz(path: Path, columns: Sequence[str] | None, limits: Limits) -> Array | Images:
    """Read the data of an .npz file and the labels beside it.

    The data is the only array; or the only one named x, data, images, samples, features, values or arr_0 in any case;
    or the only one with more than one axis. One-dimensional arrays of its length are labels.

    Args:
        path: the file.
        columns: the name of the array, then of label arrays; None to find them.
        limits: caps on bytes, checked against the directory and again while decompressing.

    Returns:
        the array, or images where it is uint8 of an image's shape.

    Raises:
        DataError: for a damaged or lying file, object arrays, or where it is not clear which array is meant.
        OptionError: for an unknown name in `columns`.
    """
    source = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, columns, limits)
    except ScorefieldError:
        raise
    # A damaged directory raises many types, from BadZipFile and zlib's error to struct's and NotImplementedError.
    except Exception as error:
        raise DataError(f"{source}: a damaged NPZ file of {path.stat().st_size} bytes: {error}") from error


def _read(archive: zipfile.ZipFile, path: Path, columns: Sequence[str] | None, limits: Limits) -> Array | Images:
    source, size = str(path), path.stat().st_size
    members = _members(archive, source, size, limits)

    def load(name: str) -> np.ndarray:
        info = members[name]
        with archive.open(info) as stream:
            where = f"{source}, array {name!r}"
            return read_body(cast(BinaryIO, stream), info.file_size, where, limits)

    if columns is not None:
        chosen, *companions = check_choice(columns, list(members), source)
        shapes = {}
    else:
        shapes = {name: _shape(archive, info, source, name) for name, info in members.items()}
        chosen = _choose(shapes, source)
        companions = [name for name, shape in shapes.items() if name != chosen and shape == shapes[chosen][:1]]
    where = f"{source}, array {chosen!r}"
    values, notes = check_type(load(chosen), where)
    labels = {}
    for name in companions:
        column = load(name)
        if column.shape != values.shape[:1]:
            raise DataError(
                f"{source}, array {name!r}: shape {column.shape} cannot be labels, expected ({len(values)},)"
            )
        if column.dtype.kind in "biuU":
            labels[name] = column
        else:
            notes.append(f"{source}, array {name!r}: {column.dtype} is no label, left out")
    label_name = _label_name(labels, columns is not None)
    if len(members) > 1:
        rest = [name for name in members if name != chosen and name not in labels]
        ignored = f"; not read: {', '.join(rest)}" if rest else ""
        with_labels = f", labels {', '.join(map(repr, labels))}" if labels else ""
        notes.insert(0, f"{source}: read array {chosen!r}{with_labels}{ignored}")
    return as_kind(values, source, notes=notes, name=chosen, labels=labels, label_name=label_name)


def _members(archive: zipfile.ZipFile, source: str, size: int, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    """The arrays of the archive by name, once the sizes that its directory claims are within the limits."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename.endswith(".npy"):
            name = info.filename.removesuffix(".npy")
            if name in members:
                raise DataError(f"{source}: two arrays are named {name!r}")
            members[name] = info
    if not members:
        raise DataError(f"{source}: no arrays in it, expected members that end in .npy")
    for name, info in members.items():
        if info.flag_bits & 1:
            raise DataError(f"{source}, array {name!r}: encrypted, expected a plain archive")
        # A directory can lie about the compressed size too, so the whole file bounds it.
        limits.check_bytes(info.file_size, min(info.compress_size, size), f"{source}, array {name!r}")
    limits.check_bytes(sum(info.file_size for info in members.values()), size, source)
    return members


def _label_name(labels: dict[str, np.ndarray], asked: bool) -> str:
    """The label array that is meant: the first asked for, else the first with a usual name, else the first."""
    if not asked:
        usual = [name for name in LABEL_NAMES for other in labels if other.lower() == name]
        for name in usual:
            return next(other for other in labels if other.lower() == name)
    return next(iter(labels), "")


def _shape(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: str, name: str) -> tuple[int, ...]:
    with archive.open(info) as stream:
        shape, _, _, _ = read_header(cast(BinaryIO, stream), f"{source}, array {name!r}")
    return shape


def _choose(shapes: dict[str, tuple[int, ...]], source: str) -> str:
    """The array that is the data."""
    named = [name for name in shapes if name.lower() in DATA_NAMES]
    deep = [name for name, shape in shapes.items() if len(shape) > 1]
    for candidates in (list(shapes), named, deep):
        if len(candidates) == 1:
            return candidates[0]
    listed = ", ".join(f"{name!r} {shape}" for name, shape in shapes.items())
    raise DataError(f"{source}: not clear which array is the data: {listed}; choose one with --columns NAME")
