"""Losses of objectives_cost.py written by hand: no library but its network, and each way that PyTorch has to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from scorefield.networks.mlp import MLP

SIGMA_DATA = 1.0

Form = Callable[[MLP, "Batch"], Tensor]


class Drawn:
    """Random numbers as one draws them by hand, fresh in each step."""

    def normal(self, x: Tensor) -> Tensor:
        """ε."""
        return torch.randn_like(x)

    def signs(self, x: Tensor) -> Tensor:
        """v."""
        return torch.randint_like(x, 2).mul_(2).sub_(1)

    def log_sigma(self, rows: int) -> Tensor:
        """Log-normal noise, (rows, 1) (Karras et al. 2022, Table 1)."""
        return 1.2 * torch.randn(rows, 1) - 1.2


class Given(Drawn):
    """The same numbers in every step, which cost nothing."""

    def __init__(self, x: Tensor) -> None:
        self._normal, self._signs, self._log_sigma = super().normal(x), super().signs(x), super().log_sigma(len(x))

    def normal(self, x: Tensor) -> Tensor:
        return self._normal

    def signs(self, x: Tensor) -> Tensor:
        return self._signs

    def log_sigma(self, rows: int) -> Tensor:
        return self._log_sigma


@dataclass(frozen=True)
class Batch:
    """Noisy data, and the score as p x + q F(c_in x) there; the loss in F is the loss in the score times weight."""

    x: Tensor
    v: Tensor
    target: Tensor
    sigma: Tensor
    c_in: Tensor
    c_noise: Tensor
    p: Tensor
    q: Tensor
    weight: Tensor


def batch(x0: Tensor, numbers: Drawn, probes: bool) -> Batch:
    """Noise added and all coefficients; the target is F of x0 and ε, (x0 − c_skip x)/c_out."""
    log_sigma, epsilon = numbers.log_sigma(len(x0)), numbers.normal(x0)
    sigma = log_sigma.exp()
    total = SIGMA_DATA**2 + sigma**2
    c_in = total.rsqrt()
    x, q = x0 + sigma * epsilon, SIGMA_DATA * c_in / sigma
    if probes:
        v, target = numbers.signs(x0), x
    else:
        v, target = x, (x0 - (SIGMA_DATA * c_in) ** 2 * x) / (sigma * SIGMA_DATA * c_in)
    weight = (q.square() * x0.shape[1]).reciprocal().squeeze(1)
    return Batch(x, v, target, sigma, c_in, log_sigma.squeeze(1) / 4, -1 / total, q, weight)


def hand_step(network: MLP, form: Form, x0: Tensor, numbers: Drawn) -> Callable[[], None]:
    """Gradients of a loss written by hand."""
    parameters, needs_probes = list(network.parameters()), form in (double, jvp, dual, differences)

    def run() -> None:
        for parameter in parameters:
            parameter.grad = None
        form(network, batch(x0, numbers, needs_probes)).mean().backward()

    return run


def score_of(network: MLP, b: Batch) -> Callable[[Tensor], Tensor]:
    return lambda x: b.p * x + b.q * network(b.c_in * x, b.c_noise)


def implicit(b: Batch, score: Tensor, trace: Tensor) -> Tensor:
    return (2 * trace + score.square().sum(1)) * b.weight


def denoising(network: MLP, b: Batch) -> Tensor:
    """One forward pass."""
    return (network(b.c_in * b.x, b.c_noise) - b.target).square().mean(1)


def double(network: MLP, b: Batch) -> Tensor:
    """One projection, differentiated twice."""
    x = b.x.requires_grad_()
    score = score_of(network, b)(x)
    (product,) = torch.autograd.grad(score, x, b.v, create_graph=True)
    return implicit(b, score, (product * b.v).sum(1))


def jvp(network: MLP, b: Batch) -> Tensor:
    """One projection by torch.func, forward."""
    score, product = torch.func.jvp(score_of(network, b), (b.x,), (b.v,))
    return implicit(b, score, (product * b.v).sum(1))


def dual(network: MLP, b: Batch) -> Tensor:
    """One projection by dual numbers."""
    with forward_ad.dual_level():
        score, product = forward_ad.unpack_dual(score_of(network, b)(forward_ad.make_dual(b.x, b.v)))
    return implicit(b, score, (product * b.v).sum(1))


def differences(network: MLP, b: Batch) -> Tensor:
    """Both sides of the difference in one forward pass."""
    step = 0.1 * b.sigma * b.v
    x, p, q = torch.cat((b.x + step, b.x - step)), torch.cat((b.p, b.p)), torch.cat((b.q, b.q))
    outputs = network(torch.cat((b.c_in, b.c_in)) * x, torch.cat((b.c_noise, b.c_noise)))
    right, left = (p * x + q * outputs).chunk(2)
    trace = (b.v * (right - left) / (0.2 * b.sigma)).sum(1)
    return (2 * trace + (right.square() + left.square()).sum(1) / 2) * b.weight


def loop(network: MLP, b: Batch) -> Tensor:
    """The trace by D backward passes."""
    x = b.x.requires_grad_()
    score = score_of(network, b)(x)
    trace = torch.zeros(len(x))
    for i in range(x.shape[1]):
        (slope,) = torch.autograd.grad(score[:, i].sum(), x, create_graph=True)
        trace = trace + slope[:, i]
    return implicit(b, score, trace)


def batched(network: MLP, b: Batch) -> Tensor:
    """The trace by D backward passes at once."""
    x = b.x.requires_grad_()
    score, (rows, size) = score_of(network, b)(x), x.shape
    directions = torch.eye(size)[:, None, :].expand(size, rows, size)
    (slopes,) = torch.autograd.grad(score, x, directions, is_grads_batched=True, create_graph=True)
    return implicit(b, score, torch.einsum("ibi->b", slopes))


def vmap(network: MLP, b: Batch) -> Tensor:
    """The trace by D forward derivatives at once."""

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(score_of(network, b), (b.x,), (direction.expand_as(b.x),))

    score, slopes = torch.func.vmap(along, out_dims=(None, 0))(torch.eye(b.x.shape[1]))
    return implicit(b, score, torch.einsum("ibi->b", slopes))


def closed(network: MLP, b: Batch) -> Tensor:
    """The trace of two hidden layers in closed form."""
    first, second, out = network.first, network.hidden[0], network.out
    assert isinstance(second, nn.Linear)
    size = b.x.shape[1]
    z = first(torch.cat((b.c_in * b.x, b.c_noise.unsqueeze(1), network.waves(b.c_noise)), dim=1))
    gate = torch.sigmoid(z)
    h = z * gate
    z_above = second(h)
    gate_above = torch.sigmoid(z_above)
    h_above = z_above * gate_above
    slope, slope_above = gate + h * (1 - gate), gate_above + h_above * (1 - gate_above)
    mixed = second.weight * (first.weight[:, :size] @ out.weight).T
    trace = (functional.linear(slope, mixed) * slope_above).sum(1)
    score = b.p * b.x + b.q * out(h_above)
    return implicit(b, score, b.p.squeeze(1) * size + (b.q * b.c_in).squeeze(1) * trace)


def energy(network: MLP, b: Batch) -> Tensor:
    """Denoising by the gradient of ⟨u, f(u)⟩."""
    u = (b.c_in * b.x).requires_grad_()
    (output,) = torch.autograd.grad((u * network(u, b.c_noise)).sum(), u, create_graph=True)
    return (output - b.target).square().mean(1)


HAND: dict[Form, tuple[str, str]] = {
    denoising: ("denoising", "one forward"),
    double: ("sliced", "double"),
    jvp: ("sliced", "jvp"),
    dual: ("sliced", "dual"),
    differences: ("finite difference", "one forward"),
    energy: ("energy", "double"),
    closed: ("exact trace", "closed"),
    loop: ("exact trace", "loop"),
    batched: ("exact trace", "batched"),
    vmap: ("exact trace", "vmap"),
}
