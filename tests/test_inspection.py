"""What `inspect` says of data, also of data that cannot be modelled: every column, the reason, and what to do."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from scorefield.cli.options import names
from scorefield.data import read
from scorefield.errors import DataError, OptionError
from scorefield.features import Features, columns_to_read
from scorefield.inspection import describe_data

MIXED = "size,name,day,ok,gap,kind,weight\n1.5,Ann,2020-01-01,true,1,u,3\n2.25,Bob,2020-01-02,false,,v,4\n"


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    path = tmp_path / "mixed.csv"
    path.write_text(MIXED + "3.75,Cid,2020-01-03,true,2,u,9\n")
    return str(path)


def test_data_with_columns_that_cannot_be_modelled_is_still_described(mixed: str) -> None:
    lines = describe_data(mixed, None, [])
    assert lines[0].startswith("table of 3 rows, 7 columns")
    for name in ("size", "name", "day", "ok", "gap", "kind", "weight"):
        assert sum(line.startswith(f"  {name}: ") for line in lines) == 1
    text = "\n".join(lines)
    assert "5 columns that this version cannot model: name, day, ok, gap, kind" in text
    assert "holds string" in text
    assert "1 missing cells, the first in data row 2" in text


@pytest.mark.parametrize("condition", [[], ["kind"]])
def test_the_option_to_copy_is_one_that_works(mixed: str, condition: list[str]) -> None:
    words = shlex.split(describe_data(mixed, None, condition)[-1])
    columns = names(words[words.index("--columns") + 1])
    given = [words[place + 1] for place, word in enumerate(words) if word == "--condition"]
    assert (columns, given) == (["size", "weight"], condition)
    assert Features.fit(read(mixed, columns=columns_to_read(columns, given)), given, 0).codec.shape == (2,)
    assert "recipe auto would choose" in describe_data(mixed, columns, given)


def test_one_bad_column_and_none_left(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("word\nu\nv\n")
    assert describe_data(str(path), None, [])[-1] == "no other column is left to model"


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
