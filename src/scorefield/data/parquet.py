"""Reads and writes Parquet: tables, and images as on the Hugging Face hub (columns image{bytes,path} and labels)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from scorefield.data import schema
from scorefield.data.image_folder import png
from scorefield.data.images import Gathering
from scorefield.data.kinds import Images, Table
from scorefield.data.limits import Limits
from scorefield.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_KEY = b"scorefield"
_LABELS = ("label", "labels", "class", "target", "y", "fine_label")


def read_parquet(
    paths: list[Path], columns: Sequence[str] | None, on_bad: Literal["raise", "skip"], limits: Limits, source: str
) -> Table | Images:
    """Read one Parquet file, or the parts of one data set in order.

    Checksums of pages are verified where the file has them; a file that this project wrote also carries the fingerprint
    of its content, which is verified too.

    Args:
        paths: the files.
        columns: columns to keep, in this order; for images the label columns; None for all.
        on_bad: what to do with bad images.
        limits: caps on pixels and bytes.
        source: the file's or folder's name, for messages.

    Returns:
        images where a column holds struct{bytes, …}, else a table.

    Raises:
        DataError: for a damaged file, a schema that differs between files, types that no table holds.
        OptionError: for an unknown column.
    """
    files = [_open(path) for path in paths]
    first = files[0].schema_arrow
    for path, file in zip(paths[1:], files[1:], strict=True):
        _same_schema(first, file.schema_arrow, str(paths[0]), str(path))
    rows = sum(file.metadata.num_rows for file in files)
    if rows == 0:
        raise DataError(f"{source}: no rows, expected at least one")
    for path, file in zip(paths, files, strict=True):
        _check_claims(path, file, limits)
    image = next((field.name for field in first if _holds_images(field.type)), None)
    if image is not None:
        return _images(paths, files, image, columns, on_bad, limits, source)
    schema.check_names(first.names, source)
    kept = first.names if columns is None else schema.check_choice(columns, first.names, source)
    parts = [part for path, file in zip(paths, files, strict=True) for part in _parts(path, file, kept, limits)]
    table, notes = schema.normalise(_joined(parts, source), source)
    table = table.select(kept)
    declared = [_declared(file) for file in files]
    table = _in_seconds(table, declared[0].get("seconds"))
    header = all(claim.get("header", True) for claim in declared)
    if columns is None and len(files) == 1 and "fingerprint" in declared[0]:
        found = Table(table).fingerprint()
        if found != declared[0]["fingerprint"]:
            raise DataError(f"{source}: damaged: its content does not have the fingerprint that was written with it")
    return Table(table.replace_schema_metadata(None), header, source, tuple(notes))


def write_table(data: Table, stream: BinaryIO) -> None:
    """Write a table, with checksums of pages and the fingerprint of its content."""
    import pyarrow.parquet as pq

    # Parquet knows no whole seconds: it keeps them as milliseconds, and the reader brings them back.
    seconds = [field.name for field in data.columns.schema if re.match(r"(timestamp|time32)\[s", str(field.type))]
    claims = {"fingerprint": data.fingerprint(), "header": data.header, "seconds": seconds}
    table = data.columns.replace_schema_metadata({_KEY: json.dumps(claims).encode()})
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)


def write_images(data: Images, stream: BinaryIO) -> None:
    """Write images as PNGs in a column image{bytes,path}, with a column for each label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    # An object array is text, as for .npz; its type cannot be told from a slice, which may be empty.
    labels = {
        name: pa.array(column.astype(str) if column.dtype.kind == "O" else column)
        for name, column in data.label_columns.items()
    }
    layout = pa.schema([("image", kind)] + [(name, column.type) for name, column in labels.items()])
    with pq.ParquetWriter(stream, layout, compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, len(data), 4096):
            stop = min(start + 4096, len(data))
            cells = [
                {"bytes": png(data.pixels[place], data.mode, data.maximum), "path": f"{place}.png"}
                for place in range(start, stop)
            ]
            parts = [column.slice(start, stop - start) for column in labels.values()]
            writer.write_table(pa.Table.from_arrays([pa.array(cells, kind), *parts], schema=layout))


def _open(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = path.stat().st_size
    try:
        plain = pq.ParquetFile(path, page_checksum_verification=True)
        # Text as a dictionary: a long cell that repeats a million times is counted before it is spelt out.
        texts = [field.name for field in plain.schema_arrow if _is_text(field.type)]
        return pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts) if texts else plain
    # Damaged metadata raises many types, from ArrowInvalid to UnicodeDecodeError and MemoryError.
    except Exception as error:
        if isinstance(error, pa.ArrowInvalid) and "Parquet magic bytes not found" in str(error):
            raise DataError(
                f"{path}: not a whole Parquet file: its {size} bytes do not end as one; is it truncated?"
            ) from error
        raise DataError(f"{path}: a damaged Parquet file of {size} bytes: {_brief(error)}") from error


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _declared(file: pq.ParquetFile) -> dict[str, object]:
    """What this project wrote into the file about itself, or nothing."""
    try:
        claims = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"{}"))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _in_seconds(table: pa.Table, names: object) -> pa.Table:
    """The timestamps and times that were whole seconds when they were written, in seconds again."""
    import pyarrow as pa

    for name in names if isinstance(names, list) else []:
        place = table.schema.get_field_index(name) if isinstance(name, str) else -1
        if place >= 0 and pa.types.is_temporal(table.schema.field(place).type):
            stored = table.schema.field(place).type
            kind = pa.timestamp("s", stored.tz) if pa.types.is_timestamp(stored) else pa.time32("s")
            try:
                table = table.set_column(place, name, table.column(place).cast(kind))
            except pa.ArrowException:
                continue  # no whole seconds: another program has changed the column and kept our words
    return table


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return False
    place = kind.get_field_index("bytes")
    return place >= 0 and (
        pa.types.is_binary(kind.field(place).type) or pa.types.is_large_binary(kind.field(place).type)
    )


