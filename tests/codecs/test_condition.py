"""Conditions: there and back with their types, drawn as they occurred together, unseen categories refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from scorefield.codecs import condition
from scorefield.codecs.between import Among, Between
from scorefield.codecs.condition import ConditionCodec, ConditionColumn
from scorefield.errors import DataError, OptionError

ROWS = 4000


def weather(rows: int = ROWS) -> dict[str, np.ndarray]:
    """Kinds and months of which four of six combinations occur, and a number that depends on the kind."""
    random = np.random.default_rng(0)
    pairs = [("rain", 1), ("rain", 2), ("sun", 2), ("snow", 1)]
    chosen = random.choice(4, rows, p=[0.4, 0.3, 0.2, 0.1])
    kind = np.array([pairs[c][0] for c in chosen], dtype=object)
    month = np.array([pairs[c][1] for c in chosen], dtype=np.int32)
    heat = np.round(10.0 * (kind == "sun") + random.normal(size=rows), 1)
    return {"kind": kind, "month": month, "heat": heat}


@pytest.mark.parametrize(
    "values",
    [
        np.array(["b", "a", "a", "ü,\n"], dtype=object),
        np.array(["b", "a", "a", "c"]),
        np.array([3, 1, 1, -2], dtype=np.int8),
        np.array([3, 1, 1, 2], dtype=np.uint64),
        np.array([True, False, True, True]),
        np.array([0.5, 5.1, -3.25, 0.5], dtype=np.float32),
        np.array([0.5, 5.1, -3.25, 0.5]),
        np.arange(1000, dtype=np.int32),
        np.array(["b", None, "a", None], dtype=object),
        *(np.ma.MaskedArray(np.array(values), [0, 1, 0, 0]) for values in ([3, 7, 1, 1], [True, True, False, True])),
        np.ma.MaskedArray([0.5, 5.1, -3.25, 0.5], [1, 0, 0, 1]),
        np.ma.MaskedArray([2.0, 2.0, 2.0], [1, 0, 0]),
    ],
    ids=lambda values: f"{values.dtype}-{len(values)}",
)
def test_law_values_and_types_come_back_also_after_json(values: np.ndarray) -> None:
    codec = ConditionCodec.fit({"c": values})
    again = ConditionCodec.from_json(json.loads(json.dumps(codec.to_json())), codec.seen)
    assert again.columns == codec.columns
    back = again.decode(again.encode({"c": values}))["c"]
    assert back.tolist() == values.tolist()
    if values.dtype.kind not in "OU":
        assert back.dtype == values.dtype


def test_several_columns_share_a_row_in_their_order() -> None:
    values = weather()
    codec = ConditionCodec.fit(values)
    encoded = codec.encode(values)
    assert encoded.shape == (ROWS, codec.features)
    assert codec.features == 3 + 2 + 1
    for name, column in codec.decode(encoded).items():
        assert column.tolist() == values[name].tolist()


def test_numbers_are_standardised_and_categories_are_one_hot() -> None:
    values = weather()
    encoded = ConditionCodec.fit(values).encode(values)
    assert set(encoded[:, :5].unique().tolist()) == {0.0, 1.0}
    assert (encoded[:, :3].sum(1) == 1).all()
    assert abs(float(encoded[:, 5].mean())) < 1e-5
    assert abs(float(encoded[:, 5].std(correction=0)) - 1) < 1e-5


def test_law_nothing_given_draws_only_combinations_that_occurred() -> None:
    values = weather()
    codec = ConditionCodec.fit(values)
    drawn = codec.draw(range(3000), {}, seed=1)
    seen = {tuple(row) for row in codec.encode(values).tolist()}
    assert {tuple(row) for row in drawn.tolist()} <= seen


def test_statistics_combinations_come_as_often_as_in_training() -> None:
    """Four shares within 4 standard errors, a false alarm in 4000; drawing each column alone misses by twenty."""
    values = weather()
    codec = ConditionCodec.fit(values)
    drawn = codec.decode(codec.draw(range(ROWS), {}, seed=2))

    def worst(kind: np.ndarray, month: np.ndarray) -> float:
        errors = []
        for pair in {(k, int(m)) for k, m in zip(values["kind"], values["month"], strict=True)}:
            share = float(((values["kind"] == pair[0]) & (values["month"] == pair[1])).mean())
            found = float(((kind == pair[0]) & (month == pair[1])).mean())
            errors.append(abs(found - share) / (share * (1 - share) / ROWS) ** 0.5)
        return max(errors)

    assert worst(drawn["kind"], drawn["month"]) < 4
    alone = np.random.default_rng(0).permutation(drawn["month"])  # the planted bug: columns drawn one by one
    assert worst(drawn["kind"], alone) > 10


def test_what_is_given_holds_and_the_rest_agrees_with_it() -> None:
    codec = ConditionCodec.fit(weather())
    drawn = codec.decode(codec.draw(range(500), {"kind": "sun"}, seed=0))
    assert set(drawn["kind"]) == {"sun"}
    assert set(drawn["month"].tolist()) == {2}
    assert drawn["heat"].min() > 5  # the sun's heat is 10 ± 1, that of the others 0 ± 1
    both = codec.decode(codec.draw(range(500), {"month": "1", "heat": 4.5}, seed=0))
    assert set(both["month"].tolist()) == {1}
    assert set(both["heat"].tolist()) == {4.5}
    assert set(both["kind"]) == {"rain", "snow"}


def test_law_ranges_and_choices_draw_what_occurred_within_them() -> None:
    codec = ConditionCodec.fit(weather())
    drawn = codec.decode(codec.draw(range(3000), {"heat": Between(low="9", above=True), "month": Among(("2",))}, 0))
    assert drawn["heat"].min() > 9
    assert set(drawn["month"].tolist()) == {2}
    # H₀: the kinds are as often as among training rows within; 4 standard errors, 6e-5. Caught: drawn from all rows.
    kind, month, heat = weather().values()
    sunny = (kind == "sun")[(month == 2) & (heat > 9)].mean()
    assert abs((drawn["kind"] == "sun").mean() - sunny) < 4 * (sunny * (1 - sunny) / 3000) ** 0.5 + 1e-9
    assert abs((kind == "sun").mean() - sunny) > 0.5
    # A value beside a range is taken where both hold, and others are drawn from what occurred with both.
    drawn = codec.decode(codec.draw(range(500), {"heat": Between(high=2.0), "kind": "rain"}, 0))
    assert drawn["heat"].max() <= 2
    assert set(drawn["kind"]) == {"rain"}
    assert set(drawn["month"].tolist()) == {1, 2}
    others = codec.decode(codec.draw(range(500), {"kind": Among(("rain", "sun"), other=True)}, 0))
    assert set(others["kind"]) == {"snow"}
    numbers = codec.decode(codec.draw(range(500), {"month": Between(low=2)}, 0))
    assert set(numbers["month"].tolist()) == {2}


def test_names_with_bars_and_values_that_are_not_missing_are_meant() -> None:
    kind = np.array(["a|b", "a", "b", "c"] * 50, dtype=object)
    mark = np.ma.MaskedArray(np.arange(200) % 3, np.arange(200) % 5 == 0)
    codec = ConditionCodec.fit({"kind": kind, "mark": mark})
    assert set(codec.decode(codec.draw(range(50), {"kind": Among(("a", "b"))}, 0))["kind"]) == {"a|b"}
    assert set(codec.decode(codec.draw(range(50), {"kind": Among(("a", "c"))}, 0))["kind"]) == {"a", "c"}
    drawn = codec.decode(codec.draw(range(200), {"mark": Among((), other=True)}, 0))["mark"]
    assert not np.ma.getmaskarray(drawn).any()
    assert np.ma.getmaskarray(codec.decode(codec.draw(range(200), {}, 0))["mark"]).any()
    above = codec.decode(codec.draw(range(200), {"mark": Between(low=1)}, 0))["mark"]
    assert not np.ma.getmaskarray(above).any()
    assert set(above.tolist()) == {1, 2}


def test_a_value_that_no_row_within_a_range_has_is_said_and_the_range_is_kept() -> None:
    codec = ConditionCodec.fit(weather())
    with pytest.warns(
        UserWarning, match="kind=sun does not occur within the ranges and choices given.* within what else"
    ):
        drawn = codec.decode(codec.draw(range(50), {"kind": "sun", "heat": Between(high=0.0)}, 0))
    assert set(drawn["kind"]) == {"sun"}
    assert drawn["heat"].max() <= 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heat": Between(low=99)}, "heat: none of the 1000 training rows kept lies in the range, there were -"),
        ({"heat": Between(low="warm")}, "heat: a range of numbers has numbers as its ends"),
        ({"heat": Among((1.0, 2.0))}, "heat: it is a number, and can be given a value or a range"),
        ({"kind": Between(low="rain")}, "kind: its values are names without an order, known are rain, snow, sun"),
        ({"kind": Among(("rian",))}, "kind: was never 'rian' in training, known are rain, snow, sun, did you mean"),
        ({"kind": Among(("rain", "snow", "sun"), other=True)}, "kind: none of its values is meant"),
        ({"month": Between(low=3)}, "month: none of its values is meant, known are 1, 2"),
        ({"kind": Among(("snow", "sun")), "heat": Between(5, 5.05)}, None),
        ({"kind": Among(("snow",)), "month": Between(low=2)}, "none of the 1000 training rows kept lies in all ranges"),
    ],
)
def test_ranges_that_hold_nothing_are_refused(given: dict[str, Any], message: str | None) -> None:
    codec = ConditionCodec.fit({name: values[:1000] for name, values in weather().items()})
    if message is None:
        message = "none of the 1000 training rows kept lies in"
    with pytest.raises(OptionError, match=message):
        codec.draw(range(3), given, 0)


def test_a_combination_that_never_occurred_is_drawn_when_asked_for() -> None:
    codec = ConditionCodec.fit(weather())
    with pytest.warns(UserWarning, match="kind=snow, month=2 do not occur together in the 4000 training rows"):
        drawn = codec.decode(codec.draw(range(2000), {"kind": "snow", "month": 2}, seed=0))
    assert set(drawn["kind"]) == {"snow"}
    assert set(drawn["month"].tolist()) == {2}
    # The rest comes from all rows: a fifth of them is the sun's, with its heat of 10 ± 1.
    assert float((drawn["heat"] > 5).mean()) == pytest.approx(0.2, abs=4 * (0.16 / 2000) ** 0.5)


def test_a_given_number_draws_the_others_from_rows_near_it() -> None:
    codec = ConditionCodec.fit(weather())
    for heat, kinds in ((10.0, {"sun"}), (12.5, {"sun"}), (-1.0, {"rain", "snow"}), (-50.0, {"rain", "snow"})):
        drawn = codec.decode(codec.draw(range(300), {"heat": heat}, seed=0))
        assert set(drawn["heat"].tolist()) == {heat}
        assert set(drawn["kind"]) <= kinds
    pairs = set(zip(drawn["kind"], drawn["month"].tolist(), strict=True))
    assert pairs <= {("rain", 1), ("rain", 2), ("snow", 1)}


def test_statistics_a_number_that_many_rows_share_draws_from_all_of_them() -> None:
    """Within 4 standard errors, a false alarm in 16 000; the planted bug, only the 20 nearest of equals, misses."""
    random = np.random.default_rng(0)
    number, kind = random.integers(0, 4, ROWS) * 1.0, random.choice(["a", "b"], ROWS, p=[0.3, 0.7])
    codec = ConditionCodec.fit({"number": number, "kind": kind})
    drawn = codec.decode(codec.draw(range(ROWS), {"number": 2}, seed=0))["kind"]
    share = float((kind[number == 2] == "a").mean())
    assert abs(float((drawn == "a").mean()) - share) < 4 * (share * (1 - share) / ROWS) ** 0.5


def test_law_every_category_is_kept_however_rare_and_nothing_given_draws_it_no_more_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 100 000 rows 10 000 are kept; "b" has 30 and "c" 3, so a random part holds 3 and most likely none."""
    monkeypatch.setattr(condition, "_KEPT_ROWS", 10_000)
    rows = 100_000
    kind = np.array(["a"] * (rows - 33) + ["b"] * 30 + ["c"] * 3, dtype=object)
    size = np.where(kind == "b", 7.5, np.random.default_rng(0).normal(size=rows))
    flag = np.arange(rows) % 2 == 0
    codec = ConditionCodec.fit({"kind": kind, "size": size, "flag": flag})
    assert len(codec.seen) <= 10_000 + 3 * 20
    kept = codec.decode(codec.seen)["kind"]
    assert [(kept == name).sum() for name in "bc"] == [20, 3]
    assert set(codec.decode(codec.draw(range(200), {"kind": "b"}, 0))["size"].round(6).tolist()) == {7.5}
    both = codec.decode(codec.draw(range(200), {"kind": "c", "flag": True}, 0))
    assert set(both["kind"]) == {"c"}
    # Unbiased: nothing given draws from the random part, in which the share of "b" is 3 in 10 000, not 20.
    drawn = codec.decode(codec.draw(range(20_000), {}, 0))["kind"]
    assert (drawn == "b").sum() < 20
    again = ConditionCodec.from_json(json.loads(json.dumps(codec.to_json())), codec.seen)
    assert torch.equal(again.draw(range(500), {}, 1), codec.draw(range(500), {}, 1))


