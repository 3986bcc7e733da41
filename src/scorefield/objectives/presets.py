"""The named objectives of the field, each a line: times, criterion, weight."""

from __future__ import annotations

from scorefield.model import ScoreModel
from scorefield.objectives.criteria import Denoising, Explicit
from scorefield.objectives.implicit import FiniteDifference, Implicit, Sliced
from scorefield.objectives.kernels import GaussianKernel, KernelDenoising, NoiseKernel
from scorefield.objectives.matching import ScoreMatching
from scorefield.objectives.times import (
    Fixed,
    Importance,
    ImportantLevels,
    LogNormal,
    LogUniform,
    TimeLaw,
    Uniform,
    UniformIntegers,
)
from scorefield.objectives.variational import Hybrid, VariationalBound
from scorefield.objectives.weights import diffusion_squared, half_snr_slope, one, sigma_squared
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, V, edm_f
from scorefield.variational.bins import Bins
from scorefield.variational.step import fixed_small

NOISELESS = Fixed(0.0)


def explicit(truth: ScoreModel, times: TimeLaw = NOISELESS) -> ScoreMatching:
    """Explicit score matching: the true score is known (Hyvärinen 2005, Eq. 2).

    Args:
        truth: has it.
        times: without noise unless another law is given.
    """
    return ScoreMatching(times, Explicit(truth), one)


def implicit(times: TimeLaw = NOISELESS) -> ScoreMatching:
    """Implicit score matching with the exact trace (Hyvärinen 2005, Eq. 4)."""
    return ScoreMatching(times, Implicit(), one)


def finite_difference(times: TimeLaw = NOISELESS, step: float = 0.1) -> ScoreMatching:
    """Finite-difference score matching (Pang et al. 2020, arXiv:2007.03317)."""
    return ScoreMatching(times, FiniteDifference(step=step), one)


def sliced(times: TimeLaw = NOISELESS, probes: int = 1) -> ScoreMatching:
    """Sliced score matching (Song et al. 2019, Eq. 8, arXiv:1905.07088)."""
    return ScoreMatching(times, Sliced(probes=probes, reduced_variance=False), one)


def sliced_reduced_variance(times: TimeLaw = NOISELESS, probes: int = 1) -> ScoreMatching:
    """Sliced score matching with ‖s‖² in full, SSM-VR (Song et al. 2019, arXiv:1905.07088)."""
    return ScoreMatching(times, Sliced(probes=probes), one)


def denoising(sigma: float) -> ScoreMatching:
    """Denoising at one σ (Vincent 2011, doi:10.1162/NECO_a_00142), for a network of x alone."""
    return ScoreMatching(NOISELESS, KernelDenoising(GaussianKernel(sigma**2)), one)


def denoising_with(kernel: NoiseKernel) -> ScoreMatching:
    """Denoising with any kernel whose score is known, for a network of x alone."""
    return ScoreMatching(NOISELESS, KernelDenoising(kernel), one)


def ncsn() -> ScoreMatching:
    """σ²-weighted denoising over discrete levels (Song & Ermon 2019, Eq. 6, arXiv:1907.05600)."""
    return ScoreMatching(UniformIntegers(), Denoising(SCORE), sigma_squared)


def ddpm_simple() -> ScoreMatching:
    """L_simple over discrete levels (Ho et al. 2020, Eq. 14, arXiv:2006.11239)."""
    return ScoreMatching(UniformIntegers(), Denoising(EPSILON), one)


def vp_simple() -> ScoreMatching:
    """L_simple in continuous time (Song et al. 2021, Eq. 7, arXiv:2011.13456)."""
    return ScoreMatching(Uniform(), Denoising(EPSILON), one)


def continuous_bound() -> ScoreMatching:
    """The variational bound in continuous time (Kingma et al. 2021, Eq. 17, arXiv:2107.00630)."""
    return ScoreMatching(Uniform(), Denoising(EPSILON), half_snr_slope)


def maximum_likelihood() -> ScoreMatching:
    """Likelihood weighting (Song et al. 2021, Eq. 7, arXiv:2101.09258)."""
    return ScoreMatching(Uniform(), Denoising(SCORE), diffusion_squared)


def maximum_likelihood_importance(sigma_data: float) -> ScoreMatching:
    """The same with t drawn by importance: the loss in F, up to a factor (`times.Importance`).

    Args:
        sigma_data: standard deviation of the data.
    """
    return ScoreMatching(Importance(sigma_data), Denoising(edm_f(sigma_data)), one)


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


def flow_matching() -> ScoreMatching:
    """Denoising in the velocity (Lipman et al. 2022, Eq. 23, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003)."""
    return ScoreMatching(Uniform(), Denoising(VELOCITY), one)


def flow_matching_logit_normal(mean: float = 0.0, std: float = 1.0) -> ScoreMatching:
    """The same with logit t normal (Esser et al. 2024, §3.1, arXiv:2403.03206): under `Flow`, log σ/α is logit t.

    Args:
        mean, std: of logit t.
    """
    return ScoreMatching(LogNormal(mean, std), Denoising(VELOCITY), one)


def v_prediction() -> ScoreMatching:
    """Denoising in v (Salimans & Ho 2022, §4, arXiv:2202.00512)."""
    return ScoreMatching(Uniform(), Denoising(V), one)


def ddpm_vlb(bins: Bins | None = None) -> ScoreMatching:
    """DDPM's variational bound with v = β̃, in nats for each dimension (Ho et al. 2020, Eq. 5, arXiv:2006.11239).

    Args:
        bins: of integers; None where data are continuous.
    """
    return ScoreMatching(UniformIntegers(), VariationalBound(fixed_small, bins), one)


def ddpm_vlb_importance(sigma_data: float, bins: Bins | None = None) -> ScoreMatching:
    """The same in expectation, with levels drawn as often as they matter (`times.ImportantLevels`).

    Args:
        sigma_data: standard deviation of the data.
        bins: of integers; None where data are continuous.
    """
    law = ImportantLevels(sigma_data)
    return ScoreMatching(law, VariationalBound(fixed_small, bins), law.weight)


def ddpm_hybrid(scale: float = 0.001, bins: Bins | None = None) -> ScoreMatching:
    """L_simple + scale·L_vlb, for models with a learned variance (Nichol & Dhariwal 2021, Eq. 16, arXiv:2102.09672).

    Args:
        scale: their λ.
        bins: of integers; None where data are continuous.
    """
    return ScoreMatching(UniformIntegers(), Hybrid(scale, bins), one)
