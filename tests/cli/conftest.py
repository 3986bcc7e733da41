"""The program in this process, for the tests of its commands."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from scorefield.cli.app import main
from scorefield.model import NetworkDenoiser

Program = Callable[..., int]
Run = Callable[..., tuple[int, str, str]]
Refused = Callable[[Path, str, str], None]


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


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks a network fails the test."""

    def asked(*arguments: object) -> None:
        raise AssertionError("the network was called")

    monkeypatch.setattr(NetworkDenoiser, "_input_scales", asked)


@pytest.fixture
def refused(run: Run, unasked: None, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Promise 28: refused before the network is asked, with one message, and the folder is left as it was."""

    def check(place: Path, command: str, part: str) -> None:
        monkeypatch.chdir(place)
        before = tree(place)
        code, out, err = run(*command.split())
        assert (code, out) == (2, ""), err
        last = err.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert err.count("error:") == 1
        assert part in last, last
        assert "Traceback" not in err
        assert tree(place) == before

    return check
