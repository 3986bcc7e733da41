"""The optimiser: Adam for every weight, or Muon for the matrices inside a network and Adam for the rest.

Muon replaces the gradient of a matrix by the nearest orthogonal one, so that every direction learns at one rate
(Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; scaled to Adam's step sizes as in Liu et
al. 2025, arXiv:2502.16982). A convolution's kernel (O, I, h, w) counts as the matrix (O, I·h·w).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_THIN = 8  # a matrix with a side this short is an entrance or an exit, whose entries mean something one by one


class Optimiser:
    """Steps on a module's parameters.

    Args:
        module: whose parameters are optimised, in place.
        muon: whether its matrices are stepped by Muon.
        beta2: of Adam.
    """

    def __init__(self, module: nn.Module, *, muon: bool, beta2: float) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        self._kernels = [p for p in parameters if muon and _is_matrix(p)]
        chosen = {id(p) for p in self._kernels}
        rest = [p for p in parameters if id(p) not in chosen]
        fused = parameters[0].device.type in ("cpu", "cuda")
        self._parts: dict[str, torch.optim.Optimizer] = {
            "adam": torch.optim.Adam(rest, betas=(0.9, beta2), fused=fused)
        }
        # torch's Muon takes matrices only: these share the memory of the kernels.
        self._matrices = [nn.Parameter(_as_matrix(p.detach())) for p in self._kernels]
        if self._matrices:
            self._parts["muon"] = torch.optim.Muon(
                self._matrices, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            )
        self._parameters = parameters

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def step(self, learning_rate: float) -> None:
        """One step along the present gradients."""
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            matrix.grad = (
                None if kernel.grad is None else _as_matrix(kernel.grad.contiguous(memory_format=_layout(kernel)))
            )
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()

    def state(self) -> dict[str, Tensor]:
        """Moments by "part.number.name"."""
        return {
            f"{name}.{number}.{moment}": value
            for name, part in self._parts.items()
            for number, moments in part.state_dict()["state"].items()
            for moment, value in moments.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a state of the same module and settings."""
        states: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in self._parts}
        for key, value in tensors.items():
            name, number, moment = key.split(".")
            states[name].setdefault(int(number), {})[moment] = value
        for name, part in self._parts.items():
            part.load_state_dict({"state": states[name], "param_groups": part.state_dict()["param_groups"]})


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and min(parameter.shape[:2]) > _THIN


def _layout(kernel: Tensor) -> torch.memory_format:
    is_last = kernel.ndim == 4 and not kernel.is_contiguous()
    return torch.channels_last if is_last else torch.contiguous_format


def _as_matrix(kernel: Tensor) -> Tensor:
    """(O, …) seen as (O, numbers), in the order in which they lie in memory."""
    if kernel.is_contiguous():
        return kernel.view(len(kernel), -1)
    return kernel.permute(0, 2, 3, 1).view(len(kernel), -1)
