"""scorefield sample: draw new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sample(
    run: Annotated[Path, typer.Argument(help="folder that fit made")],
    out: Annotated[Path, typer.Option(help="file (.csv .parquet .npy .npz), or a folder for PNGs")],
    rows: Annotated[int, typer.Option(min=1, help="how many")] = 1000,
    sampler: Annotated[str | None, typer.Option(help="ddpm, ddim, ancestral, euler, heun or langevin")] = None,
    steps: Annotated[int | None, typer.Option(help="noise levels of the sampler")] = None,
    given: Annotated[list[str] | None, typer.Option(metavar="COL=VALUE", help="value of a condition")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of all randomness")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Draw rows from the model in RUN, in the form of the data it was trained on."""
    from scorefield.cli.options import pairs

    values = pairs(given or [], "--given")

    import time

    from scorefield.api import load
    from scorefield.card import short
    from scorefield.cli.console import Console
    from scorefield.data.write import check_fits, write

    bundle = load(run, device)
    check_fits(bundle.blank(seed=seed, given=values), out)
    start = time.perf_counter()
    with Console() as console:
        drawn = bundle.sample(
            rows, seed=seed, given=values, sampler=sampler, steps=steps, on_progress=console.drawing(rows)
        )
    taken = time.perf_counter() - start
    write(drawn, out)
    print(f"{out}: {short(drawn)}; {taken:.1f} s, {1000 * taken / rows:.3g} ms a row")
