"""metrics.jsonl: a line a write, torn lines tolerated, later lines cut on resume, a disk that refuses told once."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest

from scorefield.training.journal import Journal, read_journal


def lines(path: Path) -> list[int]:
    return [line["step"] for line in read_journal(path)]


def test_law_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    written = [{"step": step, "loss": 1 / step, "held_out": {"bands": [0.1, 0.2]}} for step in range(1, 5)]
    for line in written:
        journal.write(line)
    assert read_journal(path) == written
    assert path.read_text().count("\n") == 4


def test_non_finite_numbers_are_null_so_that_any_reader_of_json_can_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    Journal(path).write({"step": 1, "loss": math.nan, "gradient_norm": math.inf, "rate": 0.5})
    assert "NaN" not in path.read_text()
    assert json.loads(path.read_text()) == {"step": 1, "loss": None, "gradient_norm": None, "rate": 0.5}


@pytest.mark.parametrize("torn", ['{"step": 4, "lo', '{"step": 4', "{", '{"step": 4, "loss": 0.1'])
def test_a_torn_last_line_is_left_out_and_gone_after_resuming(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    for step in (1, 2, 3):
        journal.write({"step": step})
    with open(path, "a") as file:
        file.write(torn)
    assert lines(path) == [1, 2, 3]
    later = Journal(path, after=3)
    later.write({"step": 4})
    assert lines(path) == [1, 2, 3, 4]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


@pytest.mark.parametrize("after", [0, 2, 3, 99])
def test_lines_of_steps_that_will_be_done_again_are_cut(tmp_path: Path, after: int) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    for step in (1, 2, 3, 4):
        journal.write({"step": step})
    Journal(path, after=after)
    assert lines(path) == [step for step in (1, 2, 3, 4) if step <= after]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_cutting_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    for step in (1, 2, 3):
        journal.write({"step": step})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="No space left"):  # noqa: PT031
        patch.setattr("os.fsync", full)
        Journal(path, after=1)
    assert lines(path) == [1, 2, 3]


@pytest.mark.parametrize("obstacle", ["folder", "gone"])
def test_an_unwritable_path_is_told_once_and_training_goes_on(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    if obstacle == "folder":
        path.mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"metrics\.jsonl cannot be written, going on without it") as told:  # noqa: PT031
        journal = Journal(path, after=5)
        journal.write({"step": 6})
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        journal.write({"step": 7})


def test_no_path_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Journal(None).write({"step": 1})
    assert list(tmp_path.iterdir()) == []
