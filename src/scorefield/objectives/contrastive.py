"""Contrastive divergence: maximum likelihood of an energy, with draws of the model from a Markov chain.

    −∇_θ log p_θ(x) = ∇_θ E(x) − E_{x⁻ ~ p_θ} ∇_θ E(x⁻)                                                  (1)

The chain gives x⁻ and is not differentiated. Started at the data and run for k moves it is CD-k; going on from batch to
batch it is persistent. Both are the baseline that score matching, which needs no draws, has to beat. The value of these
losses says nothing, only their gradient does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scorefield.energies import EnergyModel, with_energy
from scorefield.errors import OptionError
from scorefield.model import ScoreModel
from scorefield.noise import Clean
from scorefield.objectives.criteria import noisy
from scorefield.randomness import Noise, Stream


class Chain(Protocol):
    """Moves that leave p_t as it is, such as the correctors of `samplers.langevin`.

    Their step is a share of σ_t: at a level without noise they stand still, and there is nothing to learn from.
    """

    def __call__(self, model: ScoreModel, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Move x (B, *shape) within its levels t, (B,)."""
        ...


@dataclass(frozen=True)
class ContrastiveDivergence:
    """(E(x_t) − E(x⁻))/D with x⁻ = chain(x_t): CD-k for k moves (Hinton 2002, doi:10.1162/089976602760128018).

    Its expected gradient is that of −log p_t(x_t)/D in the limit of long chains; the gradient of x⁻ in the weights,
    which short chains owe, is left out as everywhere.

    Args:
        chain: k moves at the times of the rows.
        regularisation: a of + a(E(x_t)² + E(x⁻)²)/D, which keeps energies near zero (Du & Mordatch 2019,
            arXiv:1903.08689).
    """

    chain: Chain
    regularisation: float = 0.0

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        energies = _with_energy(model)
        x_t, _, _ = noisy(model, x0, t, noise)
        x_t = x_t.detach()
        with torch.no_grad():
            x = self.chain(model, x_t, t, _for_chain(noise)).detach()
        data, drawn = energies.energy(x_t, t), energies.energy(x, t)
        return (data - drawn + self.regularisation * (data.square() + drawn.square())) / x0[0].numel()

    def held_out(self) -> None:
        """None: the value is near zero whatever the model."""


class PersistentContrastiveDivergence:
    """(E(x_t) − mean E(x⁻))/D with x⁻ that go on from batch to batch, at one noise level (Tieleman 2008, "Training
    restricted Boltzmann machines using approximations to the likelihood gradient").

    The chains begin at the noisy data of the first batch. They move once a call that can be differentiated, and stand
    still under `no_grad`, as when held-out data are looked at.

    Args:
        chain: the moves of one call.
        chains: how many go on.
        restart: the share of them that begins anew at noisy data with each call (Du & Mordatch 2019, §3.2,
            arXiv:1903.08689, restart 5 % from noise).
        regularisation: as in `ContrastiveDivergence`.

    Attributes:
        particles: where the chains are, (chains, *shape), or None before the first batch.
        calls: how often they moved; with the seed of the noise it is the key of what moves them.
        t: the level that they belong to, or None before the first batch.
    """

    def __init__(self, chain: Chain, chains: int = 256, restart: float = 0.01, regularisation: float = 0.0) -> None:
        if chains < 1 or not 0 <= restart <= 1:
            raise OptionError(f"persistent chains: chains ≥ 1 and 0 ≤ restart ≤ 1 expected, got {chains} and {restart}")
        self.chain, self.chains, self.restart, self.regularisation = chain, chains, restart, regularisation
        self.particles: Tensor | None = None
        self.calls = 0
        self.t: float | None = None

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """As `criteria.Criterion`.

        Raises:
            OptionError: for a model without an energy, and for times that are not all the level of the chains.
        """
        energies = _with_energy(model)
        x_t, _, _ = noisy(model, x0, t, noise)
        x_t = x_t.detach()
        level = self._level(t)
        x = self._moved(model, x_t, level, _for_chain(noise)) if torch.is_grad_enabled() else self._at_first(x_t)
        data, drawn = energies.energy(x_t, t), energies.energy(x, level)
        squares = data.square() + drawn.square().mean()
        return (data - drawn.mean() + self.regularisation * squares) / x0[0].numel()

    def held_out(self) -> None:
        """None: the value is near zero whatever the model."""

    def state(self) -> dict[str, Tensor]:
        """Where the chains are, as tensors that can be saved: particles, calls and t; empty before the first batch."""
        if self.particles is None or self.t is None:
            return {}
        return {
            "particles": self.particles.clone(),
            "calls": torch.tensor(self.calls),
            "t": torch.tensor(self.t, dtype=torch.float64),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`.

        Raises:
            OptionError: for another number of chains, or a state that lacks a part.
        """
        if not state:
            self.particles, self.calls, self.t = None, 0, None
            return
        if state.keys() != {"particles", "calls", "t"}:
            raise OptionError(f"a state of chains has particles, calls and t, got {', '.join(sorted(state))}")
        if len(state["particles"]) != self.chains:
            raise OptionError(f"a state of {self.chains} chains was expected, got one of {len(state['particles'])}")
        self.particles = state["particles"].clone()
        self.calls, self.t = int(state["calls"]), float(state["t"])

    def _level(self, t: Tensor) -> Tensor:
        """The one time of a batch, ()."""
        first = t.reshape(-1)[0]
        expected = float(first) if self.t is None else self.t
        if not bool((t == expected).all()):
            raise OptionError(
                f"persistent chains belong to one level, t = {expected:g}, and this batch has others: "
                "use times.Fixed, or ContrastiveDivergence"
            )
        return first

    def _at_first(self, x_t: Tensor) -> Tensor:
        """The particles, or where they would begin."""
        if self.particles is None:
            return _repeated(x_t, self.chains)
        return self.particles.to(device=x_t.device, dtype=x_t.dtype)

    def _moved(self, model: ScoreModel, x_t: Tensor, level: Tensor, noise: Noise) -> Tensor:
        x, rows = self._at_first(x_t), range(self.chains)
        if self.restart > 0:
            again = (
                Stream(noise.stream.seed, noise.stream.name + ", restart").uniform(rows, step=self.calls) < self.restart
            )
            fresh = _repeated(x_t.roll(self.calls, 0), self.chains)
            x = torch.where(again.to(x.device).reshape(-1, *[1] * (x.ndim - 1)), fresh, x)
        with torch.no_grad():
            # Keyed by the calls and not by the batch, whose rows may come in several parts of one step.
            x = self.chain(model, x, level.expand(self.chains), Noise(noise.stream, rows, self.calls)).detach()
        self.particles, self.calls, self.t = x, self.calls + 1, float(level)
        return x


def _for_chain(noise: Noise) -> Noise:
    """Noise of its own for a chain: its draws would else be those that made x_t."""
    return Noise(Stream(noise.stream.seed, noise.stream.name + ", chain"), noise.rows, noise.step)


def _repeated(x: Tensor, count: int) -> Tensor:
    """The rows of x over and over until they are `count`."""
    return torch.cat([x] * math.ceil(count / len(x)))[:count]


def _with_energy(model: ScoreModel) -> EnergyModel:
    if isinstance(model.schedule, Clean):
        raise OptionError("chains step by a share of the noise, and this model's schedule has none: give it levels")
    return with_energy(model, "contrastive divergence")
