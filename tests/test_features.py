"""Features: which rows are measured, which columns are read, conditions there and back, what is not modelled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from scorefield import features
from scorefield.codecs.between import Among
from scorefield.data import Array, Images, Table, read, write
from scorefield.data.clock import PER_SECOND, in_words, of_ticks
from scorefield.errors import DataError, OptionError
from scorefield.features import Features, columns_to_read
from scorefield.randomness import Noise, Stream


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
    rows, bound = fitted.take(data, torch.device("cpu"))(np.arange(20), Noise(Stream(0, "offsets"), range(20), 0))
    back = fitted.decode(rows, bound)
    write(back, tmp_path / "out.npz")
    found = np.load(tmp_path / "out.npz")
    assert set(found) == {"features", "y", "site"}
    for name, column in labels.items():
        np.testing.assert_array_equal(found[name], column)
    assert data.rows(np.array([3, 1])).label_columns["site"].tolist() == ["s", "s"]


# -- types of columns, and rows that stand anywhere in their cells -----------------------------------------------------


def mixed(rows: int = 60) -> Table:
    random = np.random.default_rng(0)
    gap = [
        None if missing else float(x)
        for missing, x in zip(random.random(rows) < 0.3, random.normal(size=rows), strict=True)
    ]
    return table(
        x=random.normal(size=rows),
        n=random.integers(0, 90, rows),
        name=[["oak", "elm", "ash"][k] for k in random.integers(0, 3, rows)],
        gap=gap,
        id=[f"tree {row}" for row in range(rows)],
        kind=["u", "v"] * (rows // 2),
    )


def test_types_of_columns_are_those_asked_for_and_a_condition_has_none() -> None:
    fitted = Features.fit(mixed(), ["kind"], 0, {"name": "ordered:ash<elm<oak", "gap": "out", "id": "category"})
    assert [entry.split(":")[0] for entry in fitted.codec.describe()] == ["x", "n", "name", "gap", "id"]
    assert fitted.codec.shape == (1 + 1 + 1 + 0 + 59,)
    again = Features.from_json(fitted.to_json(), None if fitted.conditions is None else fitted.conditions.seen)
    assert again.codec == fitted.codec
    with pytest.raises(OptionError, match="--column-type kind: a condition has the type of its values"):
        Features.fit(mixed(), ["kind"], 0, {"kind": "number"})
    with pytest.raises(OptionError, match=r"--column-type x: .* is array, which has no columns"):
        Features.fit(Array(np.zeros((3, 2))), [], 0, {"x": "number"})


def test_columns_left_out_are_in_no_sample_and_conditions_stand_in_their_place() -> None:
    fitted = Features.fit(mixed(), ["kind"], 0)
    x, bound = fitted.encode(mixed())
    back = fitted.decode(x, bound)
    assert isinstance(back, Table)
    assert back.columns.column_names == ["x", "n", "name", "gap", "kind"]
    for name in ("n", "name", "kind"):
        assert back.columns[name].to_pylist() == mixed().columns[name].to_pylist()


def test_law_rows_drawn_stand_anew_in_the_same_cells() -> None:
    data, cpu = mixed(), torch.device("cpu")
    fitted = Features.fit(data, ["kind"], 0)
    take = fitted.take(data, cpu)
    rows = np.array([3, 1, 4, 1, 5])
    first, second = (take(rows, Noise(Stream(0, "offsets"), range(5), step)) for step in (0, 1))
    assert first[0].dtype == torch.float32
    assert torch.equal(first[0], take(rows, Noise(Stream(0, "offsets"), range(5), 0))[0])
    # x and what is there of the gaps are continuous and stay; the same row twice in one step stands in two places.
    present = ~torch.tensor(data.rows(rows).columns["gap"].is_null().to_pylist())
    assert 0 < present.sum() < 5
    assert torch.equal(first[0][:, 0], second[0][:, 0])
    assert torch.equal(first[0][:, 5] == second[0][:, 5], present)
    assert (first[0] != second[0])[:, 1:5].all()
    assert (first[0][1] != first[0][3])[1:5].all()
    for x, bound in (first, second):
        back, middle = fitted.decode(x, bound), fitted.decode(*fitted.encode(data.rows(rows)))
        assert isinstance(back, Table)
        assert isinstance(middle, Table)
        seen = data.rows(rows).columns
        for name in ("n", "name", "kind"):
            assert back.columns[name].to_pylist() == middle.columns[name].to_pylist() == seen[name].to_pylist()
        assert back.columns["gap"].is_null().to_pylist() == seen["gap"].is_null().to_pylist()


def test_statistics_rows_measured_have_the_spread_of_their_cells() -> None:
    """H₀: a name's numbers have a deviation of 0.2 about its vertex, 4 standard errors; caught: vertices alone, 0."""
    data = table(name=["u", "v"] * 1000, x=np.arange(2000) / 7)
    rows = Features.fit(data, [], 0).measured_rows(data)
    spread = (rows[:, 0].abs() - 1).std()
    assert abs(float(spread) / 0.2 - 1) < 4 / 4000**0.5


