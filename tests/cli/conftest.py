"""The program in this process, for the tests of its commands."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import pytest

from scorefield.cli.app import main

Program = Callable[..., int]
Run = Callable[..., tuple[int, str, str]]


def program_here(*arguments: object) -> int:
    """The program in this process, which leaves it as it was; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:  # noqa: PT012
        patch.setattr(sys, "argv", ["scorefield", *map(str, arguments)])
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        patch.setenv("GOMP_SPINCOUNT", "10000")
        main()
    return int(left.value.code or 0)


@pytest.fixture(scope="session")
def program() -> Program:
    """Called with arguments, it gives the exit code."""
    return program_here


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Called with arguments, it gives exit code, output and errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        left = program_here(*arguments)
        out, err = capsys.readouterr()
        return left, out, err

    return call
