"""Tables, findings and pictures of objectives_quality.py and objectives_cost.py, from their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

SHOWN = 6  # noise levels in the tables
GROUPS = {
    "discrete levels": ("ncsn", "ddpm_simple", "ddpm_hybrid", "ddpm_vlb", "ddpm_vlb_importance"),
    "variance preserving": (
        "vp_simple",
        "v_prediction",
        "continuous_bound",
        "maximum_likelihood",
        "maximum_likelihood_importance",
    ),
    "EDM and flows": ("log_uniform", "edm", "flow_matching", "flow_matching_logit_normal", "energy, edm"),
    "without a target": (
        "implicit",
        "sliced",
        "sliced_reduced_variance",
        "finite_difference",
        "energy, contrastive divergence",
    ),
}
COLORS = ("#c8553d", "#2f6690", "#5b8c5a", "#9a6fb0", "#c79a2b")
INK, GREY, PALE = "#222222", "#7a7a7a", "#dddddd"


def percent(value: float) -> str:
    """A share in as many digits as it deserves."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:.2g} %" if value < 0.0995 else f"{100 * value:.0f} %"


# -- findings ---------------------------------------------------------------------------------------------------------


def verdicts(results: dict[str, Any]) -> list[str]:
    """The three findings, each with its numbers."""
    lines = ["", "findings"]
    for dimension, part in results["one_sigma"].items():
        each = part["denoising"]
        best = min(each, key=lambda entry: entry["against_data"])
        first, last = each[0], each[-1]
        small = [entry for entry in each if entry["sigma"] <= 12 * first["sigma"]]
        slope = math.log(small[-1]["gradient_deviation"] / first["gradient_deviation"]) / math.log(
            small[-1]["sigma"] / first["sigma"]
        )
        is_u = best["against_data"] < min(first["against_data"], last["against_data"]) / 1.25
        lines.append(
            f"1 one σ, D = {dimension}: error of the data's score {percent(first['against_data'])} at σ = "
            f"{first['sigma']:.2g}, {percent(best['against_data'])} at {best['sigma']:.2g}, "
            f"{percent(last['against_data'])} at {last['sigma']:.2g}: {'a U' if is_u else 'NO U'}; "
            f"bias alone {percent(first['bias'])}, {percent(best['bias'])}, {percent(last['bias'])}; "
            f"deviation of the gradient ∝ σ^{slope:.2f} as σ → 0"
        )
    if results["rare"]:
        rare = results["rare"]
        plain = rare["curves"]["without noise, sliced"]
        near, far = plain[-1], plain[-8]
        wide = [values[-8] for name, values in rare["curves"].items() if name.startswith("many")][-1]
        shares = "; ".join(
            f"{name} {entry['share']:.3f} ± {entry['std_error']:.3f}" for name, entry in rare["shares"].items()
        )
        lines.append(
            f"2 rare data: without noise the error is {percent(near)} where the density is highest and {percent(far)} "
            f"where it is 10⁻⁷ to 10⁻⁸ of that; a model of many levels has {percent(wide)} at those points at its "
            f"largest level shown"
        )
        lines.append(
            f"2 share of draws in the mode of weight 0.8: {shares}; equal weights would change the score at the data "
            f"by {max(rare['wrong_weights'], 1e-15):.0e} of itself at most"
        )
    for dimension, part in results["levels"].items():
        entries = part["objectives"]
        pair = [entries.get(name) for name in ("sliced_reduced_variance", "implicit", "implicit, steps of sliced")]
        sliced, implicit, same = pair
        if sliced and implicit:
            equal = (
                f", {percent(same['error'])} in as many steps ({same['ms'] / sliced['ms']:.1f} × the time)"
                if same
                else ""
            )
            lines.append(
                f"3 D = {dimension}: in the same time sliced (reduced variance) {percent(sliced['error'])}, implicit "
                f"{percent(implicit['error'])}{equal}; a step {sliced['ms']:.1f} against {implicit['ms']:.1f} ms"
            )
    return lines


