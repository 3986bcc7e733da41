"""The program: its commands, and exit codes from outcomes: 0 done, 2 wrong input, 75 interrupted, 1 anything else."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from scorefield.cli.demo import demo
from scorefield.cli.fit import fit
from scorefield.cli.impute import impute
from scorefield.cli.inspect import inspect
from scorefield.cli.logprob import logprob
from scorefield.cli.sample import sample
from scorefield.cli.show import show
from scorefield.errors import Interrupted, ScorefieldError


class _Program(TyperGroup):
    """The commands; a signal that no command takes up stops at once, and is an interruption like others."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("stopped at once; the same command goes on from what was saved, if anything") from None


app = typer.Typer(
    name="scorefield",
    cls=_Program,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"scorefield {version('scorefield')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Learn the distribution of your data through its score; draw from it, condition on it."""


for command in (demo, fit, sample, logprob, impute, inspect, show):
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
        sys.exit(error.exit_code)
    except OSError as error:
        # A disk that is full or gone where nobody looked for it: what it says is all there is to say.
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=sys.stderr)
