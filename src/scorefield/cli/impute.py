"""scorefield impute: fill the missing cells of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def impute(
    run: Annotated[Path, typer.Argument(help="folder that fit made of a table")],
    data: Annotated[str, typer.Argument(help="a table of the same columns, with cells missing: CSV or Parquet")],
    out: Annotated[Path, typer.Option(help="file (.csv .parquet .npz) for the filled table")],
    draws: Annotated[int, typer.Option(min=1, help="rows made of each row, with a column draw if more than one")] = 1,
    particles: Annotated[
        int | None, typer.Option(min=1, help="of the filter, for each row; more are more exact")
    ] = None,
    levels: Annotated[int | None, typer.Option(min=2, help="noise levels of the filter; more are more exact")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of all randomness")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Draw each missing cell of DATA from what the model in RUN knows of it given the seen cells of its row."""
    import time

    from scorefield.api import load
    from scorefield.cli.console import Console
    from scorefield.codecs.table import TableCodec
    from scorefield.data.kinds import Table
    from scorefield.data.read import read
    from scorefield.data.write import check_fits, check_target, write
    from scorefield.errors import OptionError
    from scorefield.filling import Filling

    check_target(out, "table")
    if Path(data).exists() and out.exists() and out.samefile(data):
        raise OptionError(f"--out {out}: it would take the place of the rows that are read, choose another file")
    usual = Filling()
    how = Filling(particles or usual.particles, levels or usual.levels, seed)
    bundle = load(run, device)
    rows = read(data)
    if not isinstance(rows, Table):
        raise OptionError(f"{data}: {rows.kind}, expected a table with missing cells")
    if isinstance(bundle.features.codec, TableCodec):
        check_fits(bundle.blank(seed=seed), out)
    missing = sum(column.null_count for column in rows.columns.columns)
    begun = time.perf_counter()
    with Console() as console:
        filled = bundle.impute(rows, draws, seed=seed, how=how, on_progress=console.drawing("filled"))
    taken = time.perf_counter() - begun
    write(filled, out)
    left = sum(column.null_count for column in filled.columns.columns) // draws
    kinds = "conditions and of " if bundle.features.conditions else ""
    still = f", {left} cells of {kinds}columns that are not modelled stay missing" if left else ""
    print(
        f"{out}: {len(filled)} rows, {missing - left} missing cells drawn {draws} times each{still}; {taken:.1f} s, "
        f"{1000 * taken / len(filled):.3g} ms a row"
    )
