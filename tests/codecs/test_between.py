"""What is asked of a cell in words: each form read, ends put together, and what is no such form refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefield.codecs.between import Among, Between, settled, wishes
from scorefield.codecs.number import Number
from scorefield.errors import OptionError

quick = settings(max_examples=100, deadline=None)
TINY = 1e-6  # of an encoded value


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("age>60", Between(low="60", above=True)),
        ("age>=60", Between(low="60")),
        ("age<6e1", Between(high="6e1", below=True)),
        ("age <= -0.5", Between(high=" -0.5")),
        ("age=", ""),
        ("age=  ", "  "),
        ("age!= ", Among((), other=True)),
        ("age=60", "60"),
        ("age=a=b", "a=b"),
        ("age=a<b", "a<b"),
        ("age=S|Q", Among(("S", "Q"))),
        ("age!=S", Among(("S",), other=True)),
        ("age!=S|Q", Among(("S", "Q"), other=True)),
        (" age = a b ", " a b "),  # the column's names say what of it is meant
    ],
)
def test_each_form_is_read(text: str, wish: Any) -> None:
    assert wishes([text]) == {"age": wish}


def test_names_of_columns_may_have_spaces_and_the_order_is_kept() -> None:
    assert list(wishes(["hours per week>3", "b=1", "a!=2"])) == ["hours per week", "b", "a"]
    assert wishes([]) == {}


def test_the_longest_name_that_there_is_is_taken_whatever_is_in_it() -> None:
    names = ["a", "a=b", " a", "x>1", "x"]
    assert wishes(["a=b=3", " a<2", "x>1=4", "x>2"], names) == {
        "a=b": "3",
        " a": Between(high="2", below=True),
        "x>1": "4",
        "x": Between(low="2", above=True),
    }
    assert wishes(["a=b", "ax=1"], names) == {"a": "b", "ax": "1"}  # of "a=b" nothing is said


def test_law_a_text_means_a_name_as_it_is_or_without_outer_spaces() -> None:
    names = (" a", "a", "b", "a|b", "c ")
    assert [settled(text, names) for text in (" a", " a ", "b ", "c ", "c", " d")] == [" a", "a", "b", "c ", "c", "d"]
    assert settled(Among((" a", " b ")), names) == Among((" a", "b"))
    assert settled(Among(("a", "b")), names) == "a|b"
    assert settled(Among(("a", "b"), other=True), names) == Among(("a", "b"), other=True)
    assert settled(3, names) == 3


def test_two_ends_are_put_together_in_either_order() -> None:
    both = Between("1", "2", above=True)
    assert wishes(["x>1", "x<=2"]) == wishes(["x<=2", "x>1"]) == {"x": both}


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        (["age"], "age: expected COL=VALUE"),
        ([""], "expected COL=VALUE"),
        (["=3"], "expected COL=VALUE"),
        ([">3"], "expected COL=VALUE"),
        (["age>1", "age>=2"], "two ends of one kind, 1 and 2"),
        (["age<1", "age<2"], "two ends of one kind"),
        (["age>1", "age=2"], "'age' is given twice"),
        (["age=2", "age=2"], "'age' is given twice"),
        (["age!=2", "age<9"], "'age' is given twice"),
    ],
)
def test_other_forms_and_what_is_said_twice_are_refused(texts: list[str], part: str) -> None:
    with pytest.raises(OptionError, match="--given") as caught:
        wishes(texts)
    assert part in str(caught.value)


@quick
@given(value=st.floats(-3, 3), low=st.floats(-3, 3), high=st.floats(-3, 3), above=st.booleans(), below=st.booleans())
def test_law_both_ends_hold_where_each_does(value: float, low: float, high: float, above: bool, below: bool) -> None:
    one, other = Between(low=low, above=above), Between(high=high, below=below)
    assert one.and_(other).holds(value) == other.and_(one).holds(value) == (one.holds(value) and other.holds(value))
    # An end is in or out, and what is beside it does not ask.
    assert one.holds(low) != above
    assert other.holds(high) != below
    assert one.holds(math.nextafter(low, math.inf))
    assert not one.holds(math.nextafter(low, -math.inf))


# -- the range of a number, encoded -----------------------------------------------------------------------------------

COLUMNS = {
    "integers": np.random.default_rng(0).poisson(40, 800),
    "decimals": np.round(np.random.default_rng(1).lognormal(1, 0.5, 800), 1),
    "fives": 5 * np.random.default_rng(2).integers(-20, 40, 800) + 2,
    "digits": np.array([float(f"{value:.2g}") for value in np.random.default_rng(5).lognormal(2, 2, 900)]),
    "continuous": np.random.default_rng(3).normal(3, 2, 800),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(("above", "below"), [(False, False), (True, True)])
def test_a_range_ends_where_the_values_that_are_meant_do(name: str, above: bool, below: bool) -> None:
    # Ends at values of the data, and between them; just inside an edge decodes to a value that is meant, just
    # outside to one that is not. Caught: an edge at the value itself, half a bin off, and < taken for ≤.
    values = COLUMNS[name]
    column = Number.fit(name, values)
    kind = pa.int64() if values.dtype.kind == "i" else pa.float64()
    inner = np.unique(values)[10:-10]
    for low in (inner[3], (inner[3] + inner[4]) / 2):
        for high in (inner[-3], (inner[-3] + inner[-4]) / 2):
            wish = Between(float(low), float(high), above, below)
            ends = column.between(wish)
            inside, outside = (
                column.decode(torch.tensor([[ends[0] + side * TINY], [ends[1] - side * TINY]]), kind).to_pylist()
                for side in (1, -1)
            )
            assert all(wish.holds(value) for value in inside), (wish, inside)
            assert not any(wish.holds(value) for value in outside), (wish, outside)
            seen = column.cells(pa.chunked_array([pa.array(values)])).centre[:, -1]
            kept = (seen > ends[0]) & (seen < ends[1])
            meant = np.array([wish.holds(float(value)) for value in values])
            # A continuous value at an end itself is on the edge.
            unsure = np.isin(values, (low, high)) & (name == "continuous")
            assert (kept.numpy() == meant)[~unsure].all()


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(
    "wish",
    [
        Between(low=1e9),
        Between(high=-1e9),
        Between(low=math.inf),
        Between(high=-math.inf),
        Between(low=1e308),
        Between(low=30.0, high=1.0),
    ],
)
def test_a_range_without_values_is_turned_round(name: str, wish: Between) -> None:
    low, high = Number.fit(name, COLUMNS[name]).between(wish)
    assert low >= high


@pytest.mark.parametrize("name", COLUMNS)
def test_ends_beyond_all_values_are_none(name: str) -> None:
    column = Number.fit(name, COLUMNS[name])
    for far in (1e6, 1e308, math.inf):
        assert column.between(Between(-far, far)) == column.between(Between())


def test_of_a_number_with_a_spike_the_range_is_that_of_the_rest() -> None:
    random = np.random.default_rng(4)
    values = np.where(random.random(900) < 0.4, 0.0, np.round(random.lognormal(3, 1, 900), 1) + 1)
    column = Number.fit("gain", values)
    assert column.spikes == (0.0,)
    low, high = column.between(Between(low=0.0))
    assert (low, high) == column.between(Between(low=0.0, above=True)) == column.between(Between())
    places = torch.tensor([[column.vertices.points[0, 0], low + TINY], [column.vertices.points[0, 0], high - TINY]])
    assert column.decode(places, pa.float64()).to_pylist() == [values[values > 0].min(), values.max()]