# -- tables -----------------------------------------------------------------------------------------------------------


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def markdown(results: dict[str, Any]) -> str:
    """All tables of objectives_quality.py."""
    lines = []
    for dimension, part in results["levels"].items():
        places = [round(n * (len(part["sigmas"]) - 1) / (SHOWN - 1)) for n in range(SHOWN)]
        head = [f"D = {dimension}", "in all", *(f"σ = {part['sigmas'][n]:.2g}" for n in places), "steps", "rate"]
        lines += table(
            head,
            (
                [
                    f"`{name}`" if "," not in name else name,
                    f"**{percent(entry['error'])}**",
                    *(percent(entry["levels"][n]) if entry["levels"] else "–" for n in places),
                    f"{entry['steps']}",
                    f"{entry['rate']:g}",
                ]
                for name, entry in part["objectives"].items()
            ),
        )
    for dimension, part in results["one_sigma"].items():
        lines += table(
            [f"without noise, D = {dimension}", "error", "steps"],
            ([f"`{n}`", percent(e["error"]), f"{e['steps']}"] for n, e in part["noiseless"].items()),
        )
        lines += table(
            [f"`denoising`, D = {dimension}: σ", "error of the data's score", "of its own level's", "bias", "gradient"],
            (
                [
                    f"{e['sigma']:.3f}",
                    percent(e["against_data"]),
                    percent(e["against_noised"]),
                    percent(e["bias"]),
                    f"{e['gradient_deviation']:.2g}" if e["sigma"] <= 21 * part["denoising"][0]["sigma"] else "",
                ]
                for e in part["denoising"]
            ),
        )
    if results["rare"]:
        rare = results["rare"]
        edges = rare["edges"]
        places = [-1, -3, -5, -7, -9, -11, -13]
        lines += table(
            ["error at points of density …", *(f"10^{edges[n]:.0f}" for n in places)],
            ([name, *(percent(values[n]) for n in places)] for name, values in rare["curves"].items()),
        )
        lines += table(
            ["draws", "share in the mode of weight 0.8"],
            ([name, f"{e['share']:.3f} ± {e['std_error']:.3f}"] for name, e in rare["shares"].items()),
        )
    return "\n".join(lines)


# -- pictures ---------------------------------------------------------------------------------------------------------


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes, title: str = "") -> None:
    """Two spines, a light grid, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color=GREY, labelcolor=INK)
    axes.set_title(title, fontsize=10, color=INK, loc="left")


def percent_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis of errors in per cent."""
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.yaxis.set_minor_locator(NullLocator())


