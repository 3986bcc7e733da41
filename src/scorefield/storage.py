"""Folders on disk that are either whole or not there: synced, checksummed, a manifest written last, then renamed.

MANIFEST.json holds the size and SHA-256 of every other file. A reader accepts a folder only when its manifest holds,
so that a write cut off at any moment leaves the former state in force.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scorefield.errors import BundleError, WriteError

MANIFEST = "MANIFEST.json"


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, sync it, and rename it there."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place, sync it, and rename it there.

    Raises:
        WriteError: when the disk refuses, naming the path and the bytes needed; what was there before stays.
    """
    _write_beside(path, content)
    try:
        os.replace(_beside(path), path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(_beside(path))
        raise WriteError(f"{path}: cannot write {len(content)} bytes: {error.strerror or error}") from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files and their manifest as a new folder, which appears under its name only when it is whole.

    Args:
        folder: must not exist.
        files: content by file name.
    """
    beside = _beside(folder)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        write_files(beside, files)
        os.replace(beside, folder)
        _sync_folder(folder.parent)
    except (OSError, BundleError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, BundleError):
            raise
        raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files and their manifest into an existing folder, in place of former ones.

    All files are written beside their places before the new manifest is renamed over the old one, and only then take
    their places; `read_files` knows both places, so that at any moment either the old files are valid or the new ones.

    Raises:
        WriteError: when the disk refuses, naming the path and the bytes needed; what was there before stays.
    """
    entries = {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in files.items()}
    _finish(folder)
    try:
        for name, content in files.items():
            _write_beside(folder / name, content)
        write_text(folder / MANIFEST, json.dumps(entries, indent=2) + "\n")
    except BundleError:
        for name in files:
            _remove(_beside(folder / name))
        raise
    try:
        for name in files:
            os.replace(_beside(folder / name), folder / name)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error
    _sync_folder(folder)


def read_files(folder: Path) -> dict[str, bytes]:
    """The files that a folder's manifest lists, each checked against it.

    Raises:
        BundleError: without a manifest, or when a file is missing, of another size, or of another checksum.
    """
    files = {}
    for name, entry in _entries(folder).items():
        path = folder / name
        content, fault = _checked(path, entry)
        if content is None:
            # Where writing was cut off after the manifest, the file has not taken its place yet.
            content, _ = _checked(_beside(path), entry)
        if content is None:
            raise BundleError(fault)
        files[name] = content
    return files


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest of a folder."""
    entries = read_json(folder / MANIFEST)
    for name, entry in entries.items():
        # A manifest names files of its own folder only, never a path out of it.
        if Path(name).name != name or not isinstance(entry, dict) or {"bytes", "sha256"} - entry.keys():
            raise BundleError(f"{folder / MANIFEST}: entry {name!r} is not one of ours")
    return entries


def _finish(folder: Path) -> None:
    """Bring files to their places where a write was cut off after its manifest, before the next one begins."""
    if not (folder / MANIFEST).exists():
        return
    with contextlib.suppress(OSError, BundleError):
        for name, entry in _entries(folder).items():
            if _checked(folder / name, entry)[0] is None and _checked(_beside(folder / name), entry)[0] is not None:
                os.replace(_beside(folder / name), folder / name)


def _checked(path: Path, entry: dict[str, Any]) -> tuple[bytes | None, str]:
    """The content of a file if it is what its entry says, else None and what is wrong."""
    try:
        if not path.is_file():
            return None, f"{path} is missing, the manifest lists it"
        if path.stat().st_size != entry["bytes"]:
            return None, f"{path} has {path.stat().st_size} bytes, the manifest says {entry['bytes']}"
        content = path.read_bytes()
    except OSError as error:
        return None, f"{path}: cannot be read: {error.strerror or error}"
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        return None, f"{path} is damaged: its SHA-256 differs from the manifest's"
    return content, ""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BundleError: when it is not there or is no JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not there") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _beside(path: Path) -> Path:
    """Where a file or folder is made before it takes its place."""
    return path.with_name(f".{path.name}.partial")


def _write_beside(path: Path, content: bytes) -> None:
    """Write a file's content beside its place and sync it."""
    try:
        with open(_beside(path), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _remove(_beside(path))
        raise WriteError(f"{path}: cannot write {len(content)} bytes: {error.strerror or error}") from error


def _remove(path: Path) -> None:
    """Remove a file that may not be there, on a disk that may refuse."""
    with contextlib.suppress(OSError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut; not every file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
