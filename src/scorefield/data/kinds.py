"""What a data set is once read: a table, an array or images, with one small face."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scorefield.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_WINDOW = 1 << 16  # rows hashed at a time: a fixed number, as the digest must not depend on how the data is chunked


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of typed columns, missing cells as nulls.

    Args:
        columns: an Arrow table of int, float, bool, string, date and timestamp columns.
        header: False when it came from a file without names; the names are then "0", "1", …
        source: where it came from, for messages.
        notes: what reading found or changed, each a sentence that the user should see.
        first_line: the line of the file that holds the first row, where each row is one line; else None.
    """

    columns: pa.Table
    header: bool = True
    source: str = "table"
    notes: tuple[str, ...] = ()
    first_line: int | None = None

    kind: ClassVar[str] = "table"

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    def rows(self, index: np.ndarray) -> Table:
        """The rows at these positions, in this order."""
        import pyarrow as pa

        taken = self.columns.take(pa.array(_positions(index, len(self))))
        return replace(self, columns=taken, first_line=None)

    def fingerprint(self) -> str:
        """SHA-256 of names, types and values; where it came from and how it is chunked do not count."""
        digest = hashlib.sha256(b"table")
        for name, column in zip(self.columns.column_names, self.columns.columns, strict=True):
            _add_text(digest, name, str(column.type), str(len(column)))
            for start in range(0, len(column), _WINDOW):
                hash_column(digest, column.slice(start, _WINDOW).combine_chunks())
        return digest.hexdigest()

    def describe(self) -> str:
        """One line: the kind, the size and the columns with their types and missing cells."""
        parts = []
        for name, column in zip(self.columns.column_names, self.columns.columns, strict=True):
            missing = f", {column.null_count} missing" if column.null_count else ""
            parts.append(f"{name} ({column.type}{missing})")
        return f"table of {len(self)} rows, {len(parts)} columns: {', '.join(parts)}"


@dataclass(frozen=True, eq=False)
class Array:
    """Rows of one numeric array, in the user's own type.

    Args:
        values: (n, *shape).
        labels: (n,) or None.
        label_name: the name that conditioning uses, "" without labels.
        source, notes: as for a Table.
        name: the key within an .npz file, or "".
        label_columns: every column that can be conditioned on, by name, each (n,); `labels` is one of them.
    """

    values: np.ndarray
    labels: np.ndarray | None = None
    label_name: str = ""
    source: str = "array"
    notes: tuple[str, ...] = ()
    name: str = ""
    label_columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    kind: ClassVar[str] = "array"

    def __post_init__(self) -> None:
        if self.labels is not None and self.label_name not in self.label_columns:
            object.__setattr__(self, "label_columns", {self.label_name: self.labels, **self.label_columns})

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, index: np.ndarray) -> Array:
        """The rows at these positions, in this order."""
        index = _positions(index, len(self))
        return replace(
            self,
            values=self.values[index],
            labels=None if self.labels is None else self.labels[index],
            label_columns={name: column[index] for name, column in self.label_columns.items()},
        )

    def fingerprint(self) -> str:
        """SHA-256 of type, shape, values and labels."""
        digest = hashlib.sha256(b"array")
        _hash_array(digest, self.values)
        _hash_labels(digest, self.label_columns)
        return digest.hexdigest()

    def describe(self) -> str:
        """One line: the kind, the size and the type."""
        labels = f", labels {', '.join(map(repr, self.label_columns))}" if self.label_columns else ""
        return f"array of {len(self)} rows of shape {tuple(self.values.shape[1:])}, {self.values.dtype}{labels}"


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size and one mode, as integers.

    Args:
        pixels: (n, H, W, C) uint8 or uint16.
        mode: "L", "RGB", "RGBA" or "I;16".
        labels: (n,) strings or integers, or None.
        label_name: the name that conditioning uses, "" without labels.
        label_columns: every column that can be conditioned on, by name, each (n,); `labels` is one of them.
        maximum: the value of white: 255 for uint8, 65535 for uint16, 16 for scikit-learn's digits.
        layout: how the user's own array lay, "NHWC", "NCHW" or "NHW"; "" when it was no array. `write` gives it back.
        source, notes: as for a Table.
    """

    pixels: np.ndarray
    mode: str
    labels: np.ndarray | None = None
    label_name: str = ""
    label_columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    maximum: int = 255
    layout: str = ""
    source: str = "images"
    notes: tuple[str, ...] = ()

    kind: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        if self.labels is not None and self.label_name not in self.label_columns:
            object.__setattr__(self, "label_columns", {self.label_name: self.labels, **self.label_columns})

    def __len__(self) -> int:
        return len(self.pixels)

    def rows(self, index: np.ndarray) -> Images:
        """The images at these positions, in this order."""
        index = _positions(index, len(self))
        return replace(
            self,
            pixels=self.pixels[index],
            labels=None if self.labels is None else self.labels[index],
            label_columns={name: column[index] for name, column in self.label_columns.items()},
        )

    def fingerprint(self) -> str:
        """SHA-256 of mode, maximum, pixels and labels; the layout of the user's array does not count."""
        digest = hashlib.sha256(b"images")
        _add_text(digest, self.mode, str(self.maximum))
        _hash_array(digest, self.pixels)
        _hash_labels(digest, self.label_columns)
        return digest.hexdigest()

    def describe(self) -> str:
        """One line: the kind, the size, the mode and the names of the labels."""
        _, height, width, _ = self.pixels.shape
        labels = f", labels {', '.join(map(repr, self.label_columns))}" if self.label_columns else ""
        return f"{len(self)} images of {height}×{width}, {self.mode}, 0 to {self.maximum}{labels}"


