"""The samplers of diffusers, azula and k-diffusion as methods of one kind, each on the grids of its own library.

All walk from σ/α = 80 to 0.002 (the model's own range for images). Every grid comes with two endings: "→0" spends the
last evaluation on E[x0 given x] at the lowest level, "→σ" spends it on one more step and ends at the lowest level.
diffusers and azula are given x in the scale that their classes expect and the model is asked in its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import azula.denoise
import azula.noise
import azula.sample
import diffusers
import torch
from _frontier_grids import (
    AZULA_SCHEDULES,
    DIFFUSERS_GRIDS,
    ENDINGS,
    K_GRIDS,
    Levels,
    Schedules,
    k_sampling,
    levels_for,
    range_of,
)
from _frontier_problems import Plain
from torch import Tensor

from scorefield.model import Denoiser

warnings.filterwarnings("ignore", module="diffusers")


# -- diffusers --------------------------------------------------------------------------------------------------------


def _set_levels(scheduler: Any, sigmas: Tensor) -> None:
    """Give a scheduler its levels: what its pipelines do with lists of sigmas, for schedulers that take none."""
    count = len(sigmas) - 1
    scheduler.set_timesteps(count)
    scheduler.sigmas = sigmas.float()
    scheduler.timesteps = torch.arange(count, 0, -1)
    scheduler.num_inference_steps = count
    scheduler.set_begin_index(0)


def _vp_walk(make: Callable[[str], Any], grid: Levels, ending: str) -> Callable[[Denoiser, Tensor, int], Tensor]:
    """Schedulers whose x is x/√(1 + σ²) and whose model gives x0: DPM-Solver++, UniPC, DEIS."""

    def walk(model: Denoiser, x: Tensor, budget: int) -> Tensor:
        scheduler = make("zero" if ending == "→0" else "sigma_min")
        sigmas = levels_for(grid, budget, ending, model)
        _set_levels(scheduler, sigmas)
        scales = (1 + scheduler.sigmas.double() ** 2).sqrt().tolist()
        x = x / scales[0]
        for t, scale, sigma in zip(scheduler.timesteps, scales, sigmas.tolist(), strict=False):
            x = scheduler.step(model(x * scale, sigma).x0, t, x, return_dict=False)[0]
        return x * scales[-1]

    return walk


def _edm_walk(make: Callable[[str], Any], grid: Levels, ending: str) -> Callable[[Denoiser, Tensor, int], Tensor]:
    """EDM schedulers, whose model gives the network's output F of x0 = c_skip x + c_out F."""

    def walk(model: Denoiser, x: Tensor, budget: int) -> Tensor:
        scheduler = make("zero" if ending == "→0" else "sigma_min")
        sigmas = levels_for(grid, budget, ending, model)
        scheduler.set_timesteps(budget)
        scheduler.sigmas = sigmas.float()
        scheduler.timesteps = 0.25 * sigmas[:-1].float().log()
        scheduler.set_begin_index(0)
        data = scheduler.config.sigma_data
        for t, sigma in zip(scheduler.timesteps, sigmas.tolist(), strict=False):
            scheduler.scale_model_input(x, t)
            skip, out = data**2 / (sigma**2 + data**2), sigma * data / math.hypot(sigma, data)
            f = (model(x, sigma).x0 - skip * x) / out
            x = scheduler.step(f, t, x, return_dict=False)[0]
        return x

    return walk


