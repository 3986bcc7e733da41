"""The network of tables: a multilayer perceptron of (x, condition, noise), fast in plain PyTorch on a processor.

With waves(c), the sines and cosines of the noise coordinate c, and u = (x, condition, c, waves(c)),

    h_1     = silu(W_1 u + b_1)                  (1)
    h_{i+1} = silu(W_{i+1} h_i + b_{i+1})        (2)
    output  = W_out h_depth + b_out              (3)

where W_out = 0 and b_out = 0 at the start, so that an untrained network predicts zero everywhere.

The precision is the caller's. As it stands everything is in the type of the parameters; under
`torch.autocast(device, dtype=torch.bfloat16)` the products are in bfloat16, while parameters, gradients, input and
output keep their type. Each operation is PyTorch's own, so second derivatives (implicit and sliced score matching,
traces) exist in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from scorefield.errors import OptionError
from scorefield.networks.embeddings import Waves, linear


class MLP(nn.Module):
    """A multilayer perceptron from rows (B, *shape), their noise and a condition to (B, *shape).

    The arguments stay readable as attributes of the same names.

    Args:
        shape: shape of one row, () for scalars; a row is flattened to D numbers inside.
        width: features of each hidden layer.
        depth: number of hidden layers, 1 or more.
        condition_features: length k of the condition; 0 for a network without one.
        noise_frequencies: number of frequencies in waves(c), evenly spaced in their logarithm from 1/2 to 16 radians
            per unit of c: meant for a coordinate of order one, such as EDM's log(σ)/4 or a time in [0, 1].
        outputs: how many rows come out for one, one after the other along the first axis of a row's shape.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 256,
        depth: int = 4,
        condition_features: int = 0,
        noise_frequencies: int = 8,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        least = {"width": (width, 1), "depth": (depth, 1)}
        least |= {"condition_features": (condition_features, 0), "noise_frequencies": (noise_frequencies, 0)}
        least |= {"outputs": (outputs, 1)}
        for name, (value, lowest) in least.items():
            if value < lowest:
                raise OptionError(f"{name} must be {lowest} or more, got {value}")
        self.shape = tuple(shape)
        self.width = width
        self.depth = depth
        self.condition_features = condition_features
        self.noise_frequencies = noise_frequencies
        self.outputs = outputs

        size = math.prod(self.shape)
        self.waves = Waves(noise_frequencies, lowest=0.5, highest=16.0)
        # x, condition and noise get an equal say in h_1 whatever their lengths: each is a layer of its own at birth.
        parts = (size, condition_features, 1 + 2 * noise_frequencies)
        self.first = nn.Linear(sum(parts), width)
        self.first.weight = nn.Parameter(torch.cat([linear(part, width).weight.detach() for part in parts if part], 1))
        nn.init.zeros_(self.first.bias)
        self.hidden = nn.ModuleList([linear(width, width) for _ in range(depth - 1)])
        self.out = nn.Linear(width, outputs * size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """The output for each row.

        Args:
            x: rows, (B, *shape), of order one.
            c_noise: noise as the network reads it, (B,), or (1,) for all rows.
            condition: (B, k), or (1, k) for all rows; None means what a condition of zeros means.

        Returns:
            (B, *shape), in the type of x; with several outputs (B, outputs·shape[0], …).
        """
        h = functional.silu(self._first(self._entrance(x, c_noise, condition)))
        for layer in self.hidden:
            h = functional.silu(layer(h))
        return self._shaped(self.out(h), x)

    @property
    def has_closed_trace(self) -> bool:
        """Whether `output_and_trace` knows the trace without a derivative: with one or two hidden layers."""
        return self.depth <= 2

    def output_and_trace(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output and the trace of its slope in x, at about the cost of two outputs whatever D is.

        With d_i = silu′ at the i-th hidden layer and W_1 the part of the first weights that x meets,

            one hidden layer:   tr = d_1ᵀ diag(W_1 W_out)
            two:                tr = d_2ᵀ (W_2 ∘ (W_1 W_out)ᵀ) d_1

        Args:
            x, c_noise, condition: as when calling.

        Returns:
            the output, and the trace (B,) of its first D numbers, in the type of x.
        """
        if not self.has_closed_trace:
            raise ValueError(f"the trace is known for one or two hidden layers, these are {self.depth}")
        size = math.prod(self.shape)
        h, slope = _silu_and_slope(self._first(self._entrance(x, c_noise, condition)))
        into, out = self.first.weight[:, :size], self.out.weight[:size]
        if self.depth == 1:
            trace = slope @ (into * out.T).sum(1)
        else:
            layer = cast(nn.Linear, self.hidden[0])
            mixed = layer.weight * (into @ out).T
            h, slope_above = _silu_and_slope(layer(h))
            trace = (functional.linear(slope, mixed) * slope_above).sum(1)
        return self._shaped(self.out(h), x), trace.to(x.dtype)

    def _entrance(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        """u = (x, condition, c, waves(c)) of each row."""
        rows = x.reshape(x.shape[0], math.prod(self.shape))
        return torch.cat([rows, self._condition(rows, condition), self._noise(rows, c_noise)], dim=1)

    def _shaped(self, flat: Tensor, x: Tensor) -> Tensor:
        """Flat outputs in the shape and type of x, several along the first axis of its rows."""
        flat = flat.to(x.dtype)
        return flat.reshape(x.shape) if self.outputs == 1 else flat.reshape(len(x), -1, *x.shape[2:])

    def _condition(self, rows: Tensor, condition: Tensor | None) -> Tensor:
        """The condition of each row, (B, k)."""
        if condition is None:
            return rows.new_zeros(len(rows), self.condition_features)
        if condition.ndim != 2 or condition.shape[1] != self.condition_features:
            expected = f"(B, {self.condition_features})" if self.condition_features else "none"
            raise OptionError(f"the condition should have shape {expected}, got {tuple(condition.shape)}")
        return condition.to(rows.dtype).expand(len(rows), -1)

    def _noise(self, rows: Tensor, c_noise: Tensor) -> Tensor:
        """c and waves(c) of each row, (B, 1 + 2 noise_frequencies)."""
        c = c_noise.to(rows.dtype).reshape(-1)
        return torch.cat([c.unsqueeze(1), self.waves(c)], dim=1).expand(len(rows), -1)

    def _first(self, u: Tensor) -> Tensor:
        """W_1 u + b_1. In bfloat16, u goes in as a sum of two numbers, for eight bits would move a row by 0.004 |x|,
        which at little noise is as far as the noise does."""
        weight, bias = self.first.weight, self.first.bias
        device = u.device.type
        if not torch.is_autocast_enabled(device):
            return functional.linear(u, weight, bias)
        coarse = u.to(torch.get_autocast_dtype(device))
        fine = (u - coarse).to(coarse.dtype)
        return functional.linear(torch.cat([coarse, fine], dim=1), torch.cat([weight, weight], dim=1), bias)


def _silu_and_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    """z·sigmoid(z) and its derivative."""
    gate = torch.sigmoid(z)
    h = z * gate
    return h, gate + h * (1 - gate)
