"""What columns are taken for: identifiers and their look-alikes, few numbers and many, and types that are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scorefield.codecs.column import Column
from scorefield.codecs.taken import Constant, Entry, LeftOut, take_columns
from scorefield.data import Table
from scorefield.errors import OptionError

RANDOM = np.random.default_rng(0)


def taken(values: Any, asked: str | None = None, kind: pa.DataType | None = None) -> Entry:
    data = Table(pa.table({"c": pa.array(values, kind)}), source="t.csv")
    (entry,), _ = take_columns(data, {} if asked is None else {"c": asked})
    return entry


def kind_of(entry: Entry) -> str:
    return entry.values.kind if isinstance(entry, Column) else type(entry).__name__


IDENTIFIERS = {
    "row numbers": (np.arange(50), "every whole number from 0 to 49 once: row numbers"),
    "row numbers in any order": (RANDOM.permutation(np.arange(7, 207)), "from 7 to 206 once: row numbers"),
    "random ids": (RANDOM.permutation(20_000)[:2000], "all 2000 whole numbers are different, which is no chance"),
    "ids with gaps": (
        [None, *RANDOM.permutation(20_000)[:2000].tolist()],
        "all 2000 whole numbers are different, which is no chance",
    ),
    "ids beyond floats": (np.array([2**53 + 1, 3, 2**60] * 40 + list(range(20))), "cannot be told apart as float64"),
    "unique texts": ([f"user-{k}" for k in range(21)], "every value is different: an identifier or free text"),
    "numbers but for one": (
        [str(k / 4) for k in range(60)] + ["n.a."],
        r"identifier or free text (60 of 61 are numbers, 'n.a.' is none)",
    ),
    "nearly unique texts": ([f"{k // 2} words" for k in range(99)], "50 different texts in 99 rows"),
}


@pytest.mark.parametrize("case", IDENTIFIERS)
def test_identifiers_are_left_out_with_the_reason(case: str) -> None:
    values, reason = IDENTIFIERS[case]
    entry = taken(values)
    assert isinstance(entry, LeftOut)
    assert reason in entry.reason


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, "LeftOut") for name in ("id", "ID", "customer_id", "CustomerId", "userID", "row id")],
        *[(name, "number") for name in ("valid", "humid", "PAID", "width", "idle", "id count", "x")],
    ],
)
def test_a_columns_name_helps_to_tell_an_identifier(name: str, kind: str) -> None:
    # Chance would have left 300 numbers of 10 000 without a tie once in ninety times.
    values = RANDOM.permutation(10_000)[:300]
    assert kind_of(take_columns(Table(pa.table({name: values}), source="t.csv"), {})[0][0]) == kind
    # And once in two of 65 000, which is not enough whatever they are called.
    values = RANDOM.permutation(65_000)[:300]
    assert kind_of(take_columns(Table(pa.table({name: values}), source="t.csv"), {})[0][0]) == "number"


LOOK_ALIKES = {
    "sorted floats": (np.sort(RANDOM.normal(size=500)), "number"),
    "whole floats, all different": (np.arange(500.0), "number"),
    "integers with one tie": (np.append(np.arange(200), 7), "number"),
    "few rows": (np.arange(49), "number"),
    "integers of a wide range": (RANDOM.integers(0, 10**9, 1000), "number"),
    "few different texts": ([f"town {k % 21}" for k in range(105)], "category"),
    "few rows of texts": ([f"town {k}" for k in range(20)], "category"),
}


@pytest.mark.parametrize("case", LOOK_ALIKES)
def test_what_only_looks_like_an_identifier_is_modelled(case: str) -> None:
    values, kind = LOOK_ALIKES[case]
    assert kind_of(taken(values)) == kind


KINDS = {
    "few integers": ([1, 2, 3] * 20, "category"),
    "few integers in fewer rows": (([1, 2, 3] * 20)[:59], "number"),
    "twenty floats": ([k / 7 for k in range(20)] * 20, "category"),
    "one more": ([k / 7 for k in range(21)] * 20, "number"),
    "truth": ([True, False, None], "category"),
    "one number and gaps": ([3.5, None], "category"),
    "one text and gaps": (["x", None], "category"),
    "one number": ([3.5, 3.5], "Constant"),
    "nothing": ([None, None], "Constant"),
}


@pytest.mark.parametrize("case", KINDS)
def test_columns_are_taken_for_what_their_values_say(case: str) -> None:
    values, kind = KINDS[case]
    assert kind_of(taken(values)) == kind
    if kind != "Constant":
        entry = taken(values)
        assert isinstance(entry, Column)
        assert entry.why
        assert entry.gaps == (None in values)


def test_dates_are_dates_and_one_date_with_gaps_a_name() -> None:
    for kind in (pa.date32(), pa.timestamp("ns", "UTC")):
        assert kind_of(taken([1, 2, 9], kind=kind)) == "date"
        assert kind_of(taken([1, 1, None], kind=kind)) == "category"
        assert kind_of(taken([1, 1], kind=kind)) == "Constant"


def test_statistics_integers_drawn_at_random_are_no_identifier() -> None:
    """Of ranges in which 300 draws differ by chance in half of all sets, none is left out: caught, no law of chance."""
    found = [taken(np.random.default_rng(seed).integers(0, 65_000, 300)) for seed in range(60)]
    different = [len(np.unique(np.random.default_rng(seed).integers(0, 65_000, 300))) == 300 for seed in range(60)]
    assert 10 < sum(different) < 50
    assert {kind_of(entry) for entry in found} == {"number"}


# -- asked for --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "asked", "kind"),
    [
        ([1, 2, 3] * 10, "number", "number"),
        ([True, False] * 10, "number", "number"),
        (np.arange(60), "number", "number"),
        (np.arange(60), "category", "category"),
        ([f"user-{k}" for k in range(40)], "category", "category"),
        (["a", "b"], "out", "LeftOut"),
        ([5, 5], "out", "LeftOut"),
        (["b", "a"] * 5, "ordered:b<a", "ordered"),
        ([1, None], "number", "category"),  # of one number nothing is to be told but whether it is there
        (["a", None], "ordered:a<b", "category"),
        ([4, 4], "category", "Constant"),
    ],
)
def test_types_asked_for_are_taken(values: Any, asked: str, kind: str) -> None:
    assert kind_of(taken(values, asked)) == kind


@pytest.mark.parametrize(
    ("values", "asked", "message"),
    [
        (["a", "b"], "number", "--column-type c=number: the column holds string"),
        (["a", "b"], "date", "--column-type c=date: the column holds string"),
        ([1, 2], "date", "--column-type c=date: the column holds int64"),
        ([1, 2], "integer", "c=integer: no such type; there are number, category, date, ordered:A<B<C, out"),
        ([1, 2], "", "c=: no such type"),
        (["a", "b"], "ordered:a", "ordered:a: 'b' has no place in it"),
        (["a", "b"], "ordered:a<b<a", "a value comes twice"),
        ([1, 2], "ordered:one<two", "no values of int64"),
        ([1, None], "date", "the column holds int64"),
    ],
)
def test_types_that_do_not_fit_are_refused(values: Any, asked: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        taken(values, asked)


def test_types_of_unknown_columns_are_refused_with_what_there_is() -> None:
    data = Table(pa.table({"price": [1.0, 2.0], "kind": ["a", "b"]}))
    with pytest.raises(OptionError, match=r"--column-type prise: no such column.*did you mean 'price'"):
        take_columns(data, {"prise": "number"})


def test_what_is_left_out_or_put_back_is_said_with_the_option_that_changes_it() -> None:
    data = Table(
        pa.table({"id": np.arange(60), "name": [f"n{k}" for k in range(60)], "unit": [3] * 60, "x": RANDOM.random(60)})
    )
    entries, notes = take_columns(data, {"name": "out"})
    assert [type(entry) for entry in entries] == [LeftOut, LeftOut, Constant, Column]
    assert notes == [
        "column 'id' is left out, every whole number from 0 to 59 once: row numbers; "
        "--column-type id=category would model it",
        "column 'name' is left out, as asked",
        "column unit: constant 3, put back as it is",
    ]
