"""Claim: normals keyed by (seed, stream, step, row) cost too little to be seen in a profile of training or sampling.

Times, for batches of three shapes, ways to get them side by side in one run, interleaved: this library's (Philox in
numpy's C, Box–Muller in torch), a generator keyed for each block of 64 rows, Philox4×32 written in torch operations,
and torch.randn, which is not keyed. The last column is the share of one training step on the same batch.

    python benchmarks/randomness.py
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from scorefield.build import build_model, build_objective
from scorefield.noise_range import measure_noise_range
from scorefield.objectives.matching import stratified
from scorefield.randomness import Noise, Stream
from scorefield.recipes import auto
from scorefield.resolve import DataFacts, resolve

REPEATS = 15


def blocks(rows: int, shape: tuple[int, ...], step: int) -> torch.Tensor:
    """One numpy generator for each block of 64 rows."""
    parts = []
    for block in range(-(-rows // 64)):
        generator = np.random.Generator(np.random.Philox(key=np.array([7, block], np.uint64), counter=step))
        parts.append(generator.standard_normal((64, *shape), dtype=np.float32))
    return torch.from_numpy(np.concatenate(parts)[:rows])


def philox32(rows: int, shape: tuple[int, ...], step: int) -> torch.Tensor:
    """Philox4×32-10 in int64 tensor operations, then Box–Muller."""
    words = math.prod(shape)
    count = -(-rows * words // 4)
    mask = 0xFFFFFFFF
    c = [torch.arange(count), torch.full((count,), step), torch.zeros(count, dtype=torch.int64)]
    c.append(c[2])
    k0, k1 = 7, 11
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [((p1 >> 32) & mask) ^ c[1] ^ k0, p1 & mask, ((p0 >> 32) & mask) ^ c[3] ^ k1, p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    u = [(word.float() + 0.5) * 2.0**-32 for word in c]
    parts = []
    for u1, u2 in ((u[0], u[1]), (u[2], u[3])):
        radius = (-2 * u1.log()).sqrt()
        parts += [radius * (2 * math.pi * u2).cos(), radius * (2 * math.pi * u2).sin()]
    return torch.stack(parts, 1).flatten()[: rows * words].reshape(rows, *shape)


class Known(Noise):
    """Normals that cost nothing, so that a step is timed without them."""

    def __init__(self) -> None:
        super().__init__(Stream(0, "known"), range(0), 0)

    def like(self, x: torch.Tensor, draw: int = 0) -> torch.Tensor:
        return x


def training_step(rows: int, shape: tuple[int, ...]) -> Callable[[int], object]:
    """Forward and backward of the network that `auto` chooses for rows of this shape."""
    x0 = Stream(0, "data").normal(rows, shape)
    facts = DataFacts(shape, 50_000, measure_noise_range(x0), torch.device("cpu"))
    recipe, _ = resolve(auto(), facts)
    model, objective = build_model(recipe, shape, 0, 0), build_objective(recipe)
    noise, u = Known(), stratified(Stream(0, "u").uniform(rows))

    def step(number: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.training.precision == "bfloat16"):
            loss = objective(model, x0, noise, u).mean()
        loss.backward()

    return step


def main() -> None:
    """Print the table."""
    print(f"{'rows × shape':>20} {'ours':>10} {'blocks':>10} {'philox32':>10} {'randn':>10} {'step':>10}   ours/step")
    for rows, shape in ((1024, (2,)), (64, (1, 28, 28)), (128, (3, 32, 32))):
        stream = Stream(0, "benchmark")
        ways: dict[str, Callable[[int], object]] = {
            "ours": lambda n, r=rows, s=shape, k=stream: k.normal(r, s, step=n),
            "blocks": lambda n, r=rows, s=shape: blocks(r, s, n),
            "philox32": lambda n, r=rows, s=shape: philox32(r, s, n),
            "randn": lambda n, r=rows, s=shape: torch.randn(r, *s),
            "step": training_step(rows, shape),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(REPEATS):
            for name, way in ways.items():
                start = time.perf_counter()
                way(number)
                taken[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(times) for name, times in taken.items()}
        shares = sorted(a / b for a, b in zip(taken["ours"], taken["step"], strict=True))
        figures = " ".join(f"{1e6 * value:7.0f} µs" for value in medians.values())
        print(
            f"{rows:>6} × {shape!s:>11} {figures}   {medians['ours'] / medians['step']:.1%} "
            f"({shares[1]:.1%} to {shares[-2]:.1%})"
        )


if __name__ == "__main__":
    main()
