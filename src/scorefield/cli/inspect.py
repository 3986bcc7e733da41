"""scorefield inspect: what a run or a data set is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    what: Annotated[str, typer.Argument(metavar="RUN|DATA", help="a run, or data as fit takes it")],
    columns: Annotated[str | None, typer.Option(metavar="A,B,C", help="of DATA, use these columns only")] = None,
    condition: Annotated[list[str] | None, typer.Option(metavar="COL", help="of DATA, condition on this")] = None,
    column_type: Annotated[
        list[str] | None,
        typer.Option(metavar="COL=TYPE", help="number, category, date, ordered:A<B<C, or out to leave it out"),
    ] = None,
    schema: Annotated[Path | None, typer.Option(help='a TOML file of such types, lines COL = "TYPE"')] = None,
) -> None:
    """Show schema, noise range, recipe and losses."""
    from scorefield.cli.options import column_types, names
    from scorefield.storage import MANIFEST

    if (Path(what) / MANIFEST).exists():
        from scorefield.inspection import describe_run

        lines = describe_run(Path(what))
    elif (Path(what) / "fit.json").exists():
        from scorefield.unfinished import describe_unfinished

        lines = describe_unfinished(Path(what))
    else:
        from scorefield.inspection import describe_data

        lines = describe_data(what, names(columns), condition or [], column_types(column_type or [], schema))
    for line in lines:
        print(line)
