"""Reads and writes a folder of images, whose class sub-folders are labels."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Literal

import numpy as np

from scorefield.data.images import ENDINGS, MAXIMUM_KEY, Gathering
from scorefield.data.kinds import Images
from scorefield.data.limits import Limits
from scorefield.errors import DataError


def read_folder(folder: Path, on_bad: Literal["raise", "skip"], limits: Limits) -> Images:
    """Read all images of a folder, or of its sub-folders, one level deep, whose names are the labels.

    The order is that of the file names, then of the sub-folders: the same on every machine and process.

    Args:
        folder: the folder.
        on_bad: "raise" to refuse bad images, all listed at once; "skip" to leave them out and say so.
        limits: caps on pixels and bytes.

    Returns:
        the images; labels are integers where every sub-folder's name is one.

    Raises:
        DataError: naming what is wrong.
    """
    source = str(folder)
    files, others = _list(folder)
    if not files:
        raise DataError(f"{source}: no images in this folder, expected {', '.join(ENDINGS)}, or class folders of them")
    labelled = {path.parent != folder for path in files}
    if len(labelled) > 1:
        loose = next(path for path in files if path.parent == folder)
        raise DataError(
            f"{source}: images both in the folder itself, such as {loose.name}, and in class folders; "
            "expected one of the two"
        )
    gathering = Gathering(len(files), source, on_bad, limits)
    for path in files:
        name = str(path.relative_to(folder))
        try:
            limits.check_bytes(path.stat().st_size, None, name)
            data = path.read_bytes()
        except (OSError, DataError) as error:
            gathering.refuse(name, str(error))
            continue
        gathering.add(name, data, path.suffix.lower())
    pixels, mode, maximum, notes = gathering.finish()
    if others:
        notes.append(f"{source}: {len(others)} files or folders that are no images ignored, such as {others[0]}")
    labels = _labels([files[place].parent.name for place in gathering.kept]) if labelled == {True} else None
    return Images(
        pixels,
        mode,
        labels=labels,
        label_name="" if labels is None else "label",
        maximum=maximum,
        source=source,
        notes=tuple(notes),
    )


def write_folder(data: Images, folder: Path) -> None:
    """Write images as PNGs named by their number, in sub-folders named by their labels.

    Values with another white than 255 are stretched to 0 … 255 so that they can be seen; the PNGs say so, and
    `read_folder` brings them back.

    Args:
        data: the images.
        folder: an empty folder.
    """
    digits = len(str(len(data) - 1))
    for place, image in enumerate(data.pixels):
        parent = folder
        if data.labels is not None:
            parent = folder / str(data.labels[place])
            parent.mkdir(exist_ok=True)
        (parent / f"{place:0{digits}d}.png").write_bytes(png(image, data.mode, data.maximum))


def check_labels(data: Images, where: str) -> None:
    """Refuse labels that cannot be names of folders, before anything is written.

    Raises:
        DataError: naming the label.
    """
    for label in [] if data.labels is None else np.unique(data.labels.astype(str)).tolist():
        if not label or label.startswith(".") or "/" in label or "\\" in label or "\0" in label:
            raise DataError(f"{where}: the label {label!r} cannot be the name of a folder; write .parquet or .npz")
        if len(os.fsencode(label)) > 255:
            raise DataError(f"{where}: the label {label[:40]!r}… is too long for the name of a folder")


def png(image: np.ndarray, mode: str, maximum: int) -> bytes:
    """One image as the bytes of a PNG; image (H, W, C)."""
    from PIL import Image, PngImagePlugin

    info = None
    full = 65535 if mode == "I;16" else 255
    if maximum != full:
        info = PngImagePlugin.PngInfo()
        info.add_text(MAXIMUM_KEY, str(maximum))
        image = np.rint(image.astype(np.float32) * (full / maximum)).clip(0, full).astype(image.dtype)
    values = np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="PNG", pnginfo=info)
    return stream.getvalue()


def _list(folder: Path) -> tuple[list[Path], list[str]]:
    """The image files in order, and the names of all else, but for hidden files."""
    files: list[Path] = []
    others: list[str] = []
    for entry in _entries(folder):
        if entry.is_dir():
            for inner in _entries(entry):
                _sort(inner, files, others, folder)
        else:
            _sort(entry, files, others, folder)
    files.sort(key=lambda path: (path.name, path.parent.name))
    return files, others


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error}") from error


def _sort(path: Path, files: list[Path], others: list[str], folder: Path) -> None:
    if path.suffix.lower() in ENDINGS and not path.is_dir():
        files.append(path)
    else:
        others.append(str(path.relative_to(folder)))


def _labels(names: list[str]) -> np.ndarray:
    """Class names as int64 where all are integers as Python writes them, else as strings."""
    if all(name.lstrip("-").isdecimal() and name.isascii() and str(int(name)) == name for name in set(names)):
        return np.array([int(name) for name in names], dtype=np.int64)
    return np.array(names)
