"""The named objectives of the field, each a line: times, criterion, weight."""

from __future__ import annotations

from scorefield.objectives.criteria import Denoising
from scorefield.objectives.matching import ScoreMatching
from scorefield.objectives.times import LogNormal, LogUniform, Uniform, UniformIntegers
from scorefield.objectives.weights import one, sigma_squared
from scorefield.parametrization import EPSILON, SCORE, edm_f


def ncsn() -> ScoreMatching:
    """σ²-weighted denoising over discrete levels (Song & Ermon 2019, Eq. 6, arXiv:1907.05600)."""
    return ScoreMatching(UniformIntegers(), Denoising(SCORE), sigma_squared)


def ddpm_simple() -> ScoreMatching:
    """L_simple over discrete levels (Ho et al. 2020, Eq. 14, arXiv:2006.11239)."""
    return ScoreMatching(UniformIntegers(), Denoising(EPSILON), one)


def vp_simple() -> ScoreMatching:
    """L_simple in continuous time (Song et al. 2021, Eq. 7, arXiv:2011.13456)."""
    return ScoreMatching(Uniform(), Denoising(EPSILON), one)


def edm(sigma_data: float, mean: float = -1.2, std: float = 1.2) -> ScoreMatching:
    """Denoising in F under log-normal noise (Karras et al. 2022, Eq. 8 and Table 1, arXiv:2206.00364).

    Args:
        sigma_data: standard deviation of the data.
        mean, std: of log σ.
    """
    return ScoreMatching(LogNormal(mean, std), Denoising(edm_f(sigma_data)), one)


def log_uniform(sigma_data: float) -> ScoreMatching:
    """Denoising in F with log σ uniform: every factor of noise counts alike, for the score of points and tables.

    Args:
        sigma_data: standard deviation of the data.
    """
    return ScoreMatching(LogUniform(), Denoising(edm_f(sigma_data)), one)