def label_ends(axes: Axes, ends: list[tuple[str, float, str]], x: float, gap: float = 0.075) -> None:
    """Names beside the right ends of curves, moved apart where they would overlap; y on a logarithmic axis."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    order = sorted(ends, key=lambda end: end[1])
    places = [(min(max(math.log(value), low), high) - low) / (high - low) for _, value, _ in order]
    for _ in range(200):
        for n in range(len(places) - 1):
            if places[n + 1] - places[n] < gap:
                middle = (places[n] + places[n + 1]) / 2
                places[n], places[n + 1] = middle - gap / 2, middle + gap / 2
    for (name, value, color), place in zip(order, places, strict=True):
        axes.annotate(
            name,
            (x, min(max(value, math.exp(low)), math.exp(high))),
            xytext=(1.05, place),
            textcoords="axes fraction",
            fontsize=8,
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 1},
        )


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write the pictures of objectives_quality.py into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_overview(results["levels"], folder / "objectives-overview.png")
    draw_levels(results["levels"], folder / "objectives-levels.png")
    draw_one_sigma(results["one_sigma"], folder / "objectives-one-sigma.png")
    if results["rare"]:
        draw_rare(results["rare"], folder / "objectives-rare.png")


def draw_overview(levels: dict[str, Any], path: Path) -> None:
    """The error in all of every objective, a column for each dimension, sorted by their mean logarithm."""
    names = [name for names in GROUPS.values() for name in names] + ["explicit"]
    entries = {
        name: [part["objectives"].get(name, {}).get("error", math.inf) for part in levels.values()] for name in names
    }
    order = sorted(names, key=lambda name: -sum(math.log(min(value, 10)) for value in entries[name]))
    figure = new_figure(12.5, 5.6)
    row = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    family = {name: color for (_, names), color in zip(GROUPS.items(), COLORS, strict=False) for name in names}
    for column, (axes, dimension) in enumerate(zip(row, levels, strict=True)):
        plain_axes(axes, f"D = {dimension}")
        axes.set_xscale("log")
        for place, name in enumerate(order):
            value, color = entries[name][column], family.get(name, INK)
            if math.isfinite(value):
                axes.plot([value], [place], "o", color=color, markersize=6)
                axes.annotate(
                    percent(value), (value, place), xytext=(7, 0), textcoords="offset points", fontsize=7.5, va="center"
                )
        axes.xaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * 1.35)
        axes.set_xlabel("relative error over all levels", fontsize=8)
    row[0].set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
    for label, name in zip(row[0].get_yticklabels(), order, strict=True):
        label.set_color(family.get(name, INK))
    handles = [
        row[-1].plot([], [], "o", color=color, label=name)[0] for name, color in zip(GROUPS, COLORS, strict=False)
    ]
    row[-1].legend(handles=handles, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path)


def draw_levels(levels: dict[str, Any], path: Path) -> None:
    """Error at each noise level: a row for each family, a column for each dimension."""
    figure = new_figure(12.5, 13)
    grid = figure.subplots(len(GROUPS), len(levels), squeeze=False, sharey=True)
    for row, (family, names) in zip(grid, GROUPS.items(), strict=True):
        for axes, (dimension, part) in zip(row, levels.items(), strict=True):
            plain_axes(axes, f"{family}, D = {dimension}")
            sigmas, entries = part["sigmas"], part["objectives"]
            axes.set_xscale("log")
            percent_axis(axes, 0.0008, 12)
            for name, entry in entries.items():
                if name not in names and name != "explicit" and entry["levels"] and "steps of" not in name:
                    axes.plot(sigmas, entry["levels"], color=PALE, linewidth=0.9, zorder=1)
            ends = []
            shown = [(name, COLORS[n], "-") for n, name in enumerate(names)]
            for name, color, style in [*shown, ("explicit", INK, (0, (4, 2)))]:
                if entries.get(name, {}).get("levels"):
                    axes.plot(sigmas, entries[name]["levels"], style if style == "-" else "", color=color, zorder=3)
                    axes.lines[-1].set_linestyle(style)
                    axes.lines[-1].set_linewidth(1.6)
                    ends.append((name.replace("_", " "), entries[name]["levels"][-1], color))
            if axes is row[-1]:
                label_ends(axes, ends, sigmas[-1])
        row[0].set_ylabel("relative error of the score", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("noise σ", fontsize=8)
    figure.savefig(path)


def draw_one_sigma(parts: dict[str, Any], path: Path) -> None:
    """The U-shaped curve: denoising at one σ against the data's score, its bias, and its own level's score."""
    figure = new_figure(12.5, 4.4)
    row = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
    for axes, (dimension, part) in zip(row, parts.items(), strict=True):
        plain_axes(axes, f"denoising at one σ, D = {dimension}")
        axes.set_xscale("log")
        percent_axis(axes, 0.008, 2)
        each = part["denoising"]
        sigmas = [entry["sigma"] for entry in each]
        ends = []
        for key, name, color, style in (
            ("against_data", "against the data's score", COLORS[0], "-"),
            ("against_noised", "against the score at its σ", COLORS[1], "-"),
            ("bias", "bias: what no training mends", COLORS[0], ":"),
        ):
            values = [entry[key] for entry in each]
            axes.plot(sigmas, values, color=color, linestyle=style, marker="o" if style == "-" else "", markersize=3.5)
            if key != "bias":
                ends.append((name, values[-1], color))
        if axes is row[-1]:
            axes.annotate(
                "bias alone,\nin closed form",
                (sigmas[2], each[2]["bias"]),
                xytext=(10, -22),
                textcoords="offset points",
                fontsize=8,
                color=COLORS[0],
            )
        for name in ("sliced_reduced_variance", "explicit"):
            error = part["noiseless"][name]["error"]
            axes.axhline(error, color=GREY, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
            ends.append((f"without noise, {name.replace('_', ' ')}", error, GREY))
        if axes is row[-1]:
            label_ends(axes, ends, sigmas[-1], gap=0.06)
        axes.set_xlabel("σ of training", fontsize=8)
    row[0].set_ylabel("relative error of the score", fontsize=8)
    figure.savefig(path)


def draw_rare(rare: dict[str, Any], path: Path) -> None:
    """Error against density, and draws with and without noise levels."""
    figure = new_figure(12.5, 4.2)
    left, *others = figure.subplots(1, 4, width_ratios=[1.9, 1, 1, 1])
    edges = rare["edges"]
    middles = [10 ** ((a + b) / 2) for a, b in pairwise(edges)]
    plain_axes(left, "error of the score, by density of the data")
    left.set_xscale("log")
    left.set_xlim(1.5, 1e-14)
    percent_axis(left, 0.006, 12)
    left.xaxis.set_minor_formatter(NullFormatter())
    ends = []
    for n, (name, values) in enumerate(rare["curves"].items()):
        color = COLORS[0] if n == 0 else ("#9cc0dc", "#6a9cc4", "#2f6690", "#143d5c")[n - 1]
        left.plot(middles, values, color=color, linewidth=2 if n == 0 else 1.5)
        ends.append((name.replace(", at", "\nat") if n else "without noise,\nsliced", values[0], color))
    label_ends(left, ends, middles[0], gap=0.13)
    left.set_xlabel("density relative to its peak: rarer to the right", fontsize=8)
    for axes, (name, points) in zip(others, rare["draws"].items(), strict=True):
        entry = rare["shares"][name]
        plain_axes(axes, f"{name}\n{100 * entry['share']:.0f} % in the upper mode")
        axes.scatter(*zip(*points, strict=True), s=1.5, alpha=0.5, linewidths=0, color=COLORS[1])
        axes.set(xlim=(-10, 10), ylim=(-10, 10), aspect="equal", xticks=[-5, 5], yticks=[-5, 5])
    others[0].set_xlabel("truth: 80 %", fontsize=8)
    figure.savefig(path)


def draw_cost(relative: dict[str, dict[int, float]], path: Path) -> None:
    """× denoising against the dimension, a curve for each objective."""
    figure = new_figure(8.5, 4.6)
    axes = figure.subplots()
    plain_axes(axes, "cost of a step, × denoising in the same dimension")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ends = []
    for n, (name, values) in enumerate(relative.items()):
        color = COLORS[n % len(COLORS)]
        axes.plot(list(values), list(values.values()), color=color, marker="o", markersize=3.5, linewidth=1.6)
        ends.append((name, list(values.values())[-1], color, max(values)))
    sizes = sorted({size for values in relative.values() for size in values})
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.1)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.yaxis.set_major_locator(FixedLocator([1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("dimension", fontsize=8)
    inside = [(name, value, color) for name, value, color, size in ends if size == sizes[-1]]
    label_ends(axes, inside, sizes[-1], gap=0.06)
    for name, value, color, size in ends:
        if size != sizes[-1]:
            axes.annotate(
                name, (size, value), xytext=(6, 0), textcoords="offset points", fontsize=8, color=color, va="center"
            )
    figure.savefig(path)