# -- rows for their density -------------------------------------------------------------------------------------------


def trained() -> Features:
    random = np.random.default_rng(0)
    data = table(
        x=random.normal(size=40), n=np.arange(40), c=["u", "v"] * 20, z=random.normal(size=40), same=np.full(40, 7)
    )
    return Features.fit(data, ["c", "z"], 0)


def test_rows_without_a_density_are_named_with_the_reason_and_the_others_are_not() -> None:
    data = table(
        x=[0.5, None, float("nan"), 1.0, 2.0, 0.0, float("inf"), 1e31],
        n=[1, 2, 3, 4, None, 5, 6, 7],
        c=["u", "u", "v", "w", "u", None, "u", "u"],
        z=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, float("nan"), 0.8],
        same=[7, 7, 7, 7, 7, 7, 7, 7],
    )
    found = trained().unusable_rows(data)
    assert list(found) == [1, 2, 3, 4, 5, 6, 7]
    for row, words in {1: "'x' is missing", 2: "'x' is nan", 3: "'c' was never 'w'", 4: "'n' is missing"}.items():
        assert words in found[row]
    for row, words in {5: "'c' is missing", 6: "'z' is nan", 7: "'x' is 1e+31"}.items():
        assert words in found[row]
    with pytest.raises(DataError, match=r"t.csv: 7 rows have no density; the first is row 2: column 'x' is missing"):
        trained().spread(data)
    x, jacobian, bound = trained().spread(data.rows(np.array([0])), torch.full((1, 2), 0.25))
    assert (x.shape, jacobian.shape) == ((1, 2), (1,))
    assert bound is not None
    assert bound.shape == (1, 3)


def test_another_value_of_a_constant_has_no_density() -> None:
    fine = table(x=[0.5, 0.5], n=[1, 2], c=["u", "v"], z=[0.0, 1.0], same=[7, 8])
    found = trained().unusable_rows(fine)
    assert list(found) == [1]
    assert "'same' is 8, which was always 7" in found[1]
    values = np.random.default_rng(0).normal(size=(20, 3))
    values[:, 1] = 2.5
    fitted = Features.fit(Array(values), [], 0)
    other = values.copy()
    other[3, 1], other[5, 0] = 2.4, np.nan
    assert {row: reason.split(",")[0] for row, reason in fitted.unusable_rows(Array(other)).items()} == {
        3: "element 1 is 2.4",
        5: "element 0 (counted from 0) is nan",
    }
    assert fitted.unusable_rows(Array(values)) == {}


