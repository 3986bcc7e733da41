"""Pictures: a PNG for every kind of data, each half shows its own rows and nothing of the other's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from scorefield.data import Array, Data, Images, Table
from scorefield.report.pictures import picture_beside


def images(
    level: int, *, mode: str = "L", maximum: int = 255, rows: int = 30, size: tuple[int, int] = (8, 8)
) -> Images:
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}[mode]
    pixels = np.full((rows, *size, channels), level, np.uint8 if maximum < 256 else np.uint16)
    if mode == "RGBA":
        pixels[..., 3] = maximum
    return Images(pixels, mode, maximum=maximum)


def points(center: tuple[float, float], rows: int = 400) -> Array:
    return Array(np.random.default_rng(0).normal(center, 0.3, (rows, 2)))


def columns(shift: float, count: int = 3, rows: int = 300) -> Table:
    values = np.random.default_rng(0).normal(shift, 1, (rows, count))
    named = {f"c{i}": values[:, i] for i in range(count)}
    return Table(pa.table({**named, "text": ["a"] * rows, "n": np.arange(rows) % 7}))


def drawn(folder: Path, data: Data, samples: Data, title: str = "") -> np.ndarray:
    """The picture's pixels, (height, width, 3) in 0 … 255."""
    path = folder / "picture.png"
    picture_beside(data, samples, path, title)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def halves(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    middle = pixels.shape[1] // 2
    return pixels[:, :middle], pixels[:, middle:]


KINDS: dict[str, tuple[Data, Data, Data]] = {
    # data, samples, other samples
    "images": (images(0), images(120), images(200)),
    "colour": (images(30, mode="RGB"), images(100, mode="RGB"), images(220, mode="RGB")),
    "points": (points((0, 0)), points((0.2, 0)), points((-0.3, 0.2))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_half_shows_its_own_rows(tmp_path: Path, kind: str) -> None:
    data, samples, other = KINDS[kind]
    first, second, swapped = (drawn(tmp_path, *pair) for pair in ((data, samples), (data, other), (samples, samples)))
    assert first.shape == second.shape
    left, right = halves(first)
    # Other samples change the right half and not one pixel of the left.
    assert np.array_equal(left, halves(second)[0])
    assert (np.abs(right - halves(second)[1]) > 30).mean() > 0.002
    # Other data changes the left half.
    assert (np.abs(left - halves(swapped)[0]) > 30).mean() > 0.002


@pytest.mark.parametrize(("mode", "maximum"), [("L", 255), ("L", 16), ("RGB", 255), ("RGBA", 255), ("I;16", 65535)])
def test_black_is_black_and_white_is_white_in_every_mode(tmp_path: Path, mode: str, maximum: int) -> None:
    pixels = drawn(tmp_path, images(0, mode=mode, maximum=maximum), images(maximum, mode=mode, maximum=maximum))
    left, right = halves(pixels)
    assert (left.max(2) < 10).mean() > 0.3
    # Nothing but the letters of the title is dark on the right.
    assert (right.min(2) > 245).mean() > 0.97


def test_a_title_is_written_and_the_size_is_plausible(tmp_path: Path) -> None:
    data, samples, _ = KINDS["images"]
    plain, titled = drawn(tmp_path, data, samples), drawn(tmp_path, data, samples, "Pictures of nothing")
    height, width, _ = titled.shape
    assert 300 < height < width < 3000
    # Dark letters in the middle of the top, where there were none.
    top = slice(0, height // 20), slice(width // 3, 2 * width // 3)
    assert (titled[top] < 100).any()
    assert not (plain[top] < 100).any()


@pytest.mark.parametrize("side", [1, -1])
def test_histograms_show_both_where_they_lie(tmp_path: Path, side: int) -> None:
    """Samples far to one side of the data: their outline stands on that side of the data's bars."""
    pixels = drawn(tmp_path, columns(0, 2), columns(12 * side, 2))
    red = (pixels[..., 0] - pixels[..., 2]) > 60  # the outline; the bars are grey
    grey = (np.abs(pixels - 190).max(2) < 35) & (np.ptp(pixels, axis=2) < 10)
    panel = slice(0, int(0.75 * pixels.shape[0])), slice(0, pixels.shape[1] // 3)  # c0, above the legend
    place = [np.nonzero(color[panel])[1].mean() for color in (grey, red)]
    assert side * (place[1] - place[0]) > 0.1 * pixels.shape[1]


@pytest.mark.parametrize(
    ("data", "samples"),
    [
        (columns(0, 1), columns(1, 1)),
        (columns(0, 30), columns(1, 30)),
        (Array(np.arange(10.0)), Array(np.arange(20.0))),
        (Array(np.zeros((10, 3))), Array(np.zeros((10, 3)))),
        (Array(np.ones((9, 2, 3, 4))), Array(np.random.default_rng(0).normal(size=(9, 2, 3, 4)))),
        (points((0, 0), 1), points((0, 0), 3)),
        (Array(np.array([[0.0, 1.0], [0.0, 2.0]])), points((0, 0), 3)),
        (Table(pa.table({"a": [1, 2, 3]})), Table(pa.table({"a": [1, 1, 1]}))),
        (images(0, rows=1), images(9, rows=3)),
        (images(0, rows=3, size=(64, 64)), images(9, rows=150, size=(64, 64))),
        (images(0, size=(4, 80)), images(9, size=(4, 80))),
        (images(0, size=(80, 4)), images(9, size=(80, 4))),
    ],
)
@pytest.mark.filterwarnings("error")
def test_few_or_constant_or_many_still_make_a_picture(tmp_path: Path, data: Data, samples: Data) -> None:
    pixels = drawn(tmp_path, data, samples)
    assert min(pixels.shape[:2]) > 250
    assert max(pixels.shape[:2]) < 4000
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 2


def test_the_same_rows_make_the_same_bytes_and_no_display_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    data, samples, _ = KINDS["points"]
    picture_beside(data, samples, tmp_path / "a.png")
    picture_beside(data, samples, str(tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
