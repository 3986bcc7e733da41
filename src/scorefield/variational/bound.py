"""The bound on −log p(x0) of the walk that samples: over a grid of levels, and for infinitely many.

−log p(x0) ≤ L_T + Σ L_{t→s} + L_0                             (Ho et al. 2020, Eq. 5, arXiv:2006.11239)   (1)
−log p(x0) ≤ L_T + ½ ∫ E‖ε − ε̂‖² dλ + L_0,   λ = log snr       (Kingma et al. 2021, arXiv:2107.00630)      (2)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from scorefield.errors import OptionError
from scorefield.mixing import mix
from scorefield.model import Denoiser
from scorefield.noise import Schedule
from scorefield.randomness import Noise, Stream
from scorefield.variational.bins import Bins
from scorefield.variational.step import StepVariance, fixed_large, learned_or_small
from scorefield.variational.terms import decoder_term, error_in_x0, prior_term, step_term


@dataclass(frozen=True, eq=False)
class Bound:
    """An upper bound on −log p(x0) in nats, with its parts; each is float64 and summed over a row's elements.

    Args:
        prior: L_T, (B,).
        steps: L_{t→s}, (K, B), from much noise to little.
        decoder: L_0, (B,).
        std_error: of the total, over the draws, (B,); NaN from one draw.
        elements: D, numbers in a row.
        integers: whether the decoder gives probabilities of bins, and not a density.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor
    std_error: Tensor
    elements: int
    integers: bool

    @property
    def total(self) -> Tensor:
        """L_T + Σ L_{t→s} + L_0, (B,) nats."""
        return self.prior + self.steps.sum(0) + self.decoder

    @property
    def bits_per_dim(self) -> Tensor:
        """total/(D log 2), (B,).

        Raises:
            OptionError: for continuous data: a density has no length in bits.
        """
        if not self.integers:
            raise OptionError("bits per dimension are of integers: compute the bound with bins")
        return self.total / (self.elements * math.log(2))


def bound(
    model: Denoiser,
    x0: Tensor,
    grid: Tensor,
    *,
    seed: int,
    rows: range | None = None,
    variance: StepVariance = learned_or_small,
    bins: Bins | None = None,
    draws: int = 1,
) -> Bound:
    """The bound (1) of the walk down a grid, one ε for each term and draw.

    The model is asked level by level, so this needs no more memory than sampling.

    Args:
        model: the denoiser.
        x0: (B, *shape).
        grid: levels, (K,) float64, falling, as of the sampler; all T of DDPM's for the bound that it trains.
        seed: of the noise, Noise(Stream(seed, "variational bound"), rows, draw · K + place in the grid).
        rows: what number each row has in its data set, by default from 0: a row's result depends on no other row.
        variance: which v the walk adds.
        bins: what x0 stands for where it is made of integers.
        draws: how often ε is drawn for each term; the terms are means over them.

    Raises:
        OptionError: for a grid that does not fall or ends without noise, and wrong options.
    """
    rows = _checked(model.schedule, x0, grid, rows, draws)
    stream, terms = Stream(seed, "variational bound"), x0.new_zeros((draws, len(grid), len(x0)), dtype=torch.float64)
    with torch.no_grad():
        for draw in range(draws):
            for place, t in enumerate(grid):
                noise = Noise(stream, rows, draw * len(grid) + place)
                if place + 1 < len(grid):
                    term = step_term(model, x0, t, grid[place + 1], noise, variance)
                else:
                    term = decoder_term(model, x0, t, noise, variance, bins)
                terms[draw, place] = _summed(term)
        return _gathered(_summed(prior_term(model, x0, grid[0])), terms, x0, bins)


