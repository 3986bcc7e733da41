"""Folders that are whole or not there: killed or out of space at any call, cut short, flipped, with hostile names."""

from __future__ import annotations

import builtins
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scorefield import storage
from scorefield.errors import BundleError

OLD = {"weights.bin": b"old" * 1000, "values.json": b'{"step": 1}'}
NEW = {"weights.bin": b"newer" * 1000, "values.json": b'{"step": 2}'}


class Killed(BaseException):
    """What a killed process does: no handler of the program sees it."""


@contextmanager
def failing(at: int, fault: Callable[[], BaseException]) -> Iterator[list[str]]:
    """Every call that changes the disk counts; call number `at`, and all after it, raise."""
    calls: list[str] = []
    true_open = builtins.open

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) > at:
                raise fault()
            return call(*args, **options)

        return wrapped

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not any(letter in mode for letter in "wax+"):
            return true_open(file, mode, *args, **options)
        stream = counted("open", true_open)(file, mode, *args, **options)
        true_write = stream.write

        class Stream:
            """Counts writes, and leaves half of one behind when it fails."""

            def __enter__(self) -> Stream:
                return self

            def __exit__(self, *_: Any) -> None:
                stream.close()

            def write(self, content: bytes) -> Any:
                calls.append("write")
                if len(calls) > at:
                    true_write(content[: len(content) // 2])
                    raise fault()
                return true_write(content)

            def __getattr__(self, name: str) -> Any:
                return getattr(stream, name)

        return Stream()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", opened)
        for name in ("replace", "fsync", "mkdir"):
            patch.setattr(os, name, counted(name, getattr(os, name)))
        for name in ("unlink", "rmdir") if fault is Killed else ():
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield calls


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def calls_of(work: Callable[[], None]) -> int:
    with failing(10**9, Killed) as calls:
        work()
    return len(calls)


# -- whole or not there -----------------------------------------------------------------------------------------------


def test_law_what_is_written_is_read(tmp_path: Path) -> None:
    storage.write_folder(tmp_path / "one", OLD)
    assert storage.read_files(tmp_path / "one") == OLD
    storage.write_files(tmp_path / "one", NEW)
    assert storage.read_files(tmp_path / "one") == NEW
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted([*NEW, storage.MANIFEST, "one"])


def test_killed_at_any_call_of_a_new_folder_it_is_not_there_or_whole(tmp_path: Path) -> None:
    storage.write_folder(tmp_path / "before", OLD)
    total = calls_of(lambda: storage.write_folder(tmp_path / "count", NEW))
    assert total > 10
    seen = set()
    for at in range(total):
        place = tmp_path / f"new {at}"
        with failing(at, Killed), pytest.raises(Killed):
            storage.write_folder(place, NEW)
        assert storage.read_files(tmp_path / "before") == OLD
        seen.add(place.exists())
        assert not place.exists() or storage.read_files(place) == NEW
        # The same again finds what was left behind no obstacle.
        if not place.exists():
            storage.write_folder(place, NEW)
            assert storage.read_files(place) == NEW
    assert seen == {False, True}


def test_killed_at_any_call_of_an_overwrite_either_the_old_or_the_new_is_read(tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        storage.write_folder(tmp_path / name, OLD)
        return tmp_path / name

    place = fresh("count")
    total = calls_of(lambda: storage.write_files(place, NEW))
    states = []
    for at in range(total):
        place = fresh("folder")
        with failing(at, Killed), pytest.raises(Killed):
            storage.write_files(place, NEW)
        found = storage.read_files(place)
        assert found in (OLD, NEW)
        states.append(found == NEW)
        # Killed once more at any call of the next write: still one state as a whole.
        for again in range(0, total, 3):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(place, copy)
            with failing(again, Killed), pytest.raises(Killed):
                storage.write_files(copy, {name: b"third" for name in NEW})
            assert storage.read_files(copy) in (found, {name: b"third" for name in NEW})
    # The change is one moment: old before it, new after it.
    assert states == sorted(states)
    assert {*states} == {False, True}


def test_killed_at_any_call_of_one_file_it_is_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    total = calls_of(lambda: storage.write_text(path, "old"))
    for at in range(total):
        path.write_text("old")
        with failing(at, Killed), pytest.raises(Killed):
            storage.write_text(path, "new")
        assert path.read_text() in ("old", "new")


def test_every_file_and_its_folder_are_synced_before_the_name_appears(tmp_path: Path) -> None:
    with failing(10**9, Killed) as calls:
        storage.write_folder(tmp_path / "new", NEW)
    last = len(calls) - 1 - calls[::-1].index("replace")
    # Two files and the manifest before the folder's rename, the parent folder after it.
    assert calls[:last].count("fsync") >= 3
    assert calls[last + 1 :] == ["fsync"]


# -- the disk refuses -------------------------------------------------------------------------------------------------


def test_disk_full_at_any_call_says_so_and_leaves_the_old_intact(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    storage.write_folder(place, OLD)
    total = calls_of(lambda: storage.write_files(place, OLD))
    for at in range(total):
        refusal = ""
        with failing(at, full):
            try:
                storage.write_files(place, NEW)
            except BundleError as error:
                refusal = str(error)
        found = storage.read_files(place)
        if found == NEW:  # refused after the moment of change, or only in the last sync, which not every disk can do
            storage.write_files(place, OLD)
            continue
        assert found == OLD
        assert str(place) in refusal
        assert "No space left on device" in refusal
        assert sorted(p.name for p in place.iterdir()) == sorted([*OLD, storage.MANIFEST])
    assert at > 10


def test_disk_full_names_the_path_and_the_bytes_needed(tmp_path: Path) -> None:
    storage.write_folder(tmp_path / "before", OLD)
    with failing(1, full), pytest.raises(BundleError, match=r"metrics.*cannot write 12345 bytes: No space"):
        storage.write_bytes(tmp_path / "metrics", b"x" * 12345)
    for at in range(calls_of(lambda: storage.write_folder(tmp_path / "count", NEW))):
        with failing(at, full):
            try:
                storage.write_folder(tmp_path / "new", NEW)
                refused = False  # in the last sync, which not every disk can do
            except BundleError as error:
                refused = "No space left" in str(error)
        assert refused != (tmp_path / "new").exists()
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["before", "count"]
    assert storage.read_files(tmp_path / "before") == OLD


def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BundleError, match="cannot write 1 bytes"):
        storage.write_bytes(tmp_path / "file" / "x", b"x")
    with pytest.raises(BundleError, match="cannot be written"):
        storage.write_folder(tmp_path / "file" / "run", OLD)
    with pytest.raises(BundleError, match="cannot write 1 bytes"):
        storage.write_bytes(tmp_path / ("long" * 64), b"x")
    with pytest.raises(BundleError):
        storage.write_bytes(tmp_path / "gone" / "x", b"x")


# -- what is read is checked ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    storage.write_folder(tmp_path / "run", OLD)
    return tmp_path / "run"


@pytest.mark.parametrize("size", [0, 1, 2999])
def test_a_truncated_file_is_named_with_both_sizes(folder: Path, size: int) -> None:
    os.truncate(folder / "weights.bin", size)
    with pytest.raises(BundleError, match=rf"weights\.bin has {size} bytes, the manifest says 3000"):
        storage.read_files(folder)


def test_a_longer_file_is_refused_too(folder: Path) -> None:
    with open(folder / "weights.bin", "ab") as file:
        file.write(b"!")
    with pytest.raises(BundleError, match="3001 bytes, the manifest says 3000"):
        storage.read_files(folder)


@pytest.mark.parametrize("bit", [0, 7, 11_999, 23_999])
def test_one_flipped_bit_is_refused_and_the_file_named(folder: Path, bit: int) -> None:
    content = bytearray(OLD["weights.bin"])
    content[bit // 8] ^= 1 << bit % 8
    (folder / "weights.bin").write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin is damaged: its SHA-256 differs"):
        storage.read_files(folder)


def test_any_flipped_bit_of_the_manifest_is_refused_or_harmless(folder: Path) -> None:
    manifest = (folder / storage.MANIFEST).read_bytes()
    refused = 0
    for place in range(len(manifest)):
        content = bytearray(manifest)
        content[place] ^= 1
        (folder / storage.MANIFEST).write_bytes(content)
        try:
            assert storage.read_files(folder) == OLD
        except BundleError:
            refused += 1
    assert refused > 0.8 * len(manifest)  # the rest is white space


def test_missing_things_are_named(folder: Path) -> None:
    (folder / "values.json").unlink()
    with pytest.raises(BundleError, match=r"values\.json is missing, the manifest lists it"):
        storage.read_files(folder)
    (folder / storage.MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"MANIFEST\.json is not there"):
        storage.read_files(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", "sub/file", ".", ""])
def test_names_that_lead_out_of_the_folder_are_refused(folder: Path, name: str) -> None:
    secret = b"secret"
    (folder.parent / "secret").write_bytes(secret)
    entry = {"bytes": len(secret), "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}
    (folder / storage.MANIFEST).write_text(json.dumps({name: entry}))
    with pytest.raises(BundleError) as refused:
        storage.read_files(folder)
    if "/" in name:
        assert "is not one of ours" in str(refused.value)


@pytest.mark.parametrize(
    "manifest", ["", "[]", "3", "{", '{"a": 5}', '{"a": {"bytes": 1}}', "\x00", "[" * 100_000, '{"a": ' * 100_000]
)
def test_a_manifest_of_another_form_is_refused(folder: Path, manifest: str) -> None:
    (folder / storage.MANIFEST).write_text(manifest)
    with pytest.raises(BundleError, match="MANIFEST"):
        storage.read_files(folder)


def test_files_that_no_manifest_lists_are_no_part_of_it(folder: Path) -> None:
    (folder / "planted.pkl").write_bytes(b"anything")
    assert storage.read_files(folder) == OLD
