"""Claim: 16 particles on 48 levels draw conditionals that are known in closed form, at 768 evaluations of a row.

On the two mixtures of `_conditional_problems.py`, one whose mode is decided by the seen number where there is hardly
any noise left, one of six numbers of which three are seen, it prints

    1  by particles and levels: evaluations a draw; the largest distance of the distribution of ranks of draws in their
       conditionals from even (about 1/√rows where there is no error); the share of draws in their central 90 %; and how
       much of what the seen numbers say of the component is forgotten
    2  the same for steps without and with all of the Gaussian spread of x0, and for replacement
    3  eight draws of a row from one system of 64 particles against eight systems of 8 or 16: the variance of their mean
       over that of independent draws, and their spread over what it should be

    python benchmarks/conditionals.py [--rows 2000] [--quick]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from _conditional_problems import PROBLEMS, SCHEDULES, forgotten, ranks
from torch import Tensor

from scorefield.exact import GaussianMixture
from scorefield.guidance.particles import ParticleFilter
from scorefield.guidance.replacement import Replacement
from scorefield.guidance.rows import GivenRows

How = ParticleFilter | Replacement


def draws(how: How, model: GaussianMixture, seen: Tensor, rows: int, seed: int = 0) -> Tensor:
    x0 = model.sample(rows, seed=5)
    return how(model, x0, seen.expand(x0.shape), seed=seed)


def judged(how: How, evaluations: int, model: GaussianMixture, seen: Tensor, rows: int) -> str:
    begin = time.perf_counter()
    drawn = draws(how, model, seen, rows)
    seconds = time.perf_counter() - begin
    u = ranks(model, drawn, seen)
    even = torch.arange(1, rows + 1, dtype=torch.float64).reshape(-1, 1) / rows
    apart = float((u.sort(0).values - even).abs().amax(0).mean())
    covered = float(((u > 0.05) & (u < 0.95)).double().mean())
    lost = forgotten(model, drawn, seen)
    return f"{evaluations:6d}  {apart:8.3f}  {covered:8.3f}  {lost:9.3f}  {1e3 * seconds / rows:9.2f}"


def spread_of_eight(draw: Callable[[int], Tensor], model: GaussianMixture, seen: Tensor) -> str:
    drawn = torch.stack([draw(number) for number in range(8)], dim=1)
    weights, means, covariances = model.conditional(drawn[:, 0], seen)
    mean = torch.einsum("bk,bku->bu", weights, means)
    second = torch.einsum("bk,bku->bu", weights, means**2 + covariances.diagonal(dim1=-2, dim2=-1))
    z = (drawn[..., ~seen] - mean.unsqueeze(1)) / (second - mean**2).sqrt().unsqueeze(1)
    return f"{8 * float(z.mean(1).square().mean()):8.2f}  {float(z.var(1).mean()):8.2f}"


def systems(model: GaussianMixture, seen: Tensor, rows: int, particles: int) -> Callable[[int], Tensor]:
    """Draws that have nothing in common."""
    return lambda number: draws(ParticleFilter(particles), model, seen, rows, seed=number)


def one_system(model: GaussianMixture, seen: Tensor, rows: int, particles: int) -> Callable[[int], Tensor]:
    """Draws that differ in which of the same particles is chosen, and in nothing else."""
    own = GivenRows.uniform

    def draw(number: int) -> Tensor:
        def uniform(work: GivenRows, name: str, step: int) -> Tensor:
            return own(work, f"{name} {number}" if name == "choice" else name, step)

        with patch.object(GivenRows, "uniform", uniform):
            return draws(ParticleFilter(particles), model, seen, rows)

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="fewer rows, particles and levels")
    options = parser.parse_args()
    rows = 500 if options.quick else options.rows
    particles, levels = ((4, 16), (16, 48)) if options.quick else ((4, 8, 16, 32, 64), (16, 24, 32, 48, 64, 96, 128))
    print(f"{rows} rows: without any error the distance is about {0.87 / math.sqrt(rows):.3f}")
    for name, (make, seen) in PROBLEMS.items():
        model = make(SCHEDULES["edm"])
        print(f"\n{name:24s}  evals  distance  in 90 %  forgotten  ms a row")
        pairs = [(k, n) for k in particles for n in levels if k == 16 or n == 48]
        ways: list[tuple[str, How, int]] = [(f"{k} on {n}", ParticleFilter(k, n), k * n) for k, n in pairs]
        ways += [(f"16 on {n}, spread {c:g}", ParticleFilter(16, n, c), 16 * n) for n in levels[:4] for c in (0, 1)]
        ways += [(f"replacement, {n} x {r}", Replacement(n, r), (n - 1) * r + 1) for n, r in ((48, 1), (96, 8))]
        for title, how, evaluations in ways:
            print(f"{title:22s}  {judged(how, evaluations, model, seen, rows)}")
        print(f"{'eight draws':22s}  variance of mean, spread: of independent draws 1 and 1")
        ways_of_eight = {
            "of one system of 64": one_system(model, seen, rows // 2, 64),
            "of eight of 8": systems(model, seen, rows // 2, 8),
            "of eight of 16": systems(model, seen, rows // 2, 16),
        }
        for title, draw in ways_of_eight.items():
            print(f"{title:22s}  {spread_of_eight(draw, model, seen)}")


if __name__ == "__main__":
    main()
