"""Arrays from .npy files and from memory: which types and shapes are data, and when uint8 means images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scorefield.data.kinds import Array, Images
from scorefield.data.limits import Limits, human
from scorefield.errors import DataError

_SMALLEST = 4  # pixels along a side, below which uint8 data is no picture
_HEADER = 1 << 16
_CHUNK = 64 << 20


def read_npy(path: Path, limits: Limits) -> Array | Images:
    """Read one .npy file, its header checked against the file's size and the limits before memory is taken.

    Args:
        path: the file.
        limits: caps on bytes.

    Returns:
        the array, or images where it is uint8 of an image's shape.

    Raises:
        DataError: for object arrays (a pickle, never loaded), types that are no numbers, damaged or lying headers.
    """
    source = str(path)
    with path.open("rb") as stream:
        size = path.stat().st_size
        values = read_body(stream, size, source, limits)
    values, notes = check_type(values, source)
    return as_kind(values, source, notes=notes)


def read_body(stream: BinaryIO, size: int, source: str, limits: Limits) -> np.ndarray:
    """Read an array in NPY form from a stream, in the one allocation that it needs.

    Args:
        stream: at the start of the form.
        size: how many bytes the form has, header included.
        source: for messages.
        limits: caps on bytes.

    Returns:
        the array.

    Raises:
        DataError: as `read_npy`.
    """
    shape, fortran, dtype, header = read_header(stream, source)
    if dtype.hasobject:
        raise DataError(
            f"{source}: an array of Python objects ({dtype}), which is a pickle and is never loaded; "
            "expected numbers: save it as float or int"
        )
    needed = math.prod(shape) * dtype.itemsize
    limits.check_bytes(needed, None, f"{source}, whose header says {dtype} of shape {shape}")
    if needed != size - header:
        kind = "truncated" if size - header < needed else "followed by other bytes"
        raise DataError(
            f"{source}: {kind}: the header says {dtype} of shape {shape}, {human(needed)}, "
            f"but {size - header} bytes follow it, expected {needed}"
        )
    values = np.empty(shape, dtype=dtype, order="F" if fortran else "C")
    view = values.reshape(-1, order="A").view(np.uint8).data if needed else memoryview(b"")
    filled = 0
    while filled < needed:
        # readinto of a zip member makes a copy as large as what is asked for, hence the chunks.
        count = stream.readinto(view[filled : filled + _CHUNK])  # type: ignore[attr-defined]
        if not count:
            raise DataError(f"{source}: truncated: {filled} bytes of {needed} came")
        filled += count
    if stream.read(1):
        raise DataError(f"{source}: more bytes than its header says ({needed})")
    return values


def from_memory(values: object, limits: Limits) -> Array | Images:
    """A numpy array or a torch tensor as data, without a copy where none is needed.

    Args:
        values: an array, or anything with detach(), cpu() and numpy() as torch's tensors have.
        limits: caps on bytes.

    Returns:
        the array, or images where it is uint8 of an image's shape.

    Raises:
        DataError: for types and shapes that are no data.
    """
    notes: list[str] = []
    source = "array"
    if not isinstance(values, np.ndarray):
        source = "tensor"
        values = _from_tensor(values, notes)
    if isinstance(values, np.ma.MaskedArray):
        raise DataError(
            "array: a masked array, whose mask would be lost; expected a plain array, or a table with missing cells"
        )
    array = np.asarray(values)
    limits.check_bytes(array.nbytes, None, source)
    array, more = check_type(array, source)
    return as_kind(array, source, notes=[*notes, *more])


def check_type(values: np.ndarray, source: str) -> tuple[np.ndarray, list[str]]:
    """The array in this machine's byte order, once its type and shape are such as data has.

    Args:
        values: any array.
        source: for messages.

    Returns:
        values (n, *shape), and notes.

    Raises:
        DataError: for other types, no rows, no columns, no axis.
    """
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        hint = ": use a table (.csv, .parquet) for text and dates" if values.dtype.kind in "OSUMm" else ""
        raise DataError(
            f"{source}: type {values.dtype} is no data, expected bool, integers or floats of up to 64 bits{hint}"
        )
    if values.ndim == 0:
        raise DataError(f"{source}: a single number, expected rows: an array of shape (n, …)")
    if values.size == 0:
        raise DataError(f"{source}: shape {values.shape} holds nothing, expected at least one row and one value a row")
    if not values.dtype.isnative:
        return values.astype(values.dtype.newbyteorder("=")), [f"{source}: byte order brought to this machine's"]
    return values, []


def as_kind(
    values: np.ndarray,
    source: str,
    *,
    notes: list[str],
    name: str = "",
    labels: dict[str, np.ndarray] | None = None,
    label_name: str = "",
) -> Array | Images:
    """Images where the array is uint8 of an image's shape, said in a note; else an array.

    Args:
        values: (n, *shape), checked.
        source: for messages.
        notes: what reading found so far.
        name: the key within an .npz.
        labels: columns (n,) by name.
        label_name: the one of them that is meant, or "".

    Returns:
        (n, H, W), (n, H, W, C) and (n, C, H, W) of uint8 with C = 1, 3, 4 and H, W ≥ 4 as images.

    Raises:
        DataError: where channels could be first or last.
    """
    labels = labels or {}
    notes = list(notes)
    layout = image_layout(values.shape)
    if layout and values.dtype == np.uint8:
        if layout == "either":
            raise DataError(
                f"{source}: uint8 of shape {values.shape} could have its channels first or last; "
                "expected a shape that says which, or floats for an array that is no picture"
            )
        pixels = {
            "NHW": lambda: values[..., None],
            "NHWC": lambda: values,
            "NCHW": lambda: values.transpose(0, 2, 3, 1),
        }[layout]()
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[pixels.shape[-1]]
        low, high = int(pixels.min()), int(pixels.max())
        moved = ", read with channels last" if layout == "NCHW" else ""
        dark = "; the largest is far below 255: are these pictures stored in another range?" if high <= 16 else ""
        notes.append(
            f"{source}: uint8 of shape {values.shape} taken as {mode} images ({layout}{moved}), values {low} to {high} "
            f"of 0 to 255{dark}"
        )
        return Images(
            pixels,
            mode,
            labels=labels.get(label_name),
            label_name=label_name,
            label_columns=labels,
            layout=layout,
            source=source,
            notes=tuple(notes),
        )
    if layout:
        least, most = float(values.min()), float(values.max())
        notes.append(
            f"{source}: {values.dtype} of an image's shape {values.shape}, values {least:g} to {most:g}, kept "
            "as an array; images are uint8, 0 to 255"
        )
    return Array(values, labels.get(label_name), label_name if labels else "", source, tuple(notes), name, labels)


def image_layout(shape: tuple[int, ...]) -> str:
    """ "NHW", "NHWC", "NCHW", "either", or "" for a shape that no image has."""
    if len(shape) == 3:
        return "NHW" if min(shape[1:]) >= _SMALLEST else ""
    if len(shape) != 4:
        return ""
    last = shape[3] in (1, 3, 4) and min(shape[1:3]) >= _SMALLEST
    first = shape[1] in (1, 3, 4) and min(shape[2:]) >= _SMALLEST
    return "either" if first and last else "NHWC" if last else "NCHW" if first else ""


def in_layout(data: Images) -> np.ndarray:
    """The pixels as the user's own array lay; grey without a channel axis where there was no array."""
    layout = data.layout or ("NHW" if data.pixels.shape[-1] == 1 else "NHWC")
    if layout == "NHW":
        return data.pixels[..., 0]
    return data.pixels.transpose(0, 3, 1, 2) if layout == "NCHW" else data.pixels


