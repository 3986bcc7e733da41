"""Decodes image files to arrays of one size and mode, and gathers every bad one before it complains."""

from __future__ import annotations

import io
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from scorefield.data.limits import Limits
from scorefield.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # no EPS or PDF: those run Ghostscript
ENDINGS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
}
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}
MAXIMUM_KEY = "scorefield-maximum"  # a text chunk of PNGs that we wrote stretched to 0 … 255
_LISTED = 200
_ORIENTATION = 0x0112


class BadImageError(Exception):
    """One image cannot be used; the text says why."""


@dataclass(frozen=True)
class Decoded:
    """One image: pixels (H, W, C), its mode, what was done to it, and the value of white if a PNG of ours says so."""

    pixels: np.ndarray
    mode: str
    done: tuple[str, ...]
    maximum: int | None


def decode(data: bytes, ending: str, limits: Limits) -> Decoded:
    """Decode one image file.

    Args:
        data: the bytes of the file.
        ending: the ending of its name, in lower case with the dot, or "".
        limits: caps, checked from the header before pixels are decoded.

    Returns:
        the pixels as L, RGB, RGBA or 16-bit grey, turned upright.

    Raises:
        BadImageError: saying what is wrong with the file.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise BadImageError("0 bytes")
    try:
        with _no_pixel_cap(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            try:
                limits.check_pixels(width, height, "the header")
            except DataError as error:
                raise BadImageError(str(error)) from error
            if image.format == "PNG":
                _check_png(data)
            return _pixels(image, ending)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("not an image that can be read") from error
    # A damaged file can raise nearly anything from within a decoder.
    except Exception as error:
        raise BadImageError(f"damaged: {error}") from error


@contextmanager
def _no_pixel_cap() -> Iterator[None]:
    """Pillow's own cap is set aside, since ours is checked, can be set, and does not warn in place of refusing."""
    from PIL import Image

    cap = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = cap


def _check_png(data: bytes) -> None:
    """Check the checksum of every chunk: Pillow leaves out those of the pixels."""
    place = 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        name = data[place + 4 : place + 8]
        end = place + 8 + size
        if end + 4 > len(data):
            break
        if zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise BadImageError(f"damaged: the checksum of its chunk {name.decode('latin-1')} differs")
        if name == b"IEND":
            return
        place = end + 4
    raise BadImageError("truncated: the file ends before its last chunk")


def _pixels(image: Image.Image, ending: str) -> Decoded:
    """Decode, turn upright and bring to one of the four modes."""
    from PIL import ImageOps

    done: list[str] = []
    if ending in ENDINGS and image.format not in (ENDINGS[ending], "MPO"):
        done.append(f"read as {image.format}, which is not what the name's ending says")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise BadImageError(f"animated or of many pages ({getattr(image, 'n_frames', 2)} frames), expected one image")
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if deep and not image.mode.startswith("I"):
        raise BadImageError(
            f"{image.mode} with 16 bits a channel, which would be cut to 8; expected 8 bits, or 16-bit grey"
        )
    image.load()
    upright = image
    if image.getexif().get(_ORIENTATION, 1) != 1:
        upright = ImageOps.exif_transpose(image)
        done.append("turned upright by its EXIF orientation")
    array, mode, step = _to_mode(upright)
    if step:
        done.append(step)
    maximum = str(image.info.get(MAXIMUM_KEY, ""))
    return Decoded(array, mode, tuple(done), int(maximum) if maximum.isdecimal() and len(maximum) <= 5 else None)


def _to_mode(image: Image.Image) -> tuple[np.ndarray, str, str]:
    """Pixels (H, W, C), the mode and the conversion, as words."""
    mode = image.mode
    if mode.startswith("I;16") or mode == "I":
        values = np.asarray(image)
        if mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise BadImageError("32-bit grey, expected 8 or 16 bits")
        return values.astype(np.uint16)[..., None], "I;16", ""
    transparent = "transparency" in image.info or mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "RGBa", "La", "CMYK", "YCbCr"):
        raise BadImageError(f"mode {mode} cannot be used, expected grey, RGB, RGBA, a palette or CMYK")
    if transparent:
        values = np.asarray(image.convert("RGBA"))
        if (values[..., 3] < 255).any():
            return values, "RGBA", "" if mode == "RGBA" else f"of mode {mode} with transparency, converted to RGBA"
        grey = mode in ("L", "LA", "La")
        return (
            values[..., : 1 if grey else 3],
            "L" if grey else "RGB",
            "with an alpha that is opaque everywhere, dropped",
        )
    if mode in ("1", "L"):
        return (
            np.asarray(image.convert("L"))[..., None],
            "L",
            "in black and white, converted to L" if mode == "1" else "",
        )
    values = np.asarray(image.convert("RGB"))
    if mode == "P" and (values == values[..., :1]).all():
        return values[..., :1], "L", "with a palette of greys, converted to L"
    steps = {"P": "with a palette, converted to RGB", "RGB": ""}
    return values, "RGB", steps.get(mode, f"of mode {mode}, converted to RGB without colour profiles")


