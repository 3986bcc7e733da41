"""What `inspect` says: of data, its schema, noise range and the recipe that would be chosen; of a run, what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from scorefield.bundle import Bundle
from scorefield.data.checks import remarks
from scorefield.data.read import read
from scorefield.errors import DataError
from scorefield.features import Features, columns_to_read
from scorefield.noise_range import NoiseRange, geometric_ratio, measure_noise_range
from scorefield.recipes import auto
from scorefield.resolve import DataFacts, resolve
from scorefield.samplers.choice import Solvers
from scorefield.training.held_out import HeldOutLoss


def describe_data(
    source: str, columns: Sequence[str] | None, condition: Sequence[str], types: Mapping[str, str] | None = None
) -> list[str]:
    """Lines on a data set: what each part is taken for, what was measured, and what `auto` would choose.

    Where the data cannot be modelled, the lines end with what is wrong.

    Args:
        source: as `fit` takes it.
        columns: columns to use, all by default.
        condition: columns to condition on.
        types: of columns by name, instead of what their values say.
    """
    data = read(source, columns=columns_to_read(columns, condition))
    lines = [data.describe(), *data.notes, *remarks(data)]
    try:
        features = Features.fit(data, condition, 0, types)
        rows = features.measured_rows(data)
        measured = measure_noise_range(rows, resolution=features.codec.resolution, rows=len(data))
    except DataError as error:
        return [*lines, "", f"cannot be modelled: {error}"]
    facts = DataFacts(
        features.codec.shape,
        len(data),
        measured,
        torch.device("cpu"),
        features.codec.steps,
        features.blocks is not None,
    )
    _, choices = resolve(auto(), facts)
    lines += ["", "columns", *_indented(features.codec.describe()), *_indented(features.codec.notes)]
    if features.condition_names:
        lines += ["", f"conditions: {', '.join(features.condition_names)}"]
    return [*lines, "", *_noise(measured), "", "recipe auto would choose", *_indented(choices)]


def describe_run(folder: Path) -> list[str]:
    """Lines on a run: its data, noise range, recipe and losses by band of noise."""
    bundle = Bundle.load(folder)
    facts, recipe = bundle.facts, bundle.recipe
    training, versions = facts["training"], facts["versions"]
    lines = [f"learned from {facts['data']['description']}", f"SHA-256 of the data {facts['data']['fingerprint']}"]
    lines += ["", "columns", *_indented(bundle.features.codec.describe())]
    if bundle.features.condition_names:
        lines += ["", f"conditions: {', '.join(bundle.features.condition_names)}"]
    lines += ["", *_noise(bundle.noise_range), "", f"recipe {recipe.name}"]
    for group, values in recipe.model_dump(mode="json", exclude={"name"}).items():
        shown = ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
        lines.append(f"  {group}: {shown}")
    lines += [
        "",
        f"trained {training['steps']} steps in {training['seconds']:.0f} s, "
        f"{training['milliseconds_a_step']:.3g} ms each, {training['parameters']:,} parameters, "
        f"with scorefield {versions['scorefield']}, torch {versions['torch']}",
    ]
    if training["held_out"] is not None:
        lines += _losses(HeldOutLoss.from_json(training["held_out"]))
    if bundle.denoiser.shrinkage is not None:
        lines.append(f"{bundle.denoiser.shrinkage.describe()}; the losses are of all of it")
    return lines if bundle.solvers is None else [*lines, *_solvers(bundle.solvers)]


def _noise(measured: NoiseRange) -> list[str]:
    bound = f" (no more than {measured.largest_distance_bound:.4g})"
    return [
        "noise range",
        f"  σ_data {measured.sigma_data:.4f}, σ_min {measured.sigma_min:.4g}, σ_max {measured.sigma_max:.4g}, "
        "in units of the encoded data",
        f"  {measured.reason}",
        f"  largest distance of two rows {measured.largest_distance:.4g}{bound}, nearest neighbours "
        f"{measured.nearest_distance:.4g} apart, {measured.rows} rows of {measured.dimension} numbers",
        f"  NCSNv2's rule asks for {measured.levels} levels (ratio {geometric_ratio(measured.dimension):.4g})",
    ]


def _losses(loss: HeldOutLoss) -> list[str]:
    lines = [f"held-out loss {loss.mean:.4f} ± {loss.std_error:.4f}, by noise σ/α"]
    for low, high, band in zip(loss.edges[:-1], loss.edges[1:], loss.bands, strict=True):
        lines.append(f"  {low:9.4g} – {high:9.4g}   {band:.4f}")
    return lines


def _solvers(solvers: Solvers) -> list[str]:
    """The error of each fitted solver."""
    lines = ["", "solvers fitted to the model: how far rows end from the exact paths, in units of the data's deviation"]
    for solver in solvers.fitted:
        lines.append(f"  {solver.steps:3d} evaluations  {solver.error:.2g} ± {solver.std_error:.1g}")
    return lines


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
