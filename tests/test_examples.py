"""Every example runs to its end, and holds what it claims."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
LONG = {"logistic_posterior"}  # run shorter below, and whole among the slow tests


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.stem not in LONG], ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} > LONG


@pytest.fixture
def logistic_posterior() -> ModuleType:
    """The example, without its `main` being called."""
    spec = importlib.util.spec_from_file_location("logistic_posterior", EXAMPLES[0].parent / "logistic_posterior.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["logistic_posterior"] = module
    spec.loader.exec_module(module)
    return module


def test_mini_batches_come_near_the_reference_in_a_short_run(logistic_posterior: ModuleType) -> None:
    # H₀: equal means, within 6 of their Monte Carlo errors, which few draws know to a tenth or two (31 coefficients:
    # false alarm below 1e-6), and deviations within a quarter. Caught: steps far too long for their mini-batches.
    exact, small = logistic_posterior.main(moves=1500)
    _, errors, widths = logistic_posterior.disagreement(small.summary, exact.summary)
    assert errors < 6
    assert widths < 0.25
    assert 0.45 < exact.acceptance < 0.7
    assert float(exact.summary.r_hat.max()) < 1.1
    _, coarse = logistic_posterior.main(moves=500, step=0.3, batch=5)
    assert logistic_posterior.disagreement(coarse.summary, exact.summary)[2] > 0.25


@pytest.mark.slow
def test_mini_batches_match_a_long_reference(logistic_posterior: ModuleType, capsys: pytest.CaptureFixture) -> None:
    # What the example claims: means within a tenth of a posterior deviation and 5 Monte Carlo errors (31 coefficients:
    # false alarm 2e-5), deviations within 5 %, the reference mixed by the rule R̂ ≤ 1.01 and the mini-batches nearly.
    exact, small = logistic_posterior.main()
    deviations, errors, widths = logistic_posterior.disagreement(small.summary, exact.summary)
    assert deviations < 0.1
    assert errors < 5
    assert widths < 0.05
    assert float(exact.summary.r_hat.max()) < 1.01
    assert float(small.summary.r_hat.max()) < 1.02
    assert "largest disagreement" in capsys.readouterr().out
    # Without a control variate and with small mini-batches it does not match: the check can fail.
    coarse = logistic_posterior.main(moves=4000, batch=8, control_variate=False)[1]
    assert logistic_posterior.disagreement(coarse.summary, exact.summary)[2] > 0.1
