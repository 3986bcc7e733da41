"""What a bundle tells a reader: one line on wide data, and Markdown that no name can break."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scorefield import api
from scorefield.card import short
from scorefield.data import Array, Table
from scorefield.overrides import override
from scorefield.recipes import edm

TINY = ["network.width=8", "training.steps=2", "training.batch=8", "training.precision=float32"]


def wide(columns: int) -> Table:
    return Table(pa.table({f"c{i}": np.random.default_rng(i).normal(size=20) for i in range(columns)}))


@pytest.mark.parametrize("columns", [1, 19, 20])
def test_equivalence_what_is_narrow_is_described_whole(columns: int) -> None:
    assert short(wide(columns)) == wide(columns).describe()
    array = Array(np.zeros((3, 500)))
    assert short(array) == array.describe()


@pytest.mark.parametrize("columns", [21, 500])
def test_of_many_columns_the_first_are_named_and_the_rest_counted(columns: int) -> None:
    text = short(wide(columns))
    assert text.startswith(f"table of 20 rows, {columns} columns: c0 (double)")
    assert text.endswith(f"c19 (double), … and {columns - 20} more")


def test_a_name_with_line_breaks_stays_on_one_line() -> None:
    text = short(Table(pa.table({"a\nb\r\x1b[31m\u2028": [1.0, 2.0]})))
    assert text.isprintable()
    assert len(text.splitlines()) == 1


def test_no_name_breaks_the_card_and_wide_data_is_cut_everywhere(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = ["a|b", "two\nlines", "<b>", "[x](http://y)", "`c`", *(f"column{i}" for i in range(60))]
    data = pa.table({name: random.normal(size=20) for name in names} | {"k|\n## k": ["u", "v"] * 10})
    api.fit(data, override(edm(), TINY), out=tmp_path / "run", condition=["k|\n## k"], device="cpu")
    card = (tmp_path / "run" / "README.md").read_text()
    lines = card.splitlines()
    # An unescaped | would open a further cell: every line of the table has three.
    table = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {3}
    assert [line for line in lines if line.startswith("#")] == ["# A scorefield model"]
    assert any("k\\|" in line for line in table if line.startswith("| conditions"))
    for escaped in ("a\\|b", "two lines", "\\<b\\>", "\\[x\\](http://y)", "\\`c\\`", "… and 46 more"):
        assert escaped in card
    for description in (
        json.loads((tmp_path / "run" / "fit.json").read_text())["data"]["description"],
        json.loads((tmp_path / "run" / "bundle.json").read_text())["data"]["description"],
    ):
        assert "column14" in description
        assert "column15" not in description
        assert description.endswith("… and 46 more")
