"""The schedules of the guidance tests; their mixtures are those of `benchmarks/conditionals.py`."""

import sys
from pathlib import Path

import pytest

from scorefield.noise import Schedule

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from _conditional_problems import SCHEDULES


@pytest.fixture(params=list(SCHEDULES.values()), ids=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """EDM, VP and flow in turn."""
    return request.param