class Gathering:
    """Images of one data set, decoded one after another into one array.

    Args:
        count: how many will come.
        source: where from, for messages.
        on_bad: "raise" to refuse bad images, all at once at the end; "skip" to leave them out and say so.
        limits: caps on pixels and bytes.
    """

    def __init__(self, count: int, source: str, on_bad: Literal["raise", "skip"], limits: Limits) -> None:
        self.count, self.source, self.on_bad, self.limits = count, source, on_bad, limits
        self.kept: list[int] = []  # positions, among all that came, of the images that are good
        self.bad: list[str] = []
        self._came = 0
        self._mode = ""
        self._pixels = np.zeros((0, 0, 0, 0), dtype=np.uint8)
        self._sizes: dict[tuple[int, int], tuple[int, str]] = {}
        self._done: Counter[str] = Counter()
        self._first_done: dict[str, str] = {}
        self._maximums: set[int | None] = set()

    def add(self, name: str, data: bytes, ending: str) -> None:
        """Decode the next image; a bad one is remembered with its name."""
        place = self._came
        self._came += 1
        try:
            image = decode(data, ending, self.limits)
            if self._mode and (self._mode == "I;16") != (image.mode == "I;16"):
                raise BadImageError(
                    f"{image.mode}, where the images before it are {self._mode}: 8 and 16 bits do not mix"
                )
        except BadImageError as error:
            self.bad.append(f"{name}: {error}")
            return
        height, width = image.pixels.shape[:2]
        count, first = self._sizes.get((height, width), (0, name))
        self._sizes[height, width] = (count + 1, first)
        for step in image.done:
            self._note(step, name)
        if len(self._sizes) > 1:
            return  # refused at the end, with all sizes listed
        self._store(image, name)
        self.kept.append(place)
        self._maximums.add(image.maximum)

    def refuse(self, name: str, why: str) -> None:
        """Remember an image that is bad before it is decoded."""
        self._came += 1
        self.bad.append(f"{name}: {why}")

    def finish(self) -> tuple[np.ndarray, str, int, list[str]]:
        """All images once the last has come.

        Returns:
            pixels (n, H, W, C), the mode, the value of white, and notes.

        Raises:
            DataError: listing every bad image, or the sizes where they differ, or that none is left.
        """
        listed = "\n".join(f"  {line}" for line in self.bad[:_LISTED])
        if len(self.bad) > _LISTED:
            listed += f"\n  … and {len(self.bad) - _LISTED} more"
        if self.bad and (self.on_bad == "raise" or not self.kept):
            raise DataError(f"{self.source}: {len(self.bad)} of {self._came} images are bad:\n{listed}")
        if len(self._sizes) > 1:
            sizes = "\n".join(
                f"  {height}×{width} (height×width): {count} images, such as {first}"
                for (height, width), (count, first) in sorted(self._sizes.items(), key=lambda item: -item[1][0])
            )
            raise DataError(
                f"{self.source}: images of {len(self._sizes)} sizes, expected one; bring them to one size:\n{sizes}"
            )
        if not self.kept:
            raise DataError(f"{self.source}: no images, expected at least one")
        notes = [
            f"{self.source}: {count} images {step}, the first {self._first_done[step]}"
            for step, count in self._done.items()
        ]
        if self.bad:
            notes.append(f"{self.source}: {len(self.bad)} of {self._came} images are bad and left out:\n{listed}")
        pixels = self._pixels[: len(self.kept)]
        maximum = 65535 if self._mode == "I;16" else 255
        (declared, *others) = self._maximums
        if declared is not None and not others and 0 < declared < maximum:
            pixels = np.rint(pixels.astype(np.float32) * (declared / maximum)).astype(pixels.dtype)
            maximum = declared
            notes.append(f"{self.source}: the PNGs say that their values are 0 to {declared}, stretched; brought back")
        return pixels, self._mode, maximum, notes

    def _note(self, step: str, name: str) -> None:
        self._done[step] += 1
        self._first_done.setdefault(step, name)

    def _store(self, image: Decoded, name: str) -> None:
        """Put the image into the array, either brought to the mode of the other."""
        place = len(self.kept)
        if not self._mode:
            self._mode = image.mode
            self._pixels = self._empty(image)
        elif CHANNELS[image.mode] > CHANNELS[self._mode]:
            self._note(f"of mode {image.mode} came after images of mode {self._mode}, all are {image.mode} now", name)
            wider = self._empty(image)
            wider[:place] = _widen(self._pixels[:place], CHANNELS[image.mode])
            self._mode, self._pixels = image.mode, wider
        elif CHANNELS[image.mode] < CHANNELS[self._mode]:
            self._note(f"of mode {image.mode} converted to {self._mode}, the mode of others", name)
        self._pixels[place] = _widen(image.pixels, CHANNELS[self._mode])

    def _empty(self, image: Decoded) -> np.ndarray:
        shape = (self.count, *image.pixels.shape)
        self.limits.check_bytes(int(np.prod(shape, dtype=np.int64)) * image.pixels.itemsize, None, self.source)
        return np.empty(shape, dtype=image.pixels.dtype)


def _widen(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Grey to RGB by repetition, and an opaque alpha where one is needed; (…, C) to (…, channels)."""
    if pixels.shape[-1] == 1 and channels > 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    if pixels.shape[-1] == 3 and channels == 4:
        pixels = np.concatenate((pixels, np.full_like(pixels[..., :1], 255)), axis=-1)
    return pixels
