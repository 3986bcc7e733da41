"""Features: which rows are measured, which columns are read, conditions there and back, what is not modelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from scorefield import features
from scorefield.data import Array, Table, read, write
from scorefield.errors import DataError, OptionError
from scorefield.features import Features, columns_to_read, not_modelled


def table(**columns: Any) -> Table:
    return Table(pa.table(columns), source="t.csv")


# -- rows measured ----------------------------------------------------------------------------------------------------


def test_statistics_rows_measured_of_a_large_set_are_random_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean within 4 standard errors, a false alarm in 16 000; the planted bug, the first of sorted rows, is 1 off."""
    data = Array(np.sort(np.random.default_rng(0).normal(size=20_000)))
    fitted = Features.fit(data, [], 0)
    whole = fitted.measured_rows(data)
    assert len(whole) == 20_000
    monkeypatch.setattr(features, "_MEASURED", 1)
    rows = fitted.measured_rows(data)
    assert len(rows) == 4000
    assert abs(float(rows.mean() - whole.mean())) < 4 / 4000**0.5
    assert float(rows.std()) == pytest.approx(1, abs=4 / 8000**0.5)
    assert torch.equal(rows, fitted.measured_rows(data, seed=0))
    assert not torch.equal(rows, fitted.measured_rows(data, seed=1))


# -- columns to read --------------------------------------------------------------------------------------------------


def test_conditions_are_read_beside_the_columns_chosen() -> None:
    assert columns_to_read(None, ["c"]) is None
    assert columns_to_read(["a", "b"], []) == ["a", "b"]
    assert columns_to_read(["a", "b"], ["c", "a", "c"]) == ["a", "b", "c"]


def test_columns_and_condition_together_model_the_columns_given_the_condition(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,skip,c,b\n1.5,x,u,1\n2.5,y,v,2\n3.25,z,u,5\n")
    data = read(path, columns=columns_to_read(["b", "a"], ["c"]))
    fitted = Features.fit(data, ["c"], 0)
    assert fitted.codec.shape == (2,)
    assert fitted.condition_names == ["c"]
    assert fitted.order == ("b", "a", "c")


def test_several_label_arrays_of_an_npz_are_all_there_to_condition_on_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    random = np.random.default_rng(0)
    labels = {"y": np.arange(20) % 3, "site": np.array(["n", "s"] * 10)}
    np.savez(path, features=random.normal(size=(20, 2)), y=labels["y"], site=labels["site"])
    data = read(path)
    assert isinstance(data, Array)
    fitted = Features.fit(data, ["site", "y"], 0)
    rows, bound = fitted.take(data, torch.device("cpu"))(np.arange(20))
    back = fitted.decode(rows, bound)
    write(back, tmp_path / "out.npz")
    found = np.load(tmp_path / "out.npz")
    assert set(found) == {"features", "y", "site"}
    for name, column in labels.items():
        np.testing.assert_array_equal(found[name], column)
    assert data.rows(np.array([3, 1])).label_columns["site"].tolist() == ["s", "s"]


# -- what is not modelled ---------------------------------------------------------------------------------------------


def test_every_column_that_cannot_be_modelled_has_its_reason() -> None:
    data = table(
        x=[1.0, 2.5, 3.0],
        name=["a", "b", "c"],
        flag=[True, False, True],
        gap=[1.0, None, 2.0],
        wrong=[1.0, 2.0, float("inf")],
        id=[0, 1, 2**60],
        kind=["u", "v", "u"],
    )
    reasons = not_modelled(data, ["kind"])
    assert list(reasons) == ["name", "flag", "gap", "wrong", "id"]
    for name, words in {"name": "string", "flag": "bool", "gap": "1 missing", "wrong": "Inf", "id": "apart"}.items():
        assert words in reasons[name]
    assert not_modelled(Array(np.zeros((3, 2))), []) == {}
    with pytest.raises(OptionError, match="did you mean 'kind'"):
        not_modelled(data, ["knid"])


def test_a_refusal_names_every_column_and_the_option_it_shows_is_accepted() -> None:
    data = table(x=[1.0, 2.5], name=["a", "b"], **{"the y": [1.5, 3.25]}, gap=[1.0, None])
    with pytest.raises(DataError) as refused:
        Features.fit(data, [], 0)
    message = str(refused.value)
    assert "'name' holds string" in message
    assert "'gap' has 1 missing cells, the first in data row 2" in message
    assert message.endswith("--columns 'x,the y'")
    many = table(x=[1.0, 2.5], **{f"t{i}": ["a", "b"] for i in range(30)})
    with pytest.raises(DataError, match=r"'t9'.*and 20 more.*--columns x$"):
        Features.fit(many, [], 0)
