"""Pictures of samples beside the data, in the form that suits the kind: grids of images, points, or histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from scorefield.data.clock import PER_SECOND, is_clock, ticks
from scorefield.data.kinds import Array, Data, Images, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

Part = TypeVar("Part")

_DATA, _SAMPLES = "#4c4c4c", "#c8553d"
_MOST_POINTS = 5000
_MOST_COLUMNS = 12


def picture_beside(data: Data, samples: Data, path: str | Path, title: str = "") -> None:
    """Write a PNG with the data on the left and samples on the right, or both in one histogram for each column.

    Args:
        data: some rows of the training data.
        samples: rows drawn from the model, of the same form.
        path: of the PNG.
        title: above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    if isinstance(data, Images) and isinstance(samples, Images):
        _grids(figure, data, samples)
    else:
        columns, drawn = _columns(data), _columns(samples)
        if len(columns) == 2:
            _points(figure, columns, drawn)
        else:
            _histograms(figure, columns, drawn)
    if title:
        figure.suptitle(title)
    figure.savefig(path)


def _grids(figure: Figure, data: Images, samples: Images) -> None:
    side = max(1, min(10, math.isqrt(min(len(data), len(samples)))))
    _, height, width, _ = data.pixels.shape
    figure.set_size_inches(9, 4.9 * min(2.0, max(0.4, height / width)))
    for part, images, name in _halves(figure, data, samples):
        axes = part.subplots()
        axes.imshow(_tiled(images, side), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(name)


def _tiled(images: Images, side: int) -> np.ndarray:
    """side × side images with a margin between them, in [0, 1]."""
    pixels = images.pixels[: side * side].astype(np.float64) / images.maximum
    _, height, width, channels = pixels.shape
    gap = max(1, height // 14)
    canvas = np.ones((side * (height + gap) - gap, side * (width + gap) - gap, channels))
    for number, image in enumerate(pixels):
        top, left = number // side * (height + gap), number % side * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas[..., 0] if channels == 1 else canvas


def _points(figure: Figure, data: dict[str, np.ndarray], samples: dict[str, np.ndarray]) -> None:
    figure.set_size_inches(9, 4.9)
    x, y = data
    limits = []
    for values in data.values():
        low, high = np.quantile(values, (0.0005, 0.9995))
        margin = 0.1 * (high - low) or 1.0
        limits.append((low - margin, high + margin))
    for part, columns, name in _halves(figure, data, samples):
        axes = part.subplots()
        color = _DATA if columns is data else _SAMPLES
        axes.scatter(columns[x][:_MOST_POINTS], columns[y][:_MOST_POINTS], s=1.5, alpha=0.5, linewidths=0, color=color)
        axes.set(xlim=limits[0], ylim=limits[1])
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(name)


def _histograms(figure: Figure, data: dict[str, np.ndarray], samples: dict[str, np.ndarray]) -> None:
    shown = list(data)[:_MOST_COLUMNS]
    wide = min(4, len(shown))
    tall = -(-len(shown) // wide)
    figure.set_size_inches(2.6 * wide + 0.4, 2.1 * tall + 0.9)
    grid = figure.subplots(tall, wide, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        name = shown[place]
        both = np.concatenate((data[name], samples[name]))
        edges = np.linspace(np.quantile(both, 0.001), np.quantile(both, 0.999), 41)
        if edges[0] == edges[-1]:
            edges = edges[0] + np.linspace(-0.5, 0.5, 41)
        axes.hist(data[name], edges, density=True, color=_DATA, alpha=0.35, label="data")
        axes.hist(samples[name], edges, density=True, color=_SAMPLES, histtype="step", linewidth=1.2, label="samples")
        axes.set_title(name, fontsize=9)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", fontsize=8)


def _halves(figure: Figure, data: Part, samples: Part) -> list[tuple[SubFigure, Part, str]]:
    left, right = cast("Sequence[SubFigure]", figure.subfigures(1, 2))
    return [(left, data, "data"), (right, samples, "samples")]


def _columns(data: Data) -> dict[str, np.ndarray]:
    """Numeric columns by name, (n,) each."""
    if isinstance(data, Table):
        table = data.columns
        numeric = [f.name for f in table.schema if str(f.type).startswith(("int", "uint", "float", "double"))]
        found = {name: table[name].to_numpy().astype(np.float64) for name in numeric}
        clocks = [f for f in table.schema if is_clock(f.type)]
        return found | {f"{f.name} (s)": ticks(table[f.name]).to_numpy() / PER_SECOND[f.type.unit] for f in clocks}
    assert isinstance(data, Array)
    flat = data.values.reshape(len(data), -1)
    return {str(place): flat[:, place].astype(np.float64) for place in range(flat.shape[1])}