def test_a_condition_of_very_many_categories_keeps_a_row_of_each_and_stays_small() -> None:
    name = np.array([f"id{i}" for i in np.arange(60_000) % 5000])
    codec = ConditionCodec.fit({"name": name})
    assert codec.seen.sum(0).min() >= 1
    assert codec.seen.numel() <= 2**24 + 5000 * 5000


def test_law_row_i_is_the_same_in_any_chunk() -> None:
    codec = ConditionCodec.fit(weather())
    whole = codec.draw(range(100), {"kind": "rain"}, seed=3)
    parts = [codec.draw(range(a, b), {"kind": "rain"}, seed=3) for a, b in ((0, 7), (7, 64), (64, 100))]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(codec.draw(range(100), {"kind": "rain"}, seed=4), whole)


# -- faults -----------------------------------------------------------------------------------------------------------


def test_an_unseen_category_lists_the_known_ones_and_suggests_one() -> None:
    codec = ConditionCodec.fit(weather())
    with pytest.raises(OptionError) as refused:
        codec.draw(range(2), {"kind": "snwo"}, seed=0)
    message = str(refused.value)
    assert "'kind' was never 'snwo'" in message
    assert "rain, snow, sun" in message
    assert "did you mean 'snow'" in message
    with pytest.raises(OptionError, match=r"known are: 1, 2"):
        codec.draw(range(2), {"month": 7}, seed=0)


