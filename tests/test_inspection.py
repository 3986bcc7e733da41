"""What `inspect` says of data, also of data that cannot be modelled: every column, what it is taken for, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scorefield.errors import DataError, OptionError
from scorefield.inspection import describe_data

MIXED = """size,name,day,ok,gap,kind,weight,unit
1.5,Ann,2020-01-01,true,1,u,3,7
2.25,Bob,2020-01-02,false,,v,4,7
3.75,Ann,2020-01-03,true,2,u,9,7
"""


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    path = tmp_path / "mixed.csv"
    path.write_text(MIXED)
    return str(path)


def test_every_column_is_described_by_what_it_is_taken_for_and_why(mixed: str) -> None:
    lines = describe_data(mixed, None, [])
    assert lines[0].startswith("table of 3 rows, 8 columns")
    words = {
        "size": ("1.5 to 3.75", "[numbers]"),
        "name": ("2 names (Ann, Bob)", "[text]"),
        "day": ("dates by day", "[dates]"),
        "ok": ("2 names (False, True)", "[truth values]"),
        "gap": ("1 to 2", "33.3% missing", "[numbers]"),
        "unit": ("constant 7, put back",),
    }
    for name, parts in words.items():
        (line,) = (line for line in lines if line.startswith(f"  {name}: "))
        assert all(part in line for part in parts), line
    assert any("recipe auto would choose" in line for line in lines)


def test_columns_left_out_are_named_with_the_option_that_would_model_them(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("row,name,age\n" + "".join(f"{i},person {i},{20 + i * 7 % 41}\n" for i in range(60)))
    text = "\n".join(describe_data(str(path), None, []))
    assert "column 'row' is left out, every whole number from 0 to 59 once: row numbers" in text
    assert "column 'name' is left out, every value is different: an identifier or free text" in text
    assert "--column-type name=category would model it" in text
    asked = "\n".join(describe_data(str(path), None, [], {"name": "category", "row": "out", "age": "number"}))
    assert "name: 60 names (person 0, person 1, " in asked
    assert "column 'row' is left out, as asked\n" in asked + "\n"
    assert "[as asked]" in asked


def test_a_table_without_anything_to_model_says_why(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("word,unit\n" + "".join(f"word {i},3\n" for i in range(30)))
    last = describe_data(str(path), None, [])[-1]
    assert last.startswith("cannot be modelled: ")
    assert "no column varies" in last
    assert "word: left out, every value is different" in last
    assert "unit: constant 3" in last


def test_other_data_that_cannot_be_modelled_is_described_with_the_reason(tmp_path: Path) -> None:
    for name, values in {"nan": [[1.0, np.nan], [2.0, 3.0]], "equal": [[1.0, 2.0], [1.0, 2.0]], "one": [[1.0]]}.items():
        np.save(tmp_path / f"{name}.npy", np.array(values))
        lines = describe_data(str(tmp_path / f"{name}.npy"), None, [])
        assert lines[0].startswith("array of")
        assert lines[-1].startswith("cannot be modelled: ")


def test_wrong_options_and_files_are_still_refused(mixed: str) -> None:
    with pytest.raises(OptionError, match="did you mean 'kind'"):
        describe_data(mixed, None, ["knid"])
    with pytest.raises(OptionError, match="did you mean 'size'"):
        describe_data(mixed, ["sise"], [])
    with pytest.raises(DataError, match="no such file"):
        describe_data(mixed + "x.csv", None, [])