def read_header(stream: BinaryIO, source: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, order, type and length of the header; numpy reads it as a literal and runs nothing."""
    form = np.lib.format
    try:
        version = form.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = form.read_array_header_1_0(stream, max_header_size=_HEADER)
        elif version == (2, 0):
            shape, fortran, dtype = form.read_array_header_2_0(stream, max_header_size=_HEADER)
        else:
            raise DataError(
                f"{source}: NPY version {version[0]}.{version[1]}, expected 1.0 or 2.0 (others hold structures)"
            )
    except DataError:
        raise
    # A header that is no literal raises nearly anything from within Python's own parser, MemoryError included.
    except Exception as error:
        raise DataError(f"{source}: not a sound NPY file: {(str(error) or repr(error)).splitlines()[0]}") from error
    if any(not isinstance(size, int) or isinstance(size, bool) or size < 0 for size in shape):
        raise DataError(f"{source}: a damaged NPY header: shape {shape}")
    return shape, fortran, dtype, stream.tell()


def _from_tensor(values: object, notes: list[str]) -> np.ndarray:
    """A torch tensor's numbers as numpy's, bfloat16 as float32."""
    import torch

    if not isinstance(values, torch.Tensor):
        raise DataError(f"tensor: {type(values).__name__} is no torch tensor")
    if values.layout != torch.strided or values.is_quantized:
        raise DataError(
            f"tensor: a sparse or quantised tensor ({values.layout}), expected a dense one: call .to_dense()"
        )
    if values.dtype == torch.bfloat16:
        notes.append("tensor: bfloat16 read as float32")
        values = values.float()
    try:
        return values.detach().cpu().resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:
        raise DataError(f"tensor: {values.dtype} cannot be read: {error}") from error
