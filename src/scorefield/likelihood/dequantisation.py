"""Rounded values as bins: offsets u within a bin, uniform or fitted to the model, and the probability from densities.

A value on a grid stands for its bin, x(u) with u in [0, 1) for each number. Whatever the density q of u,

    P(bin) = E_q[w],  w = p(x(u)) δ / q(u),      E_q[log w] ≤ E[log 1/K Σ w_k] ≤ log P(bin)                      (1)

with p δ the density per bin. With q uniform this is uniform dequantisation (Theis et al. 2016, arXiv:1511.01844); with
q fitted, variational dequantisation (Ho et al. 2019, "Flow++", arXiv:1902.00275); with K draws, the importance-weighted
bound (Burda et al. 2016, arXiv:1509.00519), which meets the truth as K grows. Here q needs no network. For each number
of each row alone

    u = sigmoid(m + e^l ε),  ε = logit(v),  v uniform,      log q(u) = log v(1 − v) − l − log u(1 − u)            (2)

so that m = l = 0 is uniform, and Adam (Kingma & Ba 2015, arXiv:1412.6980) climbs E_q[log w] with the model's own score:

    ∂/∂z E_q[log w] = ∂ log p/∂u · u(1 − u) + 1 − 2u,  z = m + e^l ε,      ∂/∂l has e^l ε times that, + 1         (3)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from scorefield.errors import OptionError
from scorefield.randomness import Stream

Score = Callable[[Tensor], Tensor]

_RATE = 0.2  # of Adam, falling to nothing; in 150 steps m and l can go fifteen, farther than any bin needs
_MEMORY = (0.9, 0.95)  # short, since far from a narrow peak gradients are far larger than on it
# Of l; beyond 0, even, q gathers at the ends of a bin, from where few of its draws lead back to a peak.
_NARROWEST, _WIDEST = -12.0, 0.0
_BELOW_ONE = 1 - 2.0**-53


@dataclass(frozen=True, eq=False)
class Dequantiser:
    """A density q of the offsets of each row, (2).

    Args:
        centre, log_scale: m and l, (B, *shape) float64.
        gridded: (*shape) bool, the numbers that have bins; the others stay where they are, u = ½.
        rows: the numbers of the B rows in the whole request, which key their draws.
        seed: of the draws.
    """

    centre: Tensor
    log_scale: Tensor
    gridded: Tensor
    rows: range
    seed: int

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Offsets and their log density, in nats.

        Args:
            number: of the draw, from 0.

        Returns:
            u (B, *shape) float64 in [0, 1) and log q(u) (B,) float64, summed over the numbers that have bins.
        """
        stream = Stream(self.seed, "offsets within bins")
        v = stream.uniform(self.rows, self.gridded.shape, draw=number, device=self.centre.device)
        z = self.centre + self.log_scale.exp() * torch.logit(v)
        u = torch.where(self.gridded, torch.sigmoid(z).clamp(max=_BELOW_ONE), 0.5)
        log_q = v.log() + torch.log1p(-v) - self.log_scale - logsigmoid(z) - logsigmoid(-z)
        return u, torch.where(self.gridded, log_q, 0.0).flatten(1).sum(1)


def uniform(rows: range, gridded: Tensor, seed: int) -> Dequantiser:
    """Offsets spread evenly over each bin, log q = 0.

    Args:
        rows: their numbers in the whole request.
        gridded: (*shape) bool, on the device of the offsets.
        seed: of the draws.
    """
    nothing = torch.zeros((len(rows), *gridded.shape), dtype=torch.float64, device=gridded.device)
    return Dequantiser(nothing, nothing, gridded, rows, seed)


