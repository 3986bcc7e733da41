"""Claim: paired noise, reference batches and importance make gradients less noisy, and scores better, for nothing.

On mixtures known in closed form in 2, 10 and 50 dimensions it prints

    1  the variance of the gradient of a half-trained network with pairs of ε and −ε, over that with rows drawn freely,
       in bands of the law of t from little noise to much, for denoising and for sliced matching
    2  the score error after --steps steps with neither, either and both of pairs and reference batches, for --seeds
       seeds, and what a step costs
    3  the variance of loss and gradient of DDPM's bound and of the continuous one, with t drawn uniformly over that
       with t drawn by importance

    python benchmarks/variance_reduction.py [--steps 3000] [--seeds 2]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from _objectives_problems import Problem, mixture

from scorefield.betas import linear_betas
from scorefield.discrete import Discrete
from scorefield.model import NetworkDenoiser
from scorefield.networks.mlp import MLP
from scorefield.noise import VP
from scorefield.objectives import presets
from scorefield.objectives.criteria import Criterion, Denoising
from scorefield.objectives.implicit import Sliced
from scorefield.objectives.matching import ScoreMatching, stratified
from scorefield.objectives.times import Importance, LogNormal
from scorefield.objectives.weights import one
from scorefield.parametrization import EPSILON, edm_f
from scorefield.randomness import Noise, Stream
from scorefield.training.draws import PairedNoise
from scorefield.training.loop import Trainer
from scorefield.training.memory import keep_freed_memory
from scorefield.training.rows import Rows
from scorefield.training.settings import TrainingSettings

BATCH, REFERENCE = 512, 256
BANDS = ((0.0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.75), (0.75, 1.0))
DIMENSIONS = (2, 10, 50)


def network(dimension: int) -> MLP:
    torch.manual_seed(0)
    return MLP((dimension,), 128, 3)


def train(
    problem: Problem, model: NetworkDenoiser, objective: ScoreMatching, steps: int, seed: int, *, antithetic: bool
) -> Trainer:
    """The library's own loop."""
    rows = Rows(np.arange(len(problem.data)), lambda n, _: (problem.data.index_select(0, torch.from_numpy(n)), None))
    settings = TrainingSettings(
        batch=BATCH, steps=steps, learning_rate=3e-3, optimiser="adam", precision="float32", antithetic=antithetic
    )
    trainer = Trainer(model, objective, rows, Rows(np.arange(0), rows.take), settings, seed)
    for _ in trainer:
        pass
    return trainer


def gradient_variance(
    problem: Problem, model: NetworkDenoiser, criterion: Criterion, band: tuple[float, float], paired: bool
) -> float:
    """Trace of the covariance of the gradient of a batch whose u lie in a band, all rows in pairs or none."""
    law, half, gradients = LogNormal(-1.0, 1.5), BATCH // 4, []
    for step in range(60):
        count = half if paired else 2 * half
        rows = (Stream(1, "rows").uniform(count, step=step) * len(problem.data)).long()
        u = band[0] + (band[1] - band[0]) * stratified(Stream(1, "times").uniform(count, step=step))
        noise = Noise(Stream(1, "noise"), range(2 * half), step)
        if paired:
            rows, u = rows.repeat(2), u.repeat(2)
            noise = PairedNoise(noise.stream, noise.rows, step, half)
        losses = criterion(model, problem.data[rows], law.quantile(u, model.schedule), noise)
        parts = torch.autograd.grad(losses.mean(), list(model.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]))
    return float(torch.stack(gradients).var(0).sum())


def pairs(problem: Problem) -> None:
    """Part 1."""
    notation = edm_f(problem.sigma_data)
    model = NetworkDenoiser(network(problem.dimension), problem.schedule, notation, problem.sigma_data)
    train(problem, model, ScoreMatching(LogNormal(-1.0, 1.5), Denoising(notation), one), 1000, 0, antithetic=False)
    for name, criterion in (("denoising", Denoising(notation)), ("sliced", Sliced(EPSILON))):
        ratios = [
            gradient_variance(problem, model, criterion, band, True)
            / gradient_variance(problem, model, criterion, band, False)
            for band in BANDS
        ]
        print(f"  {name:10}" + "".join(f"{ratio:10.2f}" for ratio in ratios), flush=True)


