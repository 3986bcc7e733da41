"""The grids of diffusers, azula and k-diffusion, each by its library's own code, over a model's range of σ/α."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Callable

import azula.noise
import diffusers
import torch
from torch import Tensor

from scorefield.model import Denoiser

Levels = Callable[[int, float, float], Tensor]  # (count, high, low) to σ/α, (count,) float64 falling
Schedules = Callable[[float, float], azula.noise.Schedule]
ENDINGS = ("→0", "→σ")


def _k_diffusion_sampling() -> types.ModuleType:
    """k_diffusion.sampling without the rest of the package, whose training code wants much that sampling does not."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("k-diffusion is not installed; see benchmarks/requirements-peers.txt")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    # k_diffusion.utils turns pictures into tensors with torchvision, which sampling never calls.
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    absent = {name: types.ModuleType(name) for name in names if importlib.util.find_spec("torchvision") is None}
    if absent:
        absent[names[1]].functional = absent[names[2]]  # type: ignore[attr-defined]
    sys.modules.update(absent)
    sys.modules["k_diffusion"] = package
    try:
        return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in absent:
            del sys.modules[name]


k_sampling = _k_diffusion_sampling()


# -- grids ------------------------------------------------------------------------------------------------------------


def _k_karras(rho: float) -> Levels:
    return lambda n, high, low: k_sampling.get_sigmas_karras(n, low, high, rho)[:-1].double()


def _k_polyexponential(rho: float) -> Levels:
    return lambda n, high, low: k_sampling.get_sigmas_polyexponential(n, low, high, rho)[:-1].double()


def vp_levels(n: int, high: float, low: float) -> Tensor:
    """Even in the time of a VP of linear β that goes from `low` to `high`: diffusers' default, "linspace"."""
    beta_min = 0.1
    beta_d = 2 * (math.log1p(high**2) - beta_min)
    start = (-beta_min + math.sqrt(beta_min**2 + 2 * beta_d * math.log1p(low**2))) / beta_d
    return k_sampling.get_sigmas_vp(n, beta_d, beta_min, start)[:-1].double()


K_GRIDS: dict[str, Levels] = {
    "karras": _k_karras(7.0),
    "karras ρ=3": _k_karras(3.0),
    "exponential": lambda n, high, low: k_sampling.get_sigmas_exponential(n, low, high)[:-1].double(),
    "polyexp 1.5": _k_polyexponential(1.5),
    "vp": vp_levels,
}


def _converted(method: str, log: bool = False) -> Levels:
    """A grid by diffusers' own conversion, from the ends of the range."""

    def levels(n: int, high: float, low: float) -> Tensor:
        ends = torch.tensor([high, low], dtype=torch.float64)
        scheduler = diffusers.DPMSolverMultistepScheduler()
        made = getattr(scheduler, method)(ends.log() if log else ends, n)
        return torch.as_tensor(made, dtype=torch.float64).exp() if log else torch.as_tensor(made, dtype=torch.float64)

    return levels


DIFFUSERS_GRIDS: dict[str, Levels] = {
    "karras": _converted("_convert_to_karras"),
    "lu/exponential": _converted("_convert_to_lu", log=True),
    "beta": _converted("_convert_to_beta"),
    "linspace": vp_levels,
}


class _Given(azula.noise.Schedule):
    """α = 1 and σ even in σ^{1/ρ}: a time grid that a user of azula can give."""

    def __init__(self, high: float, low: float, rho: float) -> None:
        self.high, self.low, self.rho = high, low, rho

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.high ** (1 / self.rho), self.low ** (1 / self.rho)
        return torch.ones_like(t), (b + t * (a - b)) ** self.rho


AZULA_SCHEDULES: dict[str, Schedules] = {
    "VE": lambda high, low: azula.noise.VESchedule(low, high),
    "VP": lambda high, low: azula.noise.VPSchedule(),
    "cosine": lambda high, low: azula.noise.CosineSchedule(),
    "rectified": lambda high, low: azula.noise.RectifiedSchedule(),
    "decay": lambda high, low: azula.noise.DecaySchedule(),
    "karras": lambda high, low: _Given(high, low, 7.0),
}


# -- their ends -------------------------------------------------------------------------------------------------------


def range_of(model: Denoiser) -> tuple[float, float]:
    """The highest and the lowest level of a model under an EDM schedule."""
    return model.schedule.t_max, model.schedule.t_min


def levels_for(grid: Levels, count: int, ending: str, model: Denoiser) -> Tensor:
    """σ of `count` steps, (count + 1,): the last is 0 or the lowest level."""
    high, low = range_of(model)
    if ending == "→σ":
        sigmas = grid(count + 1, high, low)
        return _ends(sigmas, high, low)
    return torch.cat((_ends(grid(count, high, low), high, low), torch.zeros(1, dtype=torch.float64)))


def _ends(sigmas: Tensor, high: float, low: float) -> Tensor:
    """The ends exactly: some libraries compute grids in float32."""
    sigmas = sigmas.clone()
    sigmas[0], sigmas[-1] = high, low
    return sigmas