def variational(score: Score, rows: range, gridded: Tensor, seed: int, steps: int = 150) -> Dequantiser:
    """Offsets fitted to each row: from uniform ones, Adam's steps up the bound E_q[log w] by its gradient (3).

    Args:
        score: ∇ of log p(x(u)) in u, (B, *shape) for u (B, *shape) float64; see `through`. It is asked for twice in
            each step, for offsets mirrored about the middle of q.
        rows: their numbers in the whole request.
        gridded: (*shape) bool, on the device of the offsets.
        seed: of the draws.
        steps: of Adam.

    Raises:
        OptionError: for fewer than one step.
    """
    if steps < 1:
        raise OptionError(f"variational dequantisation needs at least 1 step, got {steps}")
    start = uniform(rows, gridded, seed)
    if not bool(gridded.any()):
        return start
    m, l = start.centre, start.log_scale  # noqa: E741 - the letters of (2)
    stream = Stream(seed, "fit of offsets within bins")
    first, second = ([torch.zeros_like(m), torch.zeros_like(m)] for _ in range(2))
    for step in range(steps):
        v = stream.uniform(rows, gridded.shape, step=step, device=m.device)
        ahead = l.exp() * torch.logit(v)
        slopes = [torch.zeros_like(m), torch.ones_like(m)]
        for away in (ahead, -ahead):
            u = torch.where(gridded, torch.sigmoid(m + away).clamp(max=_BELOW_ONE), 0.5)
            slope = score(u).double() * u * (1 - u) + 1 - 2 * u
            slopes = [slopes[0] + slope / 2, slopes[1] + away * slope / 2]
        moves = []
        for place, slope in enumerate(slopes):
            first[place] = _MEMORY[0] * first[place] + (1 - _MEMORY[0]) * slope
            second[place] = _MEMORY[1] * second[place] + (1 - _MEMORY[1]) * slope.square()
            mean, square = (a[place] / (1 - b ** (step + 1)) for a, b in zip((first, second), _MEMORY, strict=True))
            moves.append(_RATE * (1 - step / steps) * mean / (square.sqrt() + 1e-12))
        m, l = m + moves[0], (l + moves[1]).clamp(_NARROWEST, _WIDEST)  # noqa: E741
    kept = torch.where(gridded, m, 0.0), torch.where(gridded, l, 0.0)
    return Dequantiser(*kept, gridded, rows, seed)


def through(spread: Callable[[Tensor], tuple[Tensor, Tensor]], score: Score) -> Score:
    """The gradient of log p(x(u)) in u: the score at x, carried back through the map from offsets to encoded rows.

    Args:
        spread: u (B, *shape) to (x (B, *shape), log-Jacobian (B,)), as a codec's; the latter is taken as constant in u,
            as it is within a bin of an even scale.
        score: ∇ₓ log p(x), (B, *shape) for x (B, *shape) float64.
    """

    def pulled(u: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            offsets = u.detach().clone().requires_grad_()
            x, _ = spread(offsets)
        if not x.requires_grad:
            return torch.zeros_like(u)
        with torch.no_grad():
            slope = score(x.detach())
        with torch.inference_mode(False):
            (found,) = torch.autograd.grad(x, offsets, slope.detach().clone().to(x))
        return found

    return pulled


def mean_density(log_weights: Tensor, std_errors: Tensor) -> tuple[Tensor, Tensor]:
    """log 1/K Σ w_k of (1), and its standard error from the spread of the draws and from the error of each.

        error² = (1/K(K−1)) Σ (w_k/w̄ − 1)² + Σ (w_k/Σw · error_k)²

    to first order. The draws alone put the logarithm below log P by half the first sum on average. With one draw there
    is no spread, and only the second sum is returned.

    Args:
        log_weights: log p(x(u_k)) + log-Jacobian − log q(u_k), (K, B), nats.
        std_errors: of these, independent of each other, (K, B).

    Returns:
        (B,) and (B,), float64.
    """
    log_weights, draws = log_weights.double(), len(log_weights)
    shares = torch.softmax(log_weights, dim=0)
    squared = (shares * std_errors.double()).square().sum(0)
    if draws > 1:
        squared = squared + (draws * shares - 1).square().sum(0) / (draws * (draws - 1))
    return torch.logsumexp(log_weights, dim=0) - math.log(draws), squared.sqrt()


def bits_per_dim(log_prob: Tensor, elements: int) -> Tensor:
    """−log P/(D log 2), the bits that each integer of a row costs on average.

    log P is of the row's bins. A density p in units where a bin is δ wide gives log P = log p + D log δ, with δ = 1 for
    integers as they are, 1/256 for bins of [0, 1], and 2/255 for 0 … 255 brought to −1 … 1; a shift adds nothing. So
    the figure is the same in any units, and log p in nats of other units is not it: for bytes left in [0, 1] without
    their D log δ it would be 8 too low.

    Args:
        log_prob: log P of each row, nats, any shape.
        elements: D, integers in a row.

    Returns:
        of that shape, float64.
    """
    return -log_prob.double() / (elements * math.log(2))
