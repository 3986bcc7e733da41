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
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 256,
        depth: int = 4,
        condition_features: int = 0,
        noise_frequencies: int = 8,
    ) -> None:
        super().__init__()
        least = {"width": (width, 1), "depth": (depth, 1)}
        least |= {"condition_features": (condition_features, 0), "noise_frequencies": (noise_frequencies, 0)}
        for name, (value, lowest) in least.items():
            if value < lowest:
                raise OptionError(f"{name} must be {lowest} or more, got {value}")
        self.shape = tuple(shape)
        self.width = width
        self.depth = depth
        self.condition_features = condition_features
        self.noise_frequencies = noise_frequencies

        size = math.prod(self.shape)
        self.waves = Waves(noise_frequencies, lowest=0.5, highest=16.0)
        # x, condition and noise get an equal say in h_1 whatever their lengths: each is a layer of its own at birth.
        parts = (size, condition_features, 1 + 2 * noise_frequencies)
        self.first = nn.Linear(sum(parts), width)
        self.first.weight = nn.Parameter(torch.cat([linear(part, width).weight.detach() for part in parts if part], 1))
        nn.init.zeros_(self.first.bias)
        self.hidden = nn.ModuleList([linear(width, width) for _ in range(depth - 1)])
        self.out = nn.Linear(width, size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """The output for each row.

        Args:
            x: rows, (B, *shape), of order one.
            c_noise: noise as the network reads it, (B,), or (1,) for all rows.
            condition: (B, k), or (1, k) for all rows; None means what a condition of zeros means.

        Returns:
            (B, *shape), in the type of x.
        """
        rows = x.reshape(x.shape[0], math.prod(self.shape))
        u = torch.cat([rows, self._condition(rows, condition), self._noise(rows, c_noise)], dim=1)
        h = functional.silu(self._first(u))
        for layer in self.hidden:
            h = functional.silu(layer(h))
        return self.out(h).to(x.dtype).reshape(x.shape)

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
