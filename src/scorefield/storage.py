"""Folders on disk that are either whole or not there: synced, checksummed, a manifest written last, then renamed.

MANIFEST.json holds the size and SHA-256 of every other file. A reader accepts a folder only when its manifest holds,
so that a write cut off at any moment leaves the former state in force.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scorefield.errors import BundleError

MANIFEST = "MANIFEST.json"


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, sync it, and rename it there."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place, sync it, and rename it there.

    Raises:
        BundleError: when the disk refuses, naming the path and the bytes needed; what was there before stays.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise BundleError(f"{path}: cannot write {len(content)} bytes: {error.strerror or error}") from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files and their manifest as a new folder, which appears under its name only when it is whole.

    Args:
        folder: must not exist.
        files: content by file name.
    """
    beside = folder.with_name(f".{folder.name}.partial")
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
        raise BundleError(f"{folder}: cannot be written: {error.strerror or error}") from error


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into an existing folder, each atomically, and last the manifest that makes them valid together."""
    for name, content in files.items():
        write_bytes(folder / name, content)
    entries = {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in files.items()}
    write_text(folder / MANIFEST, json.dumps(entries, indent=2) + "\n")


def read_files(folder: Path) -> dict[str, bytes]:
    """The files that a folder's manifest lists, each checked against it.

    Raises:
        BundleError: without a manifest, or when a file is missing, of another size, or of another checksum.
    """
    entries = read_json(folder / MANIFEST)
    files = {}
    for name, entry in entries.items():
        path = folder / name
        # A manifest names files of its own folder only, never a path out of it.
        if Path(name).name != name or not isinstance(entry, dict) or {"bytes", "sha256"} - entry.keys():
            raise BundleError(f"{folder / MANIFEST}: entry {name!r} is not one of ours")
        if not path.is_file():
            raise BundleError(f"{path} is missing, the manifest lists it")
        if path.stat().st_size != entry["bytes"]:
            raise BundleError(f"{path} has {path.stat().st_size} bytes, the manifest says {entry['bytes']}")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise BundleError(f"{path} is damaged: its SHA-256 differs from the manifest's")
        files[name] = content
    return files


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BundleError: when it is not there or is no JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not there") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


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
