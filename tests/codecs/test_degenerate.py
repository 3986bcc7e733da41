"""Columns that determine each other are named, and those that nearly do are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scorefield.codecs.array import ArrayCodec
from scorefield.codecs.degenerate import degenerate
from scorefield.data import Array


def covariance(values: np.ndarray) -> torch.Tensor:
    """Of encoded rows, which are float32."""
    return ArrayCodec.fit(Array(values)).encode(Array(values)).double().T.cov()


@pytest.mark.parametrize("case", ["copy", "other units", "constant sum"])
def test_columns_that_are_linear_functions_of_each_other_are_named(case: str) -> None:
    free = np.random.default_rng(0).normal(size=(2000, 4))
    last = {"copy": free[:, 1], "other units": 32 - 1.8 * free[:, 1], "constant sum": 1 - free[:, 1] - free[:, 3]}[case]
    found = degenerate(covariance(np.column_stack([free, last])), ["a", "b", "c", "d", "e"])
    assert found is not None
    named = {"copy": "'b', 'e'", "other units": "'b', 'e'", "constant sum": "'b', 'd', 'e'"}[case]
    assert found.startswith(f"columns {named} are linear functions")
    assert "leave 1 of them out" in found


def test_columns_that_nearly_are_pass() -> None:
    free = np.random.default_rng(0).normal(size=(2000, 3))
    near = np.column_stack([free, free[:, 0] + 1e-4 * np.random.default_rng(1).normal(size=2000)])
    assert degenerate(covariance(near), ["a", "b", "c", "d"]) is None
    assert degenerate(torch.ones(1, 1), ["a"]) is None
    assert degenerate(torch.ones(0, 0), []) is None


def test_many_columns_are_listed_in_part() -> None:
    found = degenerate(torch.ones(30, 30), [f"c{i}" for i in range(30)])
    assert found is not None
    assert "and 20 more" in found
    assert "leave 29 of them out" in found
