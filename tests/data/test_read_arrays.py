"""NPY, NPZ, numpy and torch: no pickle, no lying header, no silent conversion of type, range or layout."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from scorefield.data import Array, Images, Limits, check_finite, read, remarks
from scorefield.errors import DataError, OptionError


class Payload:
    """Makes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def header(text: str) -> bytes:
    padded = text.encode() + b" " * (118 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.npy"


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_promise_9_an_object_array_is_refused_and_its_pickle_never_run(tmp_path: Path, ending: str) -> None:
    mark, path = tmp_path / "executed", tmp_path / f"hostile{ending}"
    values = np.array([Payload(mark)], dtype=object)
    np.save(path, values, allow_pickle=True) if ending == ".npy" else np.savez(path, x=values)
    with pytest.raises(DataError, match="pickle and is never loaded"):
        read(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists(), "the payload of this test does nothing, so that the test above shows nothing"


def test_promise_9_a_bare_pickle_named_npy_is_refused(file: Path) -> None:
    mark = file.parent / "executed"
    file.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(DataError, match="not a sound NPY"):
        read(file)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }", r"7\.3 TiB.*Limits\.bytes"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1000, 1000), }", "truncated"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", "followed by other bytes"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-4,), }", "shape"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999999999999, 2), }", r"Limits\.bytes"),
        ("{'descr': '<U8', 'fortran_order': False, 'shape': (1,), }", "no data"),
        ("{'descr': '<f8', 'shape': (4,), }", "not a sound NPY"),
        ("__import__('os').system('true')", "not a sound NPY"),
    ],
)
def test_promise_12_npy_headers_that_lie_take_no_memory(file: Path, text: str, said: str) -> None:
    file.write_bytes(header(text) + b"\0" * 32)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=said):
            read(file)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("keep", [0, 5, 9, 40, 128, 200])
def test_a_truncated_npy_is_refused(file: Path, keep: int) -> None:
    file.write_bytes(npy(np.arange(20.0))[:keep])
    with pytest.raises(DataError, match=r"data\.npy"):
        read(file)


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_changed_bytes_never_escape_as_other_errors(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"changed{ending}"
    np.save(path, np.arange(30.0)) if ending == ".npy" else np.savez_compressed(path, x=np.arange(30.0))
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(min(len(whole), 300))] = draw.randrange(256)
        path.write_bytes(changed)
        with contextlib.suppress(DataError):
            read(path)
            continue
        refused += 1
    assert refused > 100


def test_promise_12_npz_bomb(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(header("{'descr': '|u1', 'fortran_order': False, 'shape': (100, 1000000), }"))
        for _ in range(100):
            member.write(bytes(1_000_000))
    assert bomb.stat().st_size < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="decompression bomb"):
            read(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        # The cap can be set: the same file is read where the user says that it is sound.
        assert len(read(bomb, limits=Limits(expansion=2000))) == 100
    finally:
        tracemalloc.stop()


def test_promise_12_a_zip_directory_that_lies_about_the_size(tmp_path: Path) -> None:
    path = tmp_path / "lying.npz"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(np.zeros(100_000)))
    content = bytearray(stream.getvalue())
    sizes = struct.pack("<L", len(npy(np.zeros(100_000))))
    for claim in (1_000, 3_000_000_000):
        changed = bytes(content).replace(sizes, struct.pack("<L", claim))
        assert changed != bytes(content)
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"lying\.npz"):
            read(path)


def test_a_flipped_bit_in_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged NPZ"):
        read(path)


def test_members_with_paths_touch_no_file(tmp_path: Path) -> None:
    """Promise 11: nothing is ever unpacked, so that a name is only a name."""
    path = tmp_path / "inner" / "data.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../x.npy", npy(np.arange(5.0)))
    before = sorted(tmp_path.rglob("*"))
    assert len(read(path)) == 5
    assert sorted(tmp_path.rglob("*")) == before


def test_npz_finds_the_data_and_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    x, y = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) % 2
    np.savez(path, X=x, y=y, mean=x.mean(0))
    found = read(path)
    assert isinstance(found, Array)
    assert (found.name, found.label_name) == ("X", "y")
    np.testing.assert_array_equal(found.values, x)
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels, y)
    assert any("not read: mean" in note for note in found.notes)