def errors(problem: Problem, steps: int, seeds: int) -> None:
    """Part 2."""
    notation = edm_f(problem.sigma_data)
    for name, antithetic, reference in (
        ("neither", False, 1),
        ("pairs", True, 1),
        ("reference batches", False, REFERENCE),
        ("both", True, REFERENCE),
    ):
        found, taken = [], []
        for seed in range(seeds):
            torch.manual_seed(seed)
            net = MLP((problem.dimension,), 128, 3)
            model = NetworkDenoiser(net, problem.schedule, notation, problem.sigma_data)
            objective = ScoreMatching(LogNormal(-1.0, 1.5), Denoising(notation, reference), one)
            start = time.process_time()
            trainer = train(problem, model, objective, steps, seed, antithetic=antithetic)
            taken.append((time.process_time() - start) / steps * 1e3)
            best = trainer.best()
            assert isinstance(best, NetworkDenoiser)
            found.append(problem.errors(best)[0])
        print(
            f"  {name:18} {', '.join(f'{error:.2%}' for error in found)}   {np.mean(taken):.2f} ms a step", flush=True
        )


def importance() -> None:
    """Part 3."""
    problem, vp = Problem(mixture(2)), VP(t_min=1e-4)
    law = Importance(problem.sigma_data)
    for name, schedule, uniform, important, factor in (
        ("DDPM's bound", Discrete(betas=linear_betas()), presets.ddpm_vlb(), presets.ddpm_vlb_importance, 1.0),
        (
            "the continuous bound",
            vp,
            presets.continuous_bound(),
            presets.maximum_likelihood_importance,
            law.norm(vp) / (vp.t_max - vp.t_min) / 2,  # which makes the two losses of one mean
        ),
    ):
        model = NetworkDenoiser(network(2), schedule, edm_f(problem.sigma_data), problem.sigma_data)
        train(problem, model, presets.vp_simple(), 1000, 0, antithetic=False)
        means, spreads = [], []
        for objective, scale in ((uniform, 1.0), (important(problem.sigma_data), factor)):
            losses, gradients = [], []
            for step in range(400):
                rows = (Stream(1, "rows").uniform(BATCH, step=step) * len(problem.data)).long()
                u = Stream(1, "times").uniform(BATCH, step=step)
                noise = Noise(Stream(1, "noise"), range(BATCH), step)
                each = scale * objective(model, problem.data[rows], noise, u)
                parts = torch.autograd.grad(each.mean(), list(model.parameters()))
                losses.append(each.detach())
                gradients.append(torch.cat([part.flatten() for part in parts]))
            means.append(float(torch.cat(losses).mean()))
            spreads.append((float(torch.cat(losses).var()), float(torch.stack(gradients).var(0).sum())))
        (loss, gradient), (least_loss, least_gradient) = spreads
        print(
            f"  {name}: variance of loss {loss / least_loss:.0f} ×, of gradient {gradient / least_gradient:.0f} × "
            f"(mean loss {means[0]:.3f} and {means[1]:.3f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, batch {BATCH}, MLP 3 × 128")
    print("\nimportance: variance with t uniform over that by importance, on a mixture in the plane")
    importance()
    for dimension in DIMENSIONS:
        problem = Problem(mixture(dimension))
        print(
            f"\n{dimension} dimensions: variance of the gradient in pairs over that of free rows, by shares of the law"
        )
        print("  " + " " * 10 + "".join(f"{f'{low:.0%}-{high:.0%}':>10}" for low, high in BANDS))
        pairs(problem)
        print(f"{dimension} dimensions: score error after {options.steps} steps")
        errors(problem, options.steps, options.seeds)


if __name__ == "__main__":
    main()