def _ve_walk(make: Callable[[], Any], grid: Levels, ending: str) -> Callable[[Denoiser, Tensor, int], Tensor]:
    """Schedulers whose x is α = 1: Heun (two evaluations a step, one in the last to zero) and LMS."""

    def walk(model: Denoiser, x: Tensor, budget: int) -> Tensor:
        scheduler = make()
        twice = isinstance(scheduler, (diffusers.HeunDiscreteScheduler, diffusers.KDPM2DiscreteScheduler))
        steps = budget if not twice else (budget + 1) // 2 if ending == "→0" else budget // 2
        sigmas = levels_for(grid, steps, ending, model)
        at = sigmas
        _set_levels(scheduler, sigmas)
        if twice:
            inner = sigmas[1:-1].repeat_interleave(2)
            scheduler.sigmas = torch.cat((sigmas[:1], inner, sigmas[-1:])).float()
            # A step is asked at its first level, then at its second.
            at = torch.cat((sigmas[:1], sigmas[1:].repeat_interleave(2)))
            scheduler.timesteps = torch.arange(len(scheduler.sigmas) - (ending == "→0"), 0, -1)
        for t, sigma in zip(scheduler.timesteps, at.tolist(), strict=False):
            scheduler.scale_model_input(x, t)
            x = scheduler.step(model(x, sigma).x0, t, x, return_dict=False)[0]
        return x

    return walk


def _ddim_walk(grid: Levels, ending: str) -> Callable[[Denoiser, Tensor, int], Tensor]:
    """DDIM on a table of as many levels as it has steps."""

    def walk(model: Denoiser, x: Tensor, budget: int) -> Tensor:
        sigmas = levels_for(grid, budget, ending, model)
        scheduler = diffusers.DDIMScheduler(
            num_train_timesteps=budget, prediction_type="sample", clip_sample=False, timestep_spacing="leading"
        )
        scheduler.alphas_cumprod = (1 / (1 + sigmas[:-1] ** 2)).flip(0)
        scheduler.final_alpha_cumprod = 1 / (1 + sigmas[-1] ** 2)
        scheduler.set_timesteps(budget)
        scales = (1 + sigmas**2).sqrt().tolist()
        x = x / scales[0]
        for t, scale, sigma in zip(scheduler.timesteps, scales, sigmas.tolist(), strict=False):
            x = scheduler.step(model(x * scale, sigma).x0, int(t), x, return_dict=False)[0].to(x.dtype)
        return x * scales[-1]

    return walk


def _ipndm_walk(grid: Levels, ending: str) -> Callable[[Denoiser, Tensor, int], Tensor]:
    """iPNDM, whose β is σ and whose model gives v."""

    def walk(model: Denoiser, x: Tensor, budget: int) -> Tensor:
        sigmas = levels_for(grid, budget, ending, model)
        scheduler = diffusers.IPNDMScheduler()
        scheduler.set_timesteps(budget)
        alphas = (1 + sigmas**2).rsqrt()
        scheduler.alphas, scheduler.betas = alphas.to(x.dtype), (sigmas * alphas).to(x.dtype)
        scheduler.set_begin_index(0)
        x = x * float(alphas[0])
        for t, sigma, a in zip(scheduler.timesteps, sigmas.tolist(), alphas.tolist(), strict=False):
            x0 = model(x / a, sigma).x0
            v = (a * (x - a * x0) / (sigma * a)) - sigma * a * x0
            x = scheduler.step(v, t, x, return_dict=False)[0]
        return x / float(alphas[-1])

    return walk


