"""Toy sets and scikit-learn's: keyed draws, the mixture against its own closed form, nothing from the network."""

from __future__ import annotations

import math
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from scorefield.data import Array, Images, Table, check_finite, read, remarks
from scorefield.data.sklearn_sets import SETS as SHIPPED
from scorefield.data.toy import SETS, read_toy, toy_mixture
from scorefield.errors import OptionError


@pytest.mark.parametrize("name", sorted(SETS))
def test_toy_sets_are_plain_data_and_row_i_is_always_the_same(name: str) -> None:
    found = read(f"toy:{name}")
    assert isinstance(found, Array)
    assert (found.values.shape, found.values.dtype) == ((50_000, 2), np.float32)
    check_finite(found)
    assert remarks(found) == ()
    np.testing.assert_array_equal(read_toy(name, 100).values, found.values[:100])
    assert not np.array_equal(read_toy(name, 100, seed=1).values, found.values[:100])


def test_the_mixture_is_drawn_from_its_closed_form() -> None:
    mixture, found = toy_mixture(), read("toy:mixture")
    assert isinstance(found, Array)
    x = torch.from_numpy(found.values).double()
    rows = len(x)
    covariance = mixture.covariance()
    # Each of the two means, four standard errors; by the normal's tails a false alarm in 1 of 8000 if the draw changes.
    error = (x.mean(0) - mixture.mean()) / (covariance.diagonal() / rows).sqrt()
    assert error.abs().max() < 4
    # Second moments: their own spread is estimated from the sample. Catches any wrong covariance or weight.
    centred = x - mixture.mean()
    products = torch.stack((centred[:, 0] ** 2, centred[:, 0] * centred[:, 1], centred[:, 1] ** 2), dim=1)
    expected = torch.stack((covariance[0, 0], covariance[0, 1], covariance[1, 1]))
    assert (((products.mean(0) - expected) / (products.std(0) / math.sqrt(rows))).abs() < 4).all()
    # The density integrates to one over a square that holds it all.
    axis = torch.linspace(-7, 7, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    assert abs(mixture.log_prob(grid).exp().sum().item() * (14 / 400) ** 2 - 1) < 1e-3


def test_the_mixture_has_eight_components_no_two_alike() -> None:
    mixture = toy_mixture()
    assert len(set(mixture.weights.tolist())) == 8
    assert len({tuple(values) for values in mixture.eigenvalues.tolist()}) == 8
    ratio = mixture.eigenvalues.max(1).values / mixture.eigenvalues.min(1).values
    assert ratio.min() > 1.2


def test_checkerboard_covers_alternate_squares_evenly() -> None:
    found = read("toy:checkerboard")
    assert isinstance(found, Array)
    cells = np.floor(found.values).astype(int)
    assert set((cells.sum(1) % 2).tolist()) == {0}
    _, counts = np.unique(cells, axis=0, return_counts=True)
    # Eight squares of 6250 ± 74 expected; five deviations.
    assert len(counts) == 8
    assert abs(counts - 6250).max() < 5 * 74


@pytest.mark.parametrize("name", SHIPPED)
def test_sets_that_ship_need_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    found = read(f"sklearn:{name}")
    check_finite(found)
    if name == "digits":
        assert isinstance(found, Images)
        assert (found.pixels.shape, found.maximum, int(found.pixels.max())) == ((1797, 8, 8, 1), 16, 16)
        assert found.labels is not None
        assert sorted(set(found.labels.tolist())) == list(range(10))
    else:
        assert isinstance(found, Table)
        if name != "linnerud":
            assert found.columns.column_names[-1] == "target"
            assert str(found.columns["target"].type) == ("double" if name == "diabetes" else "int64")


@pytest.mark.parametrize("name", ["olivetti_faces", "olivetti", "california_housing", "lfw_people", "openml"])
def test_promise_29_sets_that_would_be_downloaded_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="nothing is downloaded"):
        read(f"sklearn:{name}")


@pytest.mark.parametrize(
    ("name", "close"), [("toy:moon", "moons"), ("toy:Mixture", "mixture"), ("sklearn:digit", "digits")]
)
def test_unknown_names_get_the_list_and_the_closest(name: str, close: str) -> None:
    with pytest.raises(OptionError, match=f"did you mean '{close}'") as error:
        read(name)
    assert "there are" in str(error.value)


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'pyarrow', 'PIL', 'sklearn', 'pandas', 'polars'}"
    code = (
        "import sys, scorefield; before = set(sys.modules); import scorefield.data; "
        f"sys.exit(', '.join({heavy} & set(sys.modules) - before) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
