"""A table of every kind of column, and a model of any table without training: the Gaussian of its encoded rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from scorefield import recipes
from scorefield.bundle import Bundle
from scorefield.data import Table
from scorefield.features import Features
from scorefield.model import NetworkDenoiser
from scorefield.moments import measure_moments
from scorefield.noise import EDM
from scorefield.noise_range import NoiseRange
from scorefield.parametrization import X0

GaussianOf = Callable[..., Bundle]


class _Nothing(nn.Module):
    """F = 0, in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.gain * x


@pytest.fixture(scope="session")
def gaussian_of() -> GaussianOf:
    """Called with a table, conditions and types of columns, it gives a bundle of a whitened network of zero."""

    def make(table: pa.Table, condition: Sequence[str] = (), types: Mapping[str, str] | None = None) -> Bundle:
        data = Table(table)
        features = Features.fit(data, condition, 0, types)
        model = NetworkDenoiser(_Nothing(), EDM(0.01, 40.0), X0, 1.0, features.condition_features, whitened=True)
        model.moments = measure_moments(features.measured_rows(data))
        return Bundle(model.eval().requires_grad_(False), features, recipes.edm(), cast(NoiseRange, None), {})

    return make


@pytest.fixture(scope="session")
def people() -> pa.Table:
    """Whole numbers, decimals, continuous ones, a spike, few numbers, names with gaps, truth values, sizes, dates."""
    random, rows = np.random.default_rng(0), 600
    age = np.clip(random.normal(45, 14, rows).round(), 18, 90).astype(np.int64)
    port = random.choice(["S", "Q", "C"], rows, p=[0.5, 0.3, 0.2]).astype(object)
    port[random.random(rows) < 0.15] = None
    return pa.table(
        {
            "age": age,
            "height": np.round(random.normal(170, 9, rows) + 0.1 * age, 1),
            "weight": random.normal(70, 10, rows) + 0.2 * age,
            "gain": np.where(random.random(rows) < 0.5, 0, (random.lognormal(4, 0.6, rows) + age).astype(np.int64)),
            "stars": random.integers(1, 6, rows).astype(np.int32),
            "port": pa.array(port, pa.string()),
            "member": random.random(rows) < 0.4,
            "size": random.choice(["S", "M", "L", "XL"], rows),
            "day": pa.array([date(2020, 1, 1) + timedelta(int(n)) for n in random.integers(0, 900, rows)]),
            "fixed": np.full(rows, 7, np.int16),
            "void": pa.nulls(rows),
            "id": np.arange(1000, 1000 + rows),
        }
    )
