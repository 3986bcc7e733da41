"""Claim: from a hundred names on, bits lose what a name goes with, and a simplex or learned places keep it.

Columns of K names with everything else the default `fit`, and three ways to place the names:

    simplex      K − 1 numbers, all names as far apart as any (`codecs.vertices` (1))
    bits         ⌈log₂ K⌉ numbers, the corners of a cube (2)
    embedding    twelve numbers learned from the table: six principal axes of what the rows of a name have in the other
                 columns, shrunk for names with few rows, beside six of a random code, pushed two apart

The law is known: names with Zipf's frequencies have places z_k in the plane; a number is N(z_k[0], ¼), another name
of four has log-odds B z_k. Figures are errors of as many drawn rows as were learnt from, in units of those of a fresh
sample of the law, so that 1 is perfect: the total variation of the names, that of the pairs with the other name, and
the root mean square error of the mean of the number given the name. Seconds are of one thread, to fit and to draw.

    python benchmarks/categories.py [--names 8 40 120 300] [--rows 6000] [--steps 4000] [--seeds 2]

`--quick` takes under a minute: 40 names, 2000 rows, 600 steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

import scorefield as sf
from scorefield.codecs.category import Category
from scorefield.codecs.vertices import Vertices
from scorefield.overrides import override
from scorefield.recipes import auto

_MEASURED, _RANDOM = 6, 6  # numbers of an embedding
_SHRUNK = 10.0  # rows that a name's own mean is worth as much as nothing


@dataclass(frozen=True)
class Law:
    """Names with places in the plane, on which a number and another name depend.

    Args:
        weights: of the names, (K,).
        places: z, (K, 2).
        odds: of the other name given the name, (K, 4) probabilities.
    """

    weights: np.ndarray
    places: np.ndarray
    odds: np.ndarray

    @staticmethod
    def of(names: int, seed: int) -> Law:
        """A law of so many names."""
        random = np.random.default_rng([seed, names])
        weights = 1 / (np.arange(names) + 2.0)
        places = random.normal(size=(names, 2))
        logits = 1.5 * places @ random.normal(size=(2, 4))
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return Law(random.permutation(weights / weights.sum()), places, odds / odds.sum(1, keepdims=True))

    def sample(self, rows: int, random: np.random.Generator) -> pa.Table:
        """A table of the law."""
        name = random.choice(len(self.weights), rows, p=self.weights)
        other = (random.random((rows, 1)) > self.odds[name].cumsum(1)).sum(1).clip(max=3)
        number = self.places[name, 0] + 0.5 * random.normal(size=rows)
        return pa.table({"name": [f"n{k:03}" for k in name], "number": number, "other": [f"o{k}" for k in other]})

    def errors(self, table: pa.Table) -> np.ndarray:
        """Of the names, of the pairs, and of the means of the number, (3,)."""
        name = np.array([int(value[1:]) for value in table["name"].to_pylist()])
        other = np.array([int(value[1:]) for value in table["other"].to_pylist()])
        pairs = np.zeros_like(self.odds)
        np.add.at(pairs, (name, other), 1 / len(name))
        sums = np.bincount(name, table["number"].to_numpy(), len(self.weights))
        count = np.bincount(name, minlength=len(self.weights))
        # Where a name was never drawn nothing is known of its mean; the names' own error tells of that.
        off = (sums / count.clip(min=1) - self.places[:, 0]) ** 2 * self.weights * (count > 0)
        names = np.abs(pairs.sum(1) - self.weights).sum() / 2
        return np.array([names, np.abs(pairs - self.weights[:, None] * self.odds).sum() / 2, off.sum() ** 0.5])


class Embedded(Vertices):
    """Points of any places."""

    def __init__(self, points: Tensor) -> None:
        super().__init__(len(points))
        object.__setattr__(self, "placed", points)

    placed: Tensor

    @property
    def features(self) -> int:
        return self.placed.shape[1]

    @property
    def points(self) -> Tensor:  # type: ignore[override]
        return self.placed


def embedding(table: pa.Table, seed: int) -> Tensor:
    """Places of the names of a table, (K, 12), two apart."""
    name = np.unique(table["name"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    other = np.unique(table["other"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    number = table["number"].to_numpy()
    bends = np.quantile(number, np.linspace(0.1, 0.9, 9))
    seen = np.concatenate([np.eye(4)[other], number[:, None] > bends], axis=1)
    seen = (seen - seen.mean(0)) / seen.std(0)
    count = np.bincount(name)
    mean = np.stack([np.bincount(name, column) for column in seen.T], axis=1) / (count + _SHRUNK)[:, None]
    left, size, _ = np.linalg.svd(mean * count[:, None] ** 0.5, full_matrices=False)
    axes = (left * size)[:, :_MEASURED] / count[:, None] ** 0.5
    code = np.sign(np.random.default_rng(seed).normal(size=(len(count), _RANDOM)))
    return _apart(torch.from_numpy(np.concatenate([2 * axes / axes.std(), code], axis=1)))


def _apart(points: Tensor) -> Tensor:
    """The points, moved until no two are nearer than two."""
    points = points + 1e-3 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0), dtype=points.dtype)
    for _ in range(2000):
        between = points[:, None] - points
        distance = between.norm(dim=-1) + 10 * torch.eye(len(points))
        short = (2.05 - distance).clamp(min=0)
        if not bool(short.any()):
            break
        points = points + 0.3 * (short / distance).unsqueeze(-1).mul(between).sum(1)
    return points


Places = Callable[[Category], Vertices]


def with_places(places: Places, table: pa.Table, steps: int, seed: int) -> tuple[pa.Table, float]:
    """As many rows as a table has, drawn by a fit to it with names at these places, and the seconds."""
    usual = Category.vertices
    Category.vertices = property(places)  # type: ignore[assignment,method-assign]
    try:
        start = time.process_time()
        run = sf.fit(table, override(auto(), [f"training.steps={steps}"]), seed=seed)
        drawn = run.sample(len(table), seed=seed)
        return drawn.columns, time.process_time() - start  # type: ignore[union-attr]
    finally:
        Category.vertices = usual  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", type=int, default=[8, 40, 120, 300])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="under a minute: 40 names, 2000 rows, 600 steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names, rows, steps, seeds = options.names, options.rows, options.steps, options.seeds
    if options.quick:
        names, rows, steps, seeds = [40], 2000, 600, 1
    print(f"{rows} rows, {steps} steps, {seeds} seeds; errors over those of a fresh sample, and seconds")
    print(f"{'names':>6} {'coding':10} {'numbers':>8} {'names':>14} {'pairs':>14} {'means':>14} {'seconds':>8}")
    for count in names:
        found: dict[str, list[np.ndarray]] = {}
        for seed in range(seeds):
            law, random = Law.of(count, seed), np.random.default_rng([1, seed, count])
            table = law.sample(rows, random)
            fresh = np.mean([law.errors(law.sample(rows, random)) for _ in range(20)], axis=0)
            places = embedding(table, seed)

            def embedded(column: Category, places: Tensor = places) -> Vertices:
                return Embedded(places) if column.name == "name" else Vertices(len(column.values))

            codings: dict[str, Places] = {
                "simplex": lambda column: Vertices(len(column.values)),
                "bits": lambda column: Vertices(len(column.values), cube=column.name == "name"),
                "embedding": embedded,
            }
            for coding, place in codings.items():
                drawn, seconds = with_places(place, table, steps, seed)
                found.setdefault(coding, []).append(np.append(law.errors(drawn) / fresh, seconds))
        known = len(set(table["name"].to_pylist()))
        numbers = {"simplex": known - 1, "bits": int(np.ceil(np.log2(known))), "embedding": _MEASURED + _RANDOM}
        for coding, each in found.items():
            mean, spread = np.mean(each, axis=0), np.ptp(each, axis=0) / 2
            cells = " ".join(f"{f'{m:.2f} ± {s:.2f}':>14}" for m, s in zip(mean[:3], spread[:3], strict=True))
            print(f"{known:6} {coding:10} {numbers[coding]:8} {cells} {mean[3]:8.1f}", flush=True)


if __name__ == "__main__":
    main()
