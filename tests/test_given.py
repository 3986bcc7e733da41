"""What a user says of columns: every drawn row keeps it, encoded it says no less and no more, or it is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from scorefield import api, recipes
from scorefield.bundle import Bundle
from scorefield.codecs.between import Among, Between, wishes
from scorefield.codecs.column import FLAG
from scorefield.codecs.number import Number
from scorefield.codecs.ordered import Ordered
from scorefield.codecs.table import TableCodec
from scorefield.data import Table
from scorefield.errors import OptionError
from scorefield.filling import Filling
from scorefield.given import given_row
from scorefield.guidance.constraints import Constraint
from scorefield.overrides import override
from scorefield.randomness import Stream

GaussianOf = Callable[..., Bundle]
SIZES = {"size": "ordered:S<M<L<XL"}
HOW = Filling(8, 12)


@pytest.fixture(scope="module")
def model(gaussian_of: GaussianOf, people: pa.Table) -> Bundle:
    return gaussian_of(people, types=SIZES)


def rows(bundle: Bundle, *texts: str, count: int = 24) -> dict[str, list[Any]]:
    drawn = bundle.sample(count, given=wishes(list(texts)), how=HOW)
    assert isinstance(drawn, Table)
    assert len(drawn) == count
    return drawn.columns.to_pydict()


# -- what is drawn ----------------------------------------------------------------------------------------------------

KEPT: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "age=33": ("age", lambda v: v == 33),
    "age=12": ("age", lambda v: v == 12),  # younger than any in training
    "age>60": ("age", lambda v: 60 < v <= 90),
    "age>=60": ("age", lambda v: 60 <= v <= 90),
    "age<30.5": ("age", lambda v: v <= 30),
    "height=171.3": ("height", lambda v: v == 171.3),
    "height=171.26": ("height", lambda v: v == 171.26),  # a digit more than in training
    "height<170": ("height", lambda v: v <= 169.9),
    "weight=71.123456789012": ("weight", lambda v: v == 71.123456789012),
    "weight>80": ("weight", lambda v: v >= 80 - 1e-5),
    "gain=0": ("gain", lambda v: v == 0),
    "gain=77": ("gain", lambda v: v == 77),
    "gain>0": ("gain", lambda v: v > 0),
    "gain>=0": ("gain", lambda v: v >= 0),
    "gain<=0": ("gain", lambda v: v == 0),
    "gain<90": ("gain", lambda v: v < 90),
    "stars=4": ("stars", lambda v: v == 4),
    "stars>3": ("stars", lambda v: v in (4, 5)),
    "stars<=1": ("stars", lambda v: v == 1),
    "stars=1|5": ("stars", lambda v: v in (1, 5)),
    "stars!=3": ("stars", lambda v: v in (1, 2, 4, 5)),
    "port=Q": ("port", lambda v: v == "Q"),
    "port=S|Q": ("port", lambda v: v in ("S", "Q")),
    "port!=S": ("port", lambda v: v in ("C", "Q")),
    "port!=S|Q": ("port", lambda v: v == "C"),
    "port=": ("port", lambda v: v is None),
    "member=true": ("member", lambda v: v is True),
    "member!=true": ("member", lambda v: v is False),
    "member=true|false": ("member", lambda v: v in (True, False)),
    "size=L": ("size", lambda v: v == "L"),
    "size>M": ("size", lambda v: v in ("L", "XL")),
    "size<=M": ("size", lambda v: v in ("S", "M")),
    "day=2021-03-04": ("day", lambda v: v == date(2021, 3, 4)),
}


@pytest.mark.parametrize("text", KEPT)
def test_every_row_keeps_what_is_given(model: Bundle, people: pa.Table, text: str) -> None:
    name, keeps = KEPT[text]
    drawn = rows(model, text)
    assert [value for value in drawn[name] if not keeps(value)] == []
    assert list(drawn) == [column for column in people.column_names if column != "id"]
    # What may vary does.
    free = "weight" if name != "weight" else "age"
    assert len(set(drawn[free])) > 4
    # And rows of which nothing is given do not keep it.
    loose = model.sample(24, sampler="heun", steps=4)
    assert isinstance(loose, Table)
    if text not in ("gain>=0", "member=true|false"):
        assert not all(keeps(value) for value in loose.columns[name].to_pylist())


def test_several_are_kept_together(model: Bundle) -> None:
    drawn = rows(model, "age>30", "age<=60", "gain>0", "port!=S", "size>=M", "member=false", "weight=75")
    assert all(30 < value <= 60 for value in drawn["age"])
    assert min(drawn["gain"]) > 0
    assert set(drawn["port"]) <= {"C", "Q"}
    assert set(drawn["size"]) <= {"M", "L", "XL"}
    assert set(drawn["member"]) == {False}
    assert set(drawn["weight"]) == {75.0}


def test_values_may_be_given_as_they_are(model: Bundle) -> None:
    given = {"age": 40, "member": True, "port": Among(("S",), other=True), "height": Between(160.0, 175.0)}
    drawn = model.sample(9, given=given, how=HOW)
    assert isinstance(drawn, Table)
    found = drawn.columns.to_pydict()
    assert (set(found["age"]), set(found["member"])) == ({40}, {True})
    assert all(160 <= value <= 175 for value in found["height"])
    assert rows(model, "age=40", count=4) == model.sample(4, given={"age": np.int64(40)}, how=HOW).columns.to_pydict()  # type: ignore[union-attr]
    none = model.sample(4, given={"port": None}, how=HOW)
    assert none.columns.equals(model.sample(4, given={"port": ""}, how=HOW).columns)  # type: ignore[union-attr]


def test_row_i_is_the_same_however_many_are_drawn(model: Bundle) -> None:
    few, many = rows(model, "age>50", count=3), rows(model, "age>50", count=11)
    for name in ("age", "port", "day", "stars"):
        assert many[name][:3] == few[name]
    assert many["weight"][:3] == pytest.approx(few["weight"], abs=1e-3)


def test_what_is_given_moves_the_rest(model: Bundle) -> None:
    # Weight grows with age at 0.2 a year of the data: over 50 years by 10, its own deviation; 60 rows each.
    young, old = (np.array(rows(model, f"age={age}", count=60)["weight"]) for age in (20, 80))
    error = math.sqrt(young.var() / 60 + old.var() / 60)
    assert (old.mean() - young.mean()) / error > 3


def test_columns_and_conditions_of_a_trained_model_together(people: pa.Table) -> None:
    settings = ["network.width=16", "training.steps=60", "training.batch=32", "training.precision=float32"]
    table = people.select(["stars", "age", "weight", "port"])
    bundle = api.fit(table, override(recipes.edm(), settings), condition=["stars"], device="cpu")
    drawn = rows(bundle, "stars=2", "age>40", "port=S|C")
    assert set(drawn["stars"]) == {2}
    assert min(drawn["age"]) > 40
    assert set(drawn["port"]) <= {"S", "C"}
    assert list(drawn) == ["stars", "age", "weight", "port"]
    with pytest.raises(OptionError, match=r"conditioned on \['stars'\], which must be given a value"):
        rows(bundle, "age>40")
    with pytest.raises(OptionError, match=r"conditioned on \['stars'\], which must be given a value"):
        rows(bundle, "stars>2", "age>40")
    assert set(rows(bundle, "stars>2")["stars"]) == {3, 4, 5}
    assert set(rows(bundle, "stars=2|3")["stars"]) == {2, 3}
    with pytest.raises(OptionError, match="'stars' was never '9'"):
        rows(bundle, "stars=9", "age>40")


def test_a_part_of_a_whole_number_is_no_value_of_a_column_of_integers(people: pa.Table) -> None:
    codec = TableCodec.fit(Table(people.select(["stars", "age", "weight"])))
    for wish in (2.5, "2.5"):
        with pytest.raises(OptionError, match=r"--given age=2\.5: the column holds int"):
            given_row(codec, {"age": wish})
    assert given_row(codec, {"age": 40.0}).values == {"age": 40}
    for wish in (True, 2**70, "x", date(2020, 1, 1)):
        with pytest.raises(OptionError, match="--given age="):
            given_row(codec, {"age": wish})
    with pytest.raises(OptionError, match="a range of numbers has numbers as its ends"):
        given_row(codec, {"age": Between(low=10**400)})


# -- encoded ----------------------------------------------------------------------------------------------------------


def codec_of(bundle: Bundle) -> TableCodec:
    assert isinstance(bundle.features.codec, TableCodec)
    return bundle.features.codec


def random_rows(codec: TableCodec, people: pa.Table, count: int = 500) -> Tensor:
    """Encoded rows, some at those of the data and some between them and anywhere."""
    x = codec.encode(Table(people.slice(0, count))).double()
    return torch.cat([x, x + 0.3 * Stream(0, "near").normal(count, codec.shape, dtype=torch.float64)])


@pytest.mark.parametrize(
    "text",
    [text for text in KEPT if any(sign in text for sign in ("<", ">", "|", "!")) and text != "member=true|false"],
)
def test_law_a_constraint_holds_of_an_encoded_row_where_its_value_is_meant(
    model: Bundle, people: pa.Table, text: str
) -> None:
    # Caught: an edge that is half a bin off, a vertex of another name, a flag counted as a number of the value.
    codec, (name, keeps) = codec_of(model), KEPT[text]
    given = given_row(codec, wishes([text]))
    x = random_rows(codec, people)
    if name == "port":
        # Of a value that is given it is said that it is there; a missing one is half way between all names.
        x = x[codec.decode(x).columns[name].is_valid().to_numpy()]
    column = next(column for column in codec.columns if column.name == name)
    number = column.values.ranks if isinstance(column.values, Ordered) else column.values
    if isinstance(number, Number):
        # Beyond the range that was seen a number is brought back into it, and no draw is wanted there.
        low, high = number.between(Between())
        last = codec.place(name).stop - 1
        x = x[(x[:, last] > low) & (x[:, last] < high)]
    values = codec.decode(x).columns[name].to_pylist()
    expected = [keeps(value) for value in values]
    if text != "gain>=0":
        assert 0 < sum(expected) < len(values)
    constraints: tuple[Constraint, ...] = given.constraints
    assert len(constraints) == 1
    assert constraints[0].holds(x.unsqueeze(0))[0].tolist() == expected


def test_what_is_known_is_what_is_said(model: Bundle) -> None:
    codec = codec_of(model)
    for text, places in {
        "age=33": range(codec.place("age").start, codec.place("age").stop),
        "age>33": (),
        "gain=0": range(codec.place("gain").start, codec.place("gain").stop),
        "port=S": range(codec.place("port").start, codec.place("port").stop),
        "port!=S": [codec.place("port").start],
        "port=": [codec.place("port").start],
        "member=true|false": (),
    }.items():
        given = given_row(codec, wishes([text]))
        assert given.known.nonzero()[:, 1].tolist() == list(places), text
        assert given.cells.centre.shape == (1, *codec.shape)
        assert (given.constraints == ()) == (text in ("age=33", "gain=0", "port=S", "port=", "member=true|false"))
    flag = codec.place("port").start
    wanted: list[tuple[Any, int]] = [(None, 1), ("S", 0), (Among(("S",)), 0)]
    for wish, absent in wanted:
        assert int(FLAG.nearest(given_row(codec, {"port": wish}).cells.centre[:, flag : flag + 1])) == absent


# -- refusals ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "ages=3": "no column 'ages', did you mean 'age'.*there are",
    "nothing=3": "no column 'nothing'; there are",
    "id=3": "column 'id' is not modelled: every whole number from 1000 to 1599 once",
    "fixed=7": "column 'fixed' is 7 in every row, nothing depends on it",
    "void=7": "column 'void' is None in every row",
    "port=Z": "port=Z: it was never 'Z' in training, known are C, Q, S",
    "port=Z|S": "port: was never 'Z' in training, known are C, Q, S",
    "port!=Z": "port: was never 'Z' in training",
    "port=S|": "port: was never '' in training",
    "port!=S|Q|C": "port: none of its values is meant, known are C, Q, S",
    "port>S": "port: its values are names without an order",
    "member>0.5x": "a range of numbers has numbers as its ends",
    "size=XS": "size=XS: it was never 'XS' in training, known are S, M, L, XL",
    "size>XS": "size: no 'XS' in the order S < M < L < XL",
    "size>XL": "size: no value is meant.*S < M < L < XL",
    "size!=S": "size: .* can be given a value or a range",
    "age=x": "age=x: the column holds int64",
    "age=3.5": "age=3.5: the column holds int64",
    "age=": "age=: it was never missing in training",
    "age=1|2": "age: .* can be given a value or a range",
    "age>x": "age: a range of numbers has numbers as its ends: .*'x'",
    "age>": "age: a range of numbers has numbers as its ends",
    "age>nan": "age: a range has no end that is not a number",
    "age>88": "age: no value is meant, there were 18 to 88 in training",
    "age<18": "age: no value is meant, there were 18 to 88 in training",
    "age>inf": "age: no value is meant",
    "weight=nan": "weight=nan: it is nan, expected a finite number",
    "weight=1e40": "weight=1e\\+40: it is 1e\\+40, expected a finite number",
    "weight>1e9": "weight: no value is meant, there were",
    "gain<0": "gain: no value is meant, there were 0 to",
    "stars>5": "stars: none of its values is meant, known are 1, 2, 3, 4, 5",
    "stars=6": "stars=6: it was never 6 in training",
    "stars=6|1": "stars: was never 6 in training",
    "stars=a|b": "stars=a: the column holds int32",
    "member=maybe": "member=maybe: the column holds bool",
    "day>2020-01-01": "day: dates by .* can be given a value",
    "day=yesterday": "day=yesterday: the column holds date32",
}


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*arguments: object) -> None:
        raise AssertionError("the network was called")

    monkeypatch.setattr("scorefield.model.NetworkDenoiser._input_scales", asked)


@pytest.mark.parametrize("text", REFUSED)
def test_what_makes_no_sense_is_refused_before_the_network_is_asked(model: Bundle, unasked: None, text: str) -> None:
    with pytest.raises(OptionError, match=REFUSED[text]) as caught:
        rows(model, text)
    assert "--given" in str(caught.value)
    with pytest.raises(OptionError, match=REFUSED[text]):
        model.blank(given=wishes([text]))


@pytest.mark.parametrize("options", [{"sampler": "heun"}, {"steps": 5}, {"tolerance": 0.1}, {"on_step": print}])
def test_a_sampler_of_a_name_is_refused_where_columns_are_given(
    model: Bundle, unasked: None, options: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match="drawn by a particle filter, not by a sampler"):
        model.sample(2, given={"age": 40}, **options)


def test_the_guard_of_the_refusals_sees_a_call(model: Bundle, unasked: None) -> None:
    with pytest.raises(AssertionError, match="the network was called"):
        rows(model, "age=40")


def test_of_few_known_values_none_beyond_their_ends_is_given() -> None:
    ages = np.append(np.arange(1.0, 61.0).repeat(5), [10.25] * 9)
    codec = TableCodec.fit(Table(pa.table({"age": ages, "x": np.arange(len(ages)) / 7})))
    assert given_row(codec, {"age": 10.25}).values == {"age": 10.25}
    for age in (0.0, 90.0):
        with pytest.raises(OptionError, match=f"--given age={age}: there were age: 61 different values, 1 to 60"):
            given_row(codec, {"age": age})


def test_any_value_but_a_missing_one_may_be_asked_for(model: Bundle) -> None:
    assert wishes(["deck!="]) == {"deck": Among((), other=True)}
    codec = TableCodec.fit(Table(pa.table({"deck": ["a", None, "b"] * 9, "x": [1.5, None, 2.25] * 9})))
    for name in ("deck", "x"):
        asked = given_row(codec, {name: Among((), other=True)})
        assert asked.constraints == ()
        assert int(asked.known.sum()) == 1  # whether it is there
        assert float(asked.cells.centre[asked.known]) == 1.0


def test_a_name_with_a_bar_is_no_choice() -> None:
    codec = TableCodec.fit(Table(pa.table({"v": ["a|b", "a", "b"] * 9, "x": np.arange(27) / 7})))
    assert given_row(codec, wishes(["v=a|b"])).values == {"v": "a|b"}
    assert len(given_row(codec, wishes(["v=b|a"])).constraints) == 1


def test_models_of_no_table_know_no_columns() -> None:
    settings = ["network.width=16", "training.steps=3", "training.batch=16"]
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    bundle = api.fit(x, override(recipes.edm(), settings), device="cpu")
    with pytest.raises(OptionError, match="not conditioned on"):
        bundle.sample(2, given={"0": 1.0})