def test_unseen_labels_of_arrays_and_images_have_no_density() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 4, 4, 1)).astype(np.uint8)
    images = Images(pixels, "L", np.array([0, 1, 2] * 2), "y")
    fitted = Features.fit(images, ["y"], 0)
    assert fitted.unusable_rows(images) == {}
    other = Images(pixels, "L", np.array([0, 9, 2] * 2), "y")
    assert fitted.unusable_rows(other) == dict.fromkeys((1, 4), "condition 'y' was never '9' in training")


def test_data_of_another_form_is_refused_as_a_whole_with_the_difference() -> None:
    fitted = trained()
    with pytest.raises(DataError, match=r"columns \['n', 'same'\] are missing"):
        fitted.unusable_rows(table(x=[1.0], c=["u"], z=[0.0]))
    with pytest.raises(DataError, match="'n' holds string"):
        fitted.unusable_rows(table(x=[1.0], n=["a"], c=["u"], z=[0.0], same=[7]))
    with pytest.raises(OptionError, match="no column 'z'"):
        fitted.unusable_rows(table(x=[1.0], n=[1], c=["u"], same=[7]))
    small = Features.fit(Images(np.random.default_rng(0).integers(0, 9, (6, 4, 4, 1)).astype(np.uint8), "L"), [], 0)
    with pytest.raises(DataError, match=r"\(5, 4, 1, 'L', 255\), expected \(4, 4, 1"):
        small.unusable_rows(Images(np.zeros((2, 5, 4, 1), np.uint8), "L"))


def test_law_rows_spread_by_the_middle_are_the_encoded_rows_with_their_conditions() -> None:
    random = np.random.default_rng(1)
    data = table(x=random.normal(size=9), n=np.arange(9), c=["u", "v", "v"] * 3, z=random.normal(size=9), same=[7] * 9)
    x, _, bound = trained().spread(data, torch.full((9, 2), 0.5))
    expected, conditions = trained().encode(data)
    torch.testing.assert_close(x.float(), expected)
    assert bound is not None
    assert conditions is not None
    assert torch.equal(bound, conditions)


@pytest.mark.parametrize("kind", ["time32[s]", "time64[us]", "duration[ms]"])
def test_times_and_durations_as_conditions_keep_their_type_and_are_given_by_their_text(kind: str) -> None:
    unit = PER_SECOND[pa.type_for_alias(kind).unit]
    counts = np.random.default_rng(0).integers(1, 6, 200) * 3600 * unit
    data = table(x=np.arange(200.0) % 7, t=of_ticks(counts, pa.type_for_alias(kind)))
    fitted = Features.fit(data, ["t"], 0)
    again = Features.from_json(json.loads(json.dumps(fitted.to_json())), fitted.conditions.seen)  # type: ignore[union-attr]
    assert again.clocks == {"t": kind}
    x, conditions = again.encode(data)
    assert again.decode(x, conditions).columns.equals(data.columns)  # type: ignore[union-attr]
    # Of text, or of another unit, they are the same.
    words = pa.chunked_array([pa.array([in_words(int(count), pa.type_for_alias(kind)) for count in counts])])
    text = replace(data, columns=data.columns.set_column(1, "t", words))
    assert torch.equal(again.encode(text)[1], conditions)  # type: ignore[arg-type]
    assert not again.unusable_rows(text)
    drawn = again.conditions.draw(range(9), {"t": again.told("t", "02:00")}, 0)  # type: ignore[union-attr]
    at_two = of_ticks(np.full(9, 7200 * unit), pa.type_for_alias(kind)).to_pylist()
    assert again.decode(x[:9], drawn).columns["t"].to_pylist() == at_two  # type: ignore[union-attr]
    assert again.told("t", Among(("02:00", at_two[0]))).values[0] == again.told("t", at_two[0])
    with pytest.raises(OptionError, match="--given t=soon: the model was told"):
        again.told("t", "soon")
    wrong = replace(data, columns=data.columns.set_column(1, "t", pa.array(["soon"] * 200)))
    with pytest.raises(DataError, match="the model was told"):
        again.encode(wrong)