Data = Table | Array | Images


def _positions(index: np.ndarray, count: int) -> np.ndarray:
    """Row numbers as int64, refused outside 0 … count−1: a negative one would silently count from the end."""
    positions = np.asarray(index)
    if positions.dtype == np.bool_ and positions.shape == (count,):
        return np.flatnonzero(positions)
    if positions.size == 0:
        return np.zeros(0, dtype=np.int64)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise DataError(f"rows: expected (k,) integers, got {positions.dtype} of shape {positions.shape}")
    if positions.min() < 0 or positions.max() >= count:
        raise DataError(f"rows: numbers from {positions.min()} to {positions.max()}, expected 0 to {count - 1}")
    return positions.astype(np.int64, copy=False)


def _add_text(digest: hashlib._Hash, *texts: str) -> None:
    """Texts with their lengths, so that ("ab", "c") and ("a", "bc") differ."""
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)


def _hash_array(digest: hashlib._Hash, values: np.ndarray) -> None:
    _add_text(digest, values.dtype.newbyteorder("=").str, str(values.shape))
    rows = max(1, (16 << 20) // max(1, values.nbytes // max(1, len(values))))
    for start in range(0, len(values), rows):
        part = np.ascontiguousarray(values[start : start + rows])
        digest.update(part.view(np.uint8).reshape(-1).data if part.size else b"")


def _hash_labels(digest: hashlib._Hash, columns: Mapping[str, np.ndarray]) -> None:
    for name in sorted(columns):
        _add_text(digest, name)
        if columns[name].dtype.kind in "OUS":
            _add_text(digest, *map(str, _plain(columns[name])))
        else:
            _hash_array(digest, columns[name])


def _plain(values: np.ndarray) -> Iterable[object]:
    return values.tolist()


def hash_column(digest: hashlib._Hash, column: pa.Array | pa.ChunkedArray) -> None:
    """Add a column's content to a digest, the same for equal content however Arrow has laid it out.

    Args:
        digest: updated with which cells are there, then with the values, zeros or "" under a null, where Arrow leaves
            the memory undefined.
        column: of a type that a table may hold.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    digest.update(np.packbits(present).tobytes())
    if pa.types.is_null(column.type):
        return
    if pa.types.is_string(column.type):
        column = pc.fill_null(column, "")
        digest.update(pc.binary_length(column).to_numpy(zero_copy_only=False).tobytes())
        _, offsets, text = column.buffers()
        bounds = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
        if text is not None:
            digest.update(memoryview(text)[int(bounds[0]) : int(bounds[-1])])
        return
    if pa.types.is_temporal(column.type):
        column = column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())
    column = pc.if_else(column.is_valid(), column, pa.scalar(0, pa.int8()).cast(column.type))
    digest.update(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)).tobytes())
