"""scorefield sample: draw new rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scorefield.bundle import Bundle
    from scorefield.drawing import Progress
    from scorefield.samplers.presets import AnySampler


def sample(
    run: Annotated[Path, typer.Argument(help="folder that fit made")],
    out: Annotated[Path, typer.Option(help="file (.csv .parquet .npy .npz), or a folder for PNGs")],
    rows: Annotated[int | None, typer.Option(min=1, help="how many; 1000 by default")] = None,
    sampler: Annotated[str | None, typer.Option(help="auto, fitted, heun, ddpm, langevin, adaptive …")] = None,
    steps: Annotated[int | None, typer.Option(help="noise levels; of a fitted solver, the most evaluations")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="error in units of the data's deviation: of rows, or of a step of adaptive")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(metavar="COL=VALUE", help="rows of this value; of any column also COL=A|B, COL!=A, COL>1, COL<=2"),
    ] = None,
    particles: Annotated[int | None, typer.Option(min=1, help="with --given: of the filter, for each row")] = None,
    levels: Annotated[int | None, typer.Option(min=2, help="with --given: noise levels of the filter")] = None,
    start: Annotated[str | None, typer.Option(metavar="DATA", help="vary these rows, with --noise")] = None,
    noise: Annotated[float | None, typer.Option(help="with --start: σ/α, in units of the encoded data")] = None,
    trajectory: Annotated[Path | None, typer.Option(metavar="FILE", help="also write every level, .npz")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of all randomness")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Draw rows from the model in RUN, in the form of the data it was trained on."""
    from scorefield.codecs.between import wishes
    from scorefield.errors import OptionError

    if (start is None) != (noise is None):
        raise OptionError("--start and --noise go together: rows to vary, and by how much")
    beside = (rows, given, trajectory, tolerance, particles, levels)
    if start is not None and any(option is not None for option in beside):
        raise OptionError(
            "--start takes its rows and their conditions from DATA: without --rows, --given, --trajectory, "
            "--tolerance, --particles, --levels"
        )

    import time

    from scorefield.api import load
    from scorefield.card import short
    from scorefield.cli.console import Console
    from scorefield.data.write import check_fits, write
    from scorefield.filling import Filling
    from scorefield.trajectory import Trajectory, check_levels, check_trajectory

    bundle = load(run, device)
    values = wishes(given or [], bundle.features.names)
    check_fits(bundle.blank(seed=seed, given=values), out)
    if trajectory is not None:
        check_trajectory(trajectory, out)
    way = None if trajectory is None else Trajectory(bundle.denoiser.schedule)
    evaluations, begun = 0, time.perf_counter()
    with Console() as console:
        tell = console.drawing()

        def on_progress(progress: Progress) -> None:
            nonlocal evaluations
            evaluations = progress.evaluations
            tell(progress)

        if start is not None and noise is not None:
            by = bundle.sampler_to_vary_by(sampler, steps)
            console.say(f"sampler: {by.name}, of its {by.steps} levels those with less noise")
            drawn = bundle.vary(start, noise, seed=seed, sampler=by, on_progress=on_progress)
        else:
            chosen, count = bundle.sampler_for(sampler, steps, tolerance), 1000 if rows is None else rows
            if trajectory is not None:
                check_levels(chosen, bundle.denoiser.schedule, count, bundle.features.codec.shape)
            by_filter = bool(set(values) - set(bundle.features.condition_names))
            if not by_filter and (particles, levels) != (None, None):
                raise OptionError("--particles and --levels are of rows with columns --given that are no conditions")
            usual = Filling()
            console.say(
                "sampler: a particle filter"
                if by_filter
                else _chosen(chosen, tolerance, left_open=_is_auto(bundle, sampler))
            )
            drawn = bundle.sample(
                count,
                seed=seed,
                given=values,
                sampler=sampler,
                steps=steps,
                tolerance=tolerance,
                how=Filling(particles or usual.particles, levels or usual.levels),
                on_progress=on_progress,
                on_step=way,
                on_chunk=None if way is None else way.begin,
            )
    taken = time.perf_counter() - begun
    write(drawn, out)
    if way is not None and trajectory is not None:
        way.write(trajectory)
    each = f"{1000 * taken / len(drawn):.3g} ms and {evaluations / len(drawn):.3g} evaluations a row"
    print(f"{out}: {short(drawn)}; {taken:.1f} s, {each}")


def _is_auto(bundle: Bundle, name: str | None) -> bool:
    """Whether neither the user nor the recipe names a sampler, and none was fitted."""
    return (name or bundle.recipe.sampler.name) == "auto" and bundle.solvers is None


def _chosen(sampler: AnySampler, tolerance: float | None, left_open: bool) -> str:
    """What was picked, the error to expect where it is known, and whether it is what was asked for.

    Args:
        sampler: that was picked.
        tolerance: that was asked for.
        left_open: whether nobody asked for it by its name, and its error is not known.
    """
    from scorefield.samplers.adaptive import AdaptiveFlow, AdaptiveSDE
    from scorefield.samplers.fitted import FittedSolver
    from scorefield.samplers.presets import Sampler

    if isinstance(sampler, FittedSolver):
        return (
            f"sampler: fitted to the model, {sampler.steps} evaluations; rows end {sampler.error:.2g} ± "
            f"{sampler.std_error:.1g} of the data's deviation from the exact paths"
            + ("" if tolerance is None or sampler.error <= tolerance else "; --sampler adaptive goes further")
        )
    if isinstance(sampler, AdaptiveFlow | AdaptiveSDE):
        return f"sampler: {sampler.name}, tolerance {sampler.tolerance:g} of a step"
    unknown = "; no solver was fitted to this model, so how far rows end from the exact paths is not known"
    steps = f", {sampler.steps} levels" if isinstance(sampler, Sampler) else ""
    return f"sampler: {sampler.name}{steps}{unknown if left_open else ''}"