def diffusers_methods() -> list[Plain]:
    """DDIM, DPM-Solver++, UniPC, DEIS, EDM's Euler and DPM-Solver++, Heun, LMS and iPNDM on diffusers' grids."""
    sample: dict[str, Any] = {"prediction_type": "sample"}
    many: dict[str, Callable[[str], Any]] = {}
    for lower in (True, False):
        tail = "" if lower else ", full order at the end"
        for order, kind in ((2, "midpoint"), (2, "heun"), (3, "midpoint"), (3, "heun")):
            many[f"DPM++ {order}M {kind}{tail}"] = lambda final, o=order, k=kind, w=lower: (
                diffusers.DPMSolverMultistepScheduler(
                    solver_order=o, solver_type=k, lower_order_final=w, final_sigmas_type=final, **sample
                )
            )
        for order, kind in ((2, "bh1"), (2, "bh2"), (3, "bh1"), (3, "bh2")):
            many[f"UniPC{order} {kind}{tail}"] = lambda final, o=order, k=kind, w=lower: (
                diffusers.UniPCMultistepScheduler(
                    solver_order=o, solver_type=k, lower_order_final=w, final_sigmas_type=final, **sample
                )
            )
        for order in (2, 3):
            many[f"DEIS{order}{tail}"] = lambda final, o=order, w=lower: diffusers.DEISMultistepScheduler(
                solver_order=o, lower_order_final=w, **sample
            )
    at_zero = [n for n in many if n.startswith("DPM") or n in ("UniPC2 bh2", "UniPC3 bh2")]
    edm: dict[str, Callable[[str], Any]] = {
        "EDM Euler": lambda final: diffusers.EDMEulerScheduler(final_sigmas_type=final),
        "EDM DPM++ 2M": lambda final: diffusers.EDMDPMSolverMultistepScheduler(solver_order=2, final_sigmas_type=final),
        "EDM DPM++ 3M": lambda final: diffusers.EDMDPMSolverMultistepScheduler(solver_order=3, final_sigmas_type=final),
    }
    ve: dict[str, Callable[[], Any]] = {
        "Heun": lambda: diffusers.HeunDiscreteScheduler(prediction_type="sample"),
        "LMS": lambda: diffusers.LMSDiscreteScheduler(prediction_type="sample"),
    }
    methods = []
    for grid_name, grid in DIFFUSERS_GRIDS.items():
        for ending in ENDINGS:
            # At σ = 0, where λ is infinite, DEIS and UniPC bh1 give NaN and UniPC of full order a singular system.
            able = {n: m for n, m in many.items() if ending == "→σ" or n in at_zero}
            walks = {name: _vp_walk(make, grid, ending) for name, make in able.items()}
            if grid_name in ("karras", "lu/exponential"):
                walks |= {name: _edm_walk(make, grid, ending) for name, make in edm.items()}
            walks |= {name: _ve_walk(make, grid, ending) for name, make in ve.items()}
            walks["DDIM"] = _ddim_walk(grid, ending)
            walks["iPNDM"] = _ipndm_walk(grid, ending)
            methods += [Plain("diffusers", f"{name}, {grid_name} {ending}", walk) for name, walk in walks.items()]
    return methods


# -- azula ------------------------------------------------------------------------------------------------------------


class _Azula(azula.denoise.Denoiser):
    """A denoiser as azula wants it: of its own schedule, the posterior by its mean."""

    def __init__(self, model: Denoiser, schedule: azula.noise.Schedule) -> None:
        super().__init__()
        self.model, self.schedule = model, schedule

    def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> azula.denoise.DiracPosterior:
        alpha, sigma = self.schedule(t)
        return azula.denoise.DiracPosterior(mean=self.model((x_t / alpha).to(x_t.dtype), float(sigma / alpha)).x0)


def _time_of(schedule: azula.noise.Schedule, ratio: float) -> float:
    """The time at which σ/α is `ratio`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        alpha, sigma = schedule(torch.tensor(middle, dtype=torch.float64))
        low, high = (middle, high) if float(sigma / alpha) < ratio else (low, middle)
    return (low + high) / 2


def _azula_walk(
    make: Callable[..., Any], schedule_of: Schedules, ending: str, evaluations: int
) -> Callable[[Denoiser, Tensor, int], Tensor]:
    def walk(model: Denoiser, x: Tensor, budget: int) -> Tensor:
        high, low = range_of(model)
        schedule = schedule_of(high, low)
        denoiser = _Azula(model, schedule)
        steps = (budget - (ending == "→0")) // evaluations
        start, stop = (_time_of(schedule, ratio) for ratio in (high, low))
        sampler = make(denoiser, start=start, stop=stop, steps=steps, silent=True, dtype=torch.float64)
        first, last = (schedule(torch.tensor(t, dtype=torch.float64)) for t in (start, stop))
        # Its arithmetic is in the type of the times; the model is asked in x's own.
        end = sampler(x.double() * first[0]) / last[0]
        return model(end.to(x.dtype), low).x0 if ending == "→0" else end

    return walk


def azula_methods() -> list[Plain]:
    """DDIM, Euler, Heun and the Adams–Bashforth samplers of orders 2 to 4 on azula's schedules, even in their time."""
    samplers: dict[str, tuple[Callable[..., Any], int]] = {
        "DDIM": (azula.sample.DDIMSampler, 1),
        "Euler": (azula.sample.EulerSampler, 1),
        "Heun": (azula.sample.HeunSampler, 2),
    }
    for family in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
        kind = getattr(azula.sample, f"{family}Sampler")
        for order in (2, 3, 4):
            samplers[f"{family}{order}"] = (lambda denoiser, k=kind, o=order, **more: k(denoiser, order=o, **more), 1)
    return [
        Plain("azula", f"{name}, {grid} {ending}", _azula_walk(make, schedule, ending, evaluations))
        for grid, schedule in AZULA_SCHEDULES.items()
        for ending in ENDINGS
        for name, (make, evaluations) in samplers.items()
    ]


