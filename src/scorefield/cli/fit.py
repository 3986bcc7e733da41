"""scorefield fit: learn the distribution of data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def fit(
    data: Annotated[str, typer.Argument(help="CSV, Parquet, NPY, NPZ, a folder of images, toy:NAME or sklearn:NAME")],
    out: Annotated[Path | None, typer.Option(help="folder of the run; an unfinished run there is resumed")] = None,
    recipe: Annotated[str, typer.Option(help="a name that `scorefield show` lists, or a .toml file")] = "auto",
    condition: Annotated[list[str] | None, typer.Option(metavar="COL", help="condition on this column")] = None,
    columns: Annotated[str | None, typer.Option(metavar="A,B,C", help="use these columns only")] = None,
    column_type: Annotated[
        list[str] | None,
        typer.Option(metavar="COL=TYPE", help="number, category, date, ordered:A<B<C, or out to leave it out"),
    ] = None,
    schema: Annotated[Path | None, typer.Option(help='a TOML file of such types, lines COL = "TYPE"')] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="optimisation steps")] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="training time, as 90s, 5min or 2h")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="set a field")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of all randomness")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    on_bad: Annotated[str, typer.Option(help="raise or skip images that cannot be read")] = "raise",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, print the recipe, stop")] = False,
) -> None:
    """Learn the distribution of DATA; the result is a folder."""
    from scorefield.cli.options import column_types, names, seconds
    from scorefield.errors import OptionError
    from scorefield.overrides import as_toml, override, recipe_of

    if out is None and not dry_run:
        raise OptionError("--out is missing: a folder for the run; or --dry-run to see what would be done")
    if on_bad not in ("raise", "skip"):
        raise OptionError(f"--on-bad {on_bad}: expected raise or skip")
    types = column_types(column_type or [], schema)
    settings = list(set_ or [])
    settings += [f"training.steps={steps}"] if steps is not None else []
    settings += [f"training.budget={seconds(budget)}"] if budget is not None else []
    chosen = override(recipe_of(recipe), settings)

    from scorefield.api import fit as fit_data
    from scorefield.api import plan
    from scorefield.cli.console import Console, clock

    skipping: Literal["raise", "skip"] = "skip" if on_bad == "skip" else "raise"
    if dry_run:
        complete, said = plan(
            data,
            chosen,
            condition=condition or [],
            columns=names(columns),
            column_types=types,
            seed=seed,
            device=device,
            on_bad=skipping,
        )
        print("".join(f"# {line}\n" for line in said) + as_toml(complete), end="")
        return
    with Console() as console:
        bundle = fit_data(
            data,
            chosen,
            out=out,
            condition=condition or [],
            columns=names(columns),
            column_types=types,
            seed=seed,
            device=device,
            on_bad=skipping,
            report=console,
        )
    training = bundle.facts["training"]
    held_out = training["held_out_loss"]
    print(
        f"{out}: {training['parameters']:,} parameters, {training['steps']} steps in {clock(training['seconds'])} "
        f"({training['milliseconds_a_step']:.3g} ms each)"
        + ("" if held_out is None else f", held-out loss {held_out:.4f}")
    )
