"""The program: its commands, and exit codes from outcomes: 0 done, 2 wrong input, 75 interrupted, 1 anything else."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TextIO

import typer

from scorefield.cli.demo import demo
from scorefield.cli.fit import fit
from scorefield.cli.inspect import inspect
from scorefield.cli.sample import sample
from scorefield.errors import Interrupted, ScorefieldError

app = typer.Typer(
    name="scorefield",
    help="Learn the distribution of your data through its score; draw from it, condition on it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (demo, fit, sample, inspect):
    app.command()(command)


def main() -> None:
    """Run the program and exit."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that wait for one another spin at first. Where another program holds a core, spinning long makes a
        # step twenty times slower; a short spin costs nothing where the cores are free.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    warnings.showwarning = _show_warning
    try:
        app()
    except ScorefieldError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(75 if isinstance(error, Interrupted) else 2)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=sys.stderr)