def test_unknown_names_and_values_that_are_no_numbers_are_refused() -> None:
    codec = ConditionCodec.fit(weather())
    with pytest.raises(OptionError, match=r"not conditioned on 'knid'.*'kind'"):
        codec.draw(range(2), {"knid": "rain"}, seed=0)
    with pytest.raises(OptionError, match=r"'heat' is a number.*warm"):
        codec.draw(range(2), {"heat": "warm"}, seed=0)
    for value in ("nan", float("inf")):
        with pytest.raises(OptionError, match="'heat' must be finite"):
            codec.draw(range(2), {"heat": value}, seed=0)
    with pytest.raises(OptionError, match=r"\['month', 'heat'\]"):
        codec.encode({"kind": ["rain"]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["a", "a"], dtype=object), r"'c' is constant \(a\)"),
        (np.array([2, 2]), "'c' is constant"),
        (np.array([2.0, 2.0]), "'c' is constant"),
        (np.array([True, True]), "'c' is constant"),
        (np.array([None, None], dtype=object), "'c' is missing throughout"),
        (np.array([1.0, np.nan, 2.0]), "'c' must be finite, found nan in data row 2"),
        (np.array([1.0, 2.0, -np.inf]), "'c' must be finite, found -inf in data row 3"),
        (np.array([f"id{i}" for i in range(500)]), "'c' has 500 different values in 500 rows"),
        (np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[s]"), r"'c' holds datetime64\[s\]"),
    ],
)
def test_columns_that_tell_nothing_are_refused_by_name(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ConditionColumn.fit("c", values)


def test_a_category_seen_once_is_known() -> None:
    kind = np.array(["common"] * 999 + ["once"], dtype=object)
    codec = ConditionCodec.fit({"kind": kind})
    assert set(codec.decode(codec.draw(range(20), {"kind": "once"}, seed=0))["kind"]) == {"once"}


def test_cells_that_are_missing_are_a_value_of_their_own() -> None:
    values = weather()
    gaps = np.random.default_rng(1).random((2, ROWS)) < 0.2
    values["kind"][gaps[0]] = None
    values["heat"] = np.ma.MaskedArray(np.where(gaps[1], np.nan, values["heat"]), gaps[1])
    values["month"] = np.where(gaps[0] | gaps[1], 3, values["month"])  # which tells what is missing
    codec = ConditionCodec.fit(values)
    assert codec.features == 4 + 3 + 2
    for given, missing in (({"kind": None}, "kind"), ({"heat": None}, "heat")):
        drawn = codec.decode(codec.draw(range(300), given, seed=0))
        assert np.ma.getmaskarray(drawn[missing]).all()
        assert set(drawn["month"].tolist()) == {3}
    near = codec.decode(codec.draw(range(300), {"heat": 10.0}, seed=0))
    assert not np.ma.getmaskarray(near["heat"]).any()
    assert set(near["kind"].tolist()) <= {"sun", None}
    # Where none was missing, one that is missing is an error.
    with pytest.raises(OptionError, match="--given month=: it was never missing in training"):
        codec.draw(range(2), {"month": None}, seed=0)
    with pytest.raises(OptionError, match="'month' has 1 missing cells, the first in data row 2, and had none in"):
        codec.columns[1].encode([1, None])
    assert codec.columns[0].unusable(["rain", None]) == {}
    assert codec.columns[1].unusable([1, None]) == {1: "condition 'month' is missing, and never was in training"}


def test_law_rare_gaps_are_kept_to_draw_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "_KEPT_NUMBERS", 1)
    kind = np.array(["a", "b"] * 20_000, dtype=object)
    kind[[5, 7000]] = None
    codec = ConditionCodec.fit({"kind": kind, "x": np.arange(40_000)})
    drawn = codec.decode(codec.draw(range(50), {"kind": None}, seed=0))["x"]
    assert set(drawn.tolist()) <= {5, 7000}
