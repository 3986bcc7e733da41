"""Folders of images: all bad files at once, conversions said aloud, caps before decoding, one order everywhere."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scorefield.data import Images, Limits, read, write
from scorefield.errors import DataError, OptionError

SIZE = (6, 5)  # width, height


def colour(seed: int = 0, mode: str = "RGB") -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], *channels), dtype=np.uint8)
    return Image.fromarray(values, mode=None) if mode != "CMYK" else Image.frombytes("CMYK", SIZE, values.tobytes())


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=form, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def folder(path: Path, **files: bytes | Image.Image) -> Path:
    """A folder whose file names have _ in place of the last dot."""
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        (path / f"{stem}.{ending}").write_bytes(content if isinstance(content, bytes) else encoded(content))
    return path


def images(source: Path, **options: object) -> Images:
    found = read(source, **options)  # type: ignore[arg-type]
    assert isinstance(found, Images)
    return found


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))


def huge_png(width: int, height: int, depth: int = 8, kind: int = 0, body: bytes = b"") -> bytes:
    head = struct.pack(">LLBBBBB", width, height, depth, kind, 0, 0, 0)
    pixels = chunk(b"IDAT", body or zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def test_promise_18_all_bad_files_are_listed_at_once(tmp_path: Path) -> None:
    whole = encoded(colour())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    frames = [colour(seed) for seed in range(3)]
    source = folder(
        tmp_path / "bad",
        good_png=colour(1),
        zero_png=b"",
        cut_png=whole[:-30],
        cut_jpg=encoded(colour(), "JPEG")[:-200],
        flipped_png=bytes(flipped),
        text_png=b"this is no image",
        moving_gif=encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        moving_png=encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        deep_png=huge_png(6, 5, 16, 2, zlib.compress(bytes((6 * 6 + 1) * 5))),
        postscript_png=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n",
    )
    with pytest.raises(DataError) as error:
        read(source)
    text = str(error.value)
    assert "9 of 10 images are bad" in text
    for line in (
        "zero.png: 0 bytes",
        "cut.png: truncated",
        "cut.jpg: damaged",
        "flipped.png: damaged",
        "text.png: not an image",
        "moving.gif: animated",
        "moving.png: animated",
        "deep.png: RGB with 16 bits",
        "postscript.png: not an image",
    ):
        assert line in text
    assert "good.png" not in text
    kept = images(source, on_bad="skip")
    assert len(kept) == 1
    np.testing.assert_array_equal(kept.pixels[0], np.asarray(colour(1)))
    assert "9 of 10 images are bad and left out" in kept.notes[-1]
    assert "zero.png" in kept.notes[-1]
    # The same again, as every process must see the same skip.
    assert images(source, on_bad="skip").fingerprint() == kept.fingerprint()


def test_promise_18_nothing_left_after_skipping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 images are bad"):
        read(folder(tmp_path / "bad", a_png=b""), on_bad="skip")


def test_on_bad_has_two_values(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="expected 'raise' or 'skip'"):
        read(folder(tmp_path / "good", a_png=colour()), on_bad="ignore")  # type: ignore[arg-type]


def test_promise_12_pixels_are_capped_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path / "bombs", a_png=huge_png(60_000, 60_000), b_png=huge_png(2**31 - 1, 2**31 - 1))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(DataError, match=r"60000×60000 is 3600000000 pixels, more than the limit.*Limits\.pixels"):
        read(source)
    monkeypatch.undo()
    small = folder(tmp_path / "small", a_png=colour())
    with pytest.raises(DataError, match="30 pixels, more than the limit of 29"):
        read(small, limits=Limits(pixels=29))
    assert len(read(small, limits=Limits(pixels=30))) == 1


def test_promise_12_the_memory_of_all_images_is_capped(tmp_path: Path) -> None:
    source = folder(tmp_path / "some", a_png=colour(0), b_png=colour(1))
    needed = 2 * 3 * SIZE[0] * SIZE[1]
    assert len(read(source, limits=Limits(bytes=max(needed, 2000)))) == 2
    large = Image.new("RGB", (50, 50))
    with pytest.raises(DataError, match=r"Limits\.bytes"):
        read(folder(tmp_path / "large", a_png=large, b_png=large), limits=Limits(bytes=2 * 3 * 2500 - 1))


def test_pillows_own_cap_is_left_as_it_was(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    read(folder(tmp_path / "good", a_png=colour()))
    assert before == Image.MAX_IMAGE_PIXELS


def test_promise_18_modes_are_converted_and_said(tmp_path: Path) -> None:
    grey, rgb = colour(0, "L"), colour(1)
    opaque = rgb.copy()
    opaque.putalpha(255)
    cases = {
        "palette": (rgb.quantize(8), "RGB", "a palette, converted to RGB"),
        "greys": (grey.convert("P"), "L", "palette of greys"),
        "bits": (grey.convert("1"), "L", "black and white"),
        "opaque": (opaque, "RGB", "opaque everywhere"),
    }
    for name, (image, mode, said) in cases.items():
        found = images(folder(tmp_path / name, a_png=image))
        assert found.mode == mode
        np.testing.assert_array_equal(found.pixels[0].squeeze(), np.asarray(image.convert(mode)))
        assert any(said in note and "a.png" in note for note in found.notes), found.notes
    cmyk = images(folder(tmp_path / "cmyk", a_tiff=encoded(colour(0, "CMYK"), "TIFF")))
    assert cmyk.mode == "RGB"
    assert any("CMYK" in note for note in cmyk.notes)


def test_promise_18_alpha_is_kept_where_it_says_something(tmp_path: Path) -> None:
    image = colour(0, "RGBA")
    found = images(folder(tmp_path / "alpha", a_png=image))
    assert (found.mode, found.notes) == ("RGBA", ())
    np.testing.assert_array_equal(found.pixels[0], np.asarray(image))


@pytest.mark.parametrize("order", [("a_png", "b_png"), ("b_png", "a_png")])
def test_grey_among_colour_becomes_colour_and_it_is_said(tmp_path: Path, order: tuple[str, str]) -> None:
    grey, rgb = colour(0, "L"), colour(1)
    found = images(folder(tmp_path / "mixed", **{order[0]: grey, order[1]: rgb}))
    assert found.mode == "RGB"
    position = 0 if order[0] == "a_png" else 1
    np.testing.assert_array_equal(found.pixels[position], np.asarray(grey.convert("RGB")))
    np.testing.assert_array_equal(found.pixels[1 - position], np.asarray(rgb))
    assert len(found.notes) == 1


def test_promise_18_sixteen_bits_of_grey_are_kept(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 6), dtype=np.uint16)
    found = images(folder(tmp_path / "deep", a_png=Image.fromarray(values)))
    assert (found.mode, found.maximum, found.pixels.dtype) == ("I;16", 65535, np.uint16)
    np.testing.assert_array_equal(found.pixels[0, ..., 0], values)
    with pytest.raises(DataError, match="8 and 16 bits do not mix"):
        read(folder(tmp_path / "deep", b_png=colour(0, "L")))


def test_promise_18_exif_rotation_is_applied_and_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to view
    found = images(folder(tmp_path / "turned", a_png=encoded(colour(), exif=exif)))
    np.testing.assert_array_equal(found.pixels[0], np.rot90(np.asarray(colour()), -1))
    assert any("EXIF" in note for note in found.notes)


def test_promise_18_a_wrong_ending_is_read_and_said(tmp_path: Path) -> None:
    found = images(folder(tmp_path / "wrong", a_jpg=encoded(colour(), "PNG")))
    np.testing.assert_array_equal(found.pixels[0], np.asarray(colour()))
    assert any("read as PNG" in note and "a.jpg" in note for note in found.notes)


def test_sizes_that_differ_are_listed_with_counts(tmp_path: Path) -> None:
    source = folder(tmp_path / "sizes", a_png=colour(0), b_png=Image.new("RGB", (7, 9)), c_png=colour(1))
    with pytest.raises(DataError, match=r"2 sizes(.|\n)*5×6 .*2 images, such as a.png(.|\n)*9×7 .*1 images, such as b"):
        read(source)


def test_class_folders_are_labels_in_one_order(tmp_path: Path) -> None:
    top = tmp_path / "classes"
    top.mkdir()
    folder(top / "dog", b_png=colour(0), c_png=colour(1))
    folder(top / "cat", a_png=colour(2), c_png=colour(3))
    found = images(top)
    assert found.labels is not None
    assert (found.label_name, found.labels.tolist()) == ("label", ["cat", "dog", "cat", "dog"])
    np.testing.assert_array_equal(found.pixels[3], np.asarray(colour(1)))
    (top / ".hidden.png").write_bytes(b"")
    (top / "cat" / "Thumbs.db").write_bytes(b"")
    (top / "notes.txt").write_text("no image")
    again = images(top)
    assert again.fingerprint() == found.fingerprint()
    assert any("2 files or folders that are no images" in note for note in again.notes)
    folder(top, loose_png=colour(4))
    with pytest.raises(DataError, match=r"loose\.png, and in class folders"):
        read(top)


def test_class_folders_named_by_integers_are_integers(tmp_path: Path) -> None:
    for name in ("10", "9"):
        (tmp_path / "n").mkdir(exist_ok=True)
        folder(tmp_path / "n" / name, **{f"{name}_png": colour()})
    labels = images(tmp_path / "n").labels
    assert labels is not None
    assert (labels.dtype, labels.tolist()) == (np.dtype(np.int64), [10, 9])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in this folder"):
        read(tmp_path / "empty")


def test_digits_come_back_from_pngs_that_can_be_seen(tmp_path: Path) -> None:
    digits = read("sklearn:digits").rows(np.arange(40))
    write(digits, tmp_path / "digits")
    assert np.asarray(Image.open(next((tmp_path / "digits").rglob("*.png")))).max() == 255
    found = images(tmp_path / "digits")
    assert found.maximum == 16
    assert found.fingerprint() == digits.fingerprint()
