"""What `inspect` says: of data, its schema, noise range and the recipe that would be chosen; of a run, what it is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from scorefield.bundle import Bundle
from scorefield.codecs.table import choice, fit_columns
from scorefield.data.checks import remarks
from scorefield.data.kinds import Table
from scorefield.data.read import read
from scorefield.errors import DataError
from scorefield.features import Features, columns_to_read, not_modelled
from scorefield.noise_range import NoiseRange, geometric_ratio, measure_noise_range
from scorefield.recipes import auto
from scorefield.resolve import DataFacts, resolve
from scorefield.samplers.choice import Solvers
from scorefield.training.held_out import HeldOutLoss


def describe_data(source: str, columns: Sequence[str] | None, condition: Sequence[str]) -> list[str]:
    """Lines on a data set: what each part is taken for, what was measured, and what `auto` would choose.

    Where this version cannot model the data, the lines end with what is wrong and with what can be modelled instead.

    Args:
        source: as `fit` takes it.
        columns: columns to use, all by default.
        condition: columns to condition on.
    """
    data = read(source, columns=columns_to_read(columns, condition))
    lines = [data.describe(), *data.notes, *remarks(data)]
    reasons = not_modelled(data, condition)
    if reasons and isinstance(data, Table):
        return [*lines, "", *_columns(data, condition, reasons)]
    try:
        features = Features.fit(data, condition, seed=0)
        rows = features.measured_rows(data)
        measured = measure_noise_range(rows, resolution=features.codec.resolution, rows=len(data))
    except DataError as error:
        return [*lines, "", f"cannot be modelled: {error}"]
    facts = DataFacts(features.codec.shape, len(data), measured, torch.device("cpu"), features.codec.steps)
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
    return lines if bundle.solvers is None else [*lines, *_solvers(bundle.solvers)]


def _columns(data: Table, condition: Sequence[str], reasons: dict[str, str]) -> list[str]:
    """A line for each column of a table that cannot be modelled as a whole, and the options that leave it out."""
    usable = [name for name in data.columns.column_names if name not in reasons and name not in condition]
    columns, _ = fit_columns(replace(data, columns=data.columns.select(usable)))
    taken = {column.name: column.describe() for column in columns} | {name: f"{name}: condition" for name in condition}
    lines = [taken.get(name) or f"{name}: {reasons[name]}" for name in data.columns.column_names]
    verb = "is one column" if len(reasons) == 1 else f"are {len(reasons)} columns"
    lines = ["columns", *_indented(lines), "", f"there {verb} that this version cannot model: {', '.join(reasons)}"]
    if not usable:
        return [*lines, "no other column is left to model"]
    options = "".join(f" --condition {shlex.quote(name)}" for name in condition)
    return [
        *lines,
        "leave out what cannot be modelled, or make names and truth values conditions with --condition:",
        f"  {choice(usable)}{options}",
    ]


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