def test_npz_where_it_is_not_clear_which_array_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, train=np.zeros((6, 3)), test=np.ones((4, 3)), extra=np.arange(4))
    with pytest.raises(DataError, match=r"'train' \(6, 3\).*'test' \(4, 3\).*--columns NAME"):
        read(path)
    chosen = read(path, columns=["test", "extra"])
    assert isinstance(chosen, Array)
    assert (chosen.name, chosen.label_name, len(chosen)) == ("test", "extra", 4)
    with pytest.raises(OptionError, match="did you mean 'train'"):
        read(path, columns=["trian"])
    with pytest.raises(DataError, match="cannot be labels"):
        read(path, columns=["train", "extra"])


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "uint16", "int64", "bool", ">f4"])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 3)])
def test_promise_15_types_are_kept_and_one_axis_means_scalars(file: Path, kind: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    np.save(file, values)
    found = read(file)
    assert isinstance(found, Array)
    assert found.values.dtype == np.dtype(kind).newbyteorder("=")
    assert found.values.shape == shape
    np.testing.assert_array_equal(found.values, values)
    assert bool(found.notes) == (kind == ">f4")


def test_fortran_order_is_read_as_it_is_meant(file: Path) -> None:
    values = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    np.save(file, values)
    found = read(file)
    assert isinstance(found, Array)
    np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(3, complex),
        np.array(["a", "b"]),
        np.array([1, "x"], dtype=object),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.zeros(3, dtype=[("a", "f8")]),
        np.array(1.0),
        np.zeros((0, 3)),
        np.zeros((3, 0)),
        np.ma.masked_array([1.0, 2.0], [True, False]),
    ],
    ids=["complex", "text", "objects", "dates", "structure", "0-d", "no rows", "no columns", "masked"],
)
def test_promise_15_types_and_shapes_that_are_no_data(values: np.ndarray) -> None:
    with pytest.raises(DataError, match="expected"):
        read(values)


@pytest.mark.parametrize(
    ("shape", "layout", "mode"),
    [
        ((2, 5, 6), "NHW", "L"),
        ((2, 5, 6, 1), "NHWC", "L"),
        ((2, 5, 6, 3), "NHWC", "RGB"),
        ((2, 5, 6, 4), "NHWC", "RGBA"),
        ((2, 1, 5, 6), "NCHW", "L"),
        ((2, 3, 5, 6), "NCHW", "RGB"),
        ((2, 4, 5, 6), "NCHW", "RGBA"),
    ],
)
def test_promise_15_uint8_of_an_image_shape_is_images_said_aloud(
    shape: tuple[int, ...], layout: str, mode: str
) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = read(values)
    assert isinstance(found, Images)
    assert (found.layout, found.mode, found.pixels.shape[:3]) == (layout, mode, (2, 5, 6))
    assert any(layout in note and mode in note and "0 to 255" in note for note in found.notes)
    channel = {"NHW": values, "NHWC": values[..., -1], "NCHW": values[:, -1]}[layout] if len(shape) > 2 else values
    np.testing.assert_array_equal(found.pixels[..., -1], channel)
    assert isinstance(read(values.astype(np.float32)), Array)


def test_promise_15_channels_first_or_last_in_doubt() -> None:
    with pytest.raises(DataError, match="first or last"):
        read(np.zeros((2, 4, 8, 4), np.uint8))


def test_promise_15_the_range_of_floats_and_of_dark_uint8_is_said() -> None:
    floats = np.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    assert any("-1 to 1" in note and "float64" in note for note in read(floats).notes)
    assert any("another range" in note for note in read(np.ones((2, 8, 8), np.uint8)).notes)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 8), (5, 8, 3), (5, 2, 8, 8), (5, 3, 3, 3)])
def test_uint8_of_other_shapes_stays_an_array(shape: tuple[int, ...]) -> None:
    assert isinstance(read(np.zeros(shape, np.uint8)), Array)


def test_tensors_are_read_without_a_copy_and_bfloat16_is_said() -> None:
    tensor = torch.arange(6.0).reshape(3, 2).requires_grad_()
    found = read(tensor)
    assert isinstance(found, Array)
    assert found.values.ctypes.data == tensor.data_ptr()
    half = read(torch.ones(3, 2, dtype=torch.bfloat16))
    assert isinstance(half, Array)
    assert half.values.dtype == np.float32
    assert any("bfloat16" in note for note in half.notes)
    with pytest.raises(DataError, match="sparse"):
        read(torch.eye(3).to_sparse())
    with pytest.raises(DataError, match="complex"):
        read(torch.ones(3, dtype=torch.complex64))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 2e30, -2e30])
def test_promise_13_non_finite_and_huge_values_name_row_and_column(wrong: float) -> None:
    values = np.zeros((5000, 4), np.float32)
    check_finite(read(values))
    values[[4321, 4500], 2] = wrong
    with pytest.raises(DataError, match=r"2 values are not usable.*row 4322, column 2"):
        check_finite(read(values))


def test_promise_13_the_first_row_is_found_beyond_the_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((3_000_000,))
    values[2_500_000] = np.nan
    with pytest.raises(DataError, match=r"1 values are not usable \(1 NaN\).*row 2500001;"):
        check_finite(read(values))


def test_promise_19_arrays_that_do_not_vary_are_reported() -> None:
    assert any("does not vary" in remark for remark in remarks(read(np.ones((5, 2)))))
    varied = np.random.default_rng(0).normal(size=(5, 3))
    assert remarks(read(varied)) == ()
    varied[:, 1] = 7
    assert any("1 constant columns" in remark and remark.endswith(": 1") for remark in remarks(read(varied)))
    assert any("only one row" in remark for remark in remarks(read(varied[:1])))


def test_the_limit_holds_for_memory_too() -> None:
    with pytest.raises(DataError, match=r"Limits\.bytes"):
        read(np.zeros(1000), limits=Limits(bytes=7999))
    assert len(read(np.zeros(1000), limits=Limits(bytes=8000))) == 1000