def continuous_bound(
    model: Denoiser,
    x0: Tensor,
    *,
    seed: int,
    rows: range | None = None,
    bins: Bins | None = None,
    times: int = 100,
    draws: int = 1,
) -> Bound:
    """The bound (2) of infinitely many steps over the schedule's range (Kingma et al. 2021, Eq. 17, arXiv:2107.00630).

    λ is drawn with density ∝ h/(1 + h), h = snr σ_data²: what ‖ε − ε̂‖² is at its least where data are Gaussian. One
    draw of λ falls into each of `times` strata of equal probability, whose shares of (2) are the `steps` of the result.
    The variance of the walk, β = β̃, is no choice any more; the decoder's is σ² at t_min.

    Args:
        model, x0, seed, rows, bins, draws: as for `bound`; the stream's name is "continuous bound".
        times: number of strata.
    """
    ends = torch.tensor([model.schedule.t_max, model.schedule.t_min], dtype=torch.float64, device=x0.device)
    rows = _checked(model.schedule, x0, ends, rows, min(draws, times))
    stream, shift = Stream(seed, "continuous bound"), 2 * math.log(model.sigma_data)
    # ∫ h/(1 + h) dλ = softplus(λ + 2 log σ_data), which is finite for a flow's λ = −∞ too.
    low, high = softplus(model.schedule.at(ends).log_snr + shift, threshold=50)
    terms = x0.new_zeros((draws, times + 1, len(x0)), dtype=torch.float64)
    with torch.no_grad():
        for draw in range(draws):
            for place in range(times):
                noise = Noise(stream, rows, draw * (times + 1) + place)
                u = stream.uniform(rows, step=noise.step, draw=1, device=x0.device)
                area = low + (place + u) / times * (high - low)
                log_snr = area + torch.log(-torch.expm1(-area)) - shift
                t = model.schedule.time_of(log_snr).clamp(model.schedule.t_min, model.schedule.t_max)
                level, epsilon = model.schedule.at(t, like=x0), noise.like(x0)
                error = error_in_x0(model(mix(level.alpha, x0, level.sigma, epsilon), t), x0, epsilon)
                density = 1 / (level.snr + model.sigma_data**-2)  # h/(1 + h), divided by the snr of ‖ε − ε̂‖²
                terms[draw, place] = _summed(error**2 / density) * (high - low) / (2 * times)
            last = Noise(stream, rows, draw * (times + 1) + times)
            terms[draw, times] = _summed(decoder_term(model, x0, ends[1], last, fixed_large, bins))
        return _gathered(_summed(prior_term(model, x0, ends[0])), terms, x0, bins)


def _gathered(prior: Tensor, terms: Tensor, x0: Tensor, bins: Bins | None) -> Bound:
    """The result from terms (draws, K + 1, B), the decoder's last."""
    totals, mean = terms.sum(1), terms.mean(0)
    std_error = torch.full_like(prior, math.nan)
    if len(totals) > 1:
        std_error = totals.std(0) / math.sqrt(len(totals))
    return Bound(prior, mean[:-1], mean[-1], std_error, x0[0].numel(), bins is not None)


def _checked(schedule: Schedule, x0: Tensor, grid: Tensor, rows: range | None, least: int) -> range:
    """The numbers of the rows, after all that can be wrong was looked at."""
    rows = range(len(x0)) if rows is None else rows
    if len(rows) != len(x0) or not len(x0):
        raise OptionError(f"the bound needs a number for each of its rows, got {len(rows)} for {len(x0)}")
    if grid.ndim != 1 or not len(grid) or not bool(grid.isfinite().all() and (grid[1:] < grid[:-1]).all()):
        raise OptionError("a grid is a list of levels that falls from its first to its last and is finite")
    if not bool(schedule.at(grid[-1]).sigma > 0):
        raise OptionError(f"the last level of a walk needs noise, t = {float(grid[-1]):g} has none")
    if least < 1:
        raise OptionError(f"draws and times must be at least 1, got {least}")
    return rows


def _summed(term: Tensor) -> Tensor:
    return term.reshape(len(term), -1).sum(1)