# -- k-diffusion ------------------------------------------------------------------------------------------------------


def _asked(model: Denoiser) -> Callable[..., Tensor]:
    """model(x, σ (B,)) to x0, as k-diffusion calls it; σ is the same for all rows there."""

    def denoised(x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        return model(x, sigma.reshape(-1)[0].double()).x0

    return denoised


class _Asked(torch.nn.Module):
    """The same as a module, which DPM-Solver-fast wants."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        return _asked(self.model)(x, sigma)


def _k_walk(function: str, grid: Levels, ending: str, evaluations: int, **more: Any) -> Any:
    def walk(model: Denoiser, x: Tensor, budget: int) -> Tensor:
        steps = budget if evaluations == 1 else (budget + 1) // 2 if ending == "→0" else budget // 2
        sigmas = levels_for(grid, steps, ending, model).to(x.dtype)
        return getattr(k_sampling, function)(_asked(model), x, sigmas, disable=True, **more)

    return walk


def _k_fast_walk(ending: str) -> Callable[[Denoiser, Tensor, int], Tensor]:
    def walk(model: Denoiser, x: Tensor, budget: int) -> Tensor:
        high, low = range_of(model)
        end = k_sampling.sample_dpm_fast(_Asked(model), x, low, high, budget - (ending == "→0"), disable=True)
        return model(end.to(x.dtype), low).x0 if ending == "→0" else end

    return walk


def k_diffusion_methods() -> list[Plain]:
    """Euler, Heun, DPM-2, LMS, DPM-Solver++ 2M and the SDE samplers with η = 0 on k-diffusion's grids; DPM-fast."""
    still: dict[str, Any] = {"eta": 0.0, "noise_sampler": lambda sigma, below: 0.0}
    samplers: dict[str, tuple[str, int, dict[str, Any]]] = {
        "Euler": ("sample_euler", 1, {}),
        "Heun": ("sample_heun", 2, {}),
        "DPM-2": ("sample_dpm_2", 2, {}),
        "DPM++ 2M": ("sample_dpmpp_2m", 1, {}),
        "DPM++ 2M SDE midpoint η=0": ("sample_dpmpp_2m_sde", 1, {**still, "solver_type": "midpoint"}),
        "DPM++ 2M SDE heun η=0": ("sample_dpmpp_2m_sde", 1, {**still, "solver_type": "heun"}),
        "DPM++ 3M SDE η=0": ("sample_dpmpp_3m_sde", 1, still),
    }
    for order in (2, 3, 4):
        samplers[f"LMS{order}"] = ("sample_lms", 1, {"order": order})
    methods = [
        Plain("k-diffusion", f"{name}, {grid_name} {ending}", _k_walk(function, grid, ending, evaluations, **more))
        for grid_name, grid in K_GRIDS.items()
        for ending in ENDINGS
        for name, (function, evaluations, more) in samplers.items()
    ]
    return methods + [Plain("k-diffusion", f"DPM-fast {ending}", _k_fast_walk(ending)) for ending in ENDINGS]


def peers() -> list[Plain]:
    """Every method of the three libraries."""
    return diffusers_methods() + azula_methods() + k_diffusion_methods()


def versions() -> str:
    """Which versions are measured."""
    return ", ".join(f"{name} {version(name)}" for name in ("diffusers", "azula", "k-diffusion", "torch"))