def _same_schema(first: pa.Schema, other: pa.Schema, first_name: str, other_name: str) -> None:
    """Refuse a later file whose columns or types differ, naming every difference."""
    types, others = ({field.name: str(field.type) for field in part} for part in (first, other))
    differences = [f"column {name!r} is missing" for name in types if name not in others]
    differences += [f"column {name!r} is new" for name in others if name not in types]
    differences += [
        f"column {name!r} is {others[name]}, expected {types[name]}"
        for name in types
        if name in others and types[name] != others[name]
    ]
    if differences:
        raise DataError(f"{other_name}: its columns differ from those of {first_name}: {'; '.join(differences)}")


def _check_claims(path: Path, file: pq.ParquetFile, limits: Limits) -> None:
    """Check what the metadata says that the file decodes to, before any page is read."""
    import pyarrow as pa

    stored = path.stat().st_size
    metadata = file.metadata
    claimed = sum(metadata.row_group(place).total_byte_size for place in range(metadata.num_row_groups))
    widths = 0
    for field in file.schema_arrow:
        try:
            widths += max(1, field.type.bit_width // 8) if not pa.types.is_dictionary(field.type) else 4
        except (ValueError, AttributeError):
            widths += 1  # text and nested columns: counted while they are read
    if claimed < 0 or metadata.num_rows < 0:
        raise DataError(f"{path}: a damaged Parquet file: its metadata claims negative sizes")
    limits.check_bytes(max(claimed, metadata.num_rows * widths), stored, str(path))


def _parts(
    path: Path, file: pq.ParquetFile, columns: Sequence[str], limits: Limits, rows: int = 1 << 16
) -> Iterator[pa.RecordBatch]:
    """The file in batches, counted against the limits before dictionaries are spelt out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    stored, total, count = path.stat().st_size, 0, 0
    try:
        for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
            batch.validate(full=True)
            for place, column in enumerate(batch.columns):
                if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type):
                    lengths = pc.binary_length(column.dictionary)
                    total += (pc.sum(lengths.take(column.indices)).as_py() or 0) + 4 * len(column)
                    limits.check_bytes(total, stored, f"{path}, column {batch.schema.names[place]!r}")
                else:
                    total += column.nbytes
            limits.check_bytes(total, stored, str(path))
            count += len(batch)
            spelt = [
                column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
                for column in batch.columns
            ]
            yield pa.RecordBatch.from_arrays(spelt, names=batch.schema.names)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: a damaged Parquet file, read up to row {count}: {_brief(error)}") from error
    if count != file.metadata.num_rows:
        raise DataError(
            f"{path}: a damaged Parquet file: {count} rows where its metadata says {file.metadata.num_rows}"
        )


def _joined(parts: list[pa.RecordBatch], source: str) -> pa.Table:
    import pyarrow as pa

    try:
        return pa.Table.from_batches(parts)
    except pa.ArrowException as error:
        raise DataError(f"{source}: its parts do not fit together: {_brief(error)}") from error


def _images(
    paths: list[Path],
    files: list[pq.ParquetFile],
    image: str,
    columns: Sequence[str] | None,
    on_bad: Literal["raise", "skip"],
    limits: Limits,
    source: str,
) -> Images:
    """Decode the column of images, and keep the columns that can be labels."""
    known = files[0].schema_arrow.names
    schema.check_names(known, source)
    wanted = known if columns is None else schema.check_choice(columns, known, source)
    wanted = [name for name in wanted if name != image]
    gathering = Gathering(sum(file.metadata.num_rows for file in files), source, on_bad, limits)
    parts: dict[str, list[pa.Array]] = {name: [] for name in wanted}
    row = 0
    for path, file in zip(paths, files, strict=True):
        for batch in _parts(path, file, [image, *wanted], limits, rows=1024):
            cells = batch.column(image)
            names = cells.field("path") if cells.type.get_field_index("path") >= 0 else [None] * len(batch)
            for data, name in zip(cells.field("bytes"), names, strict=True):
                row += 1
                text = None if name is None else name.as_py()
                shown = f"row {row}" if text is None else f"row {row} ({text})"
                content = data.as_py()
                if content is None:
                    gathering.refuse(shown, "no bytes in the file, expected the image itself")
                else:
                    gathering.add(shown, content, PurePosixPath(text or "").suffix.lower())
            for name in wanted:
                parts[name].append(batch.column(name))
    pixels, mode, maximum, notes = gathering.finish()
    kept = np.array(gathering.kept)
    labels = {}
    for name in wanted:
        column = _label(parts[name], name, source, notes)
        if column is not None:
            labels[name] = column[kept]
    main = next((name for name in _LABELS if name in labels), next(iter(labels), ""))
    return Images(
        pixels,
        mode,
        labels=labels.get(main),
        label_name=main,
        label_columns=labels,
        maximum=maximum,
        source=source,
        notes=tuple(notes),
    )


def _label(parts: list[pa.Array], name: str, source: str, notes: list[str]) -> np.ndarray | None:
    """A column as labels: integers, booleans or strings, none missing; other types are left out and said."""
    import pyarrow as pa

    column = pa.chunked_array(parts)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind)):
        notes.append(f"{source}, column {name!r}: {kind} is no label, left out")
        return None
    if column.null_count:
        row = next(place for place, cell in enumerate(column) if not cell.is_valid)
        raise DataError(f"{source}, row {row + 1}, column {name!r}: a missing label, expected a value in every row")
    values = column.to_numpy()
    return values.astype(str) if _is_text(kind) else values
