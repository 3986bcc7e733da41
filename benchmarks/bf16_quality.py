"""Claim: bfloat16 products cost no quality: at the same number of steps both precisions reach the same error.

For each seed the same fit is done in float32 and in bfloat16. On toy:mixture the error is that of the score against the
closed form (see mixture.py); on images it is the held-out loss, whose noise is the same for both. Prints the figures,
the paired difference with its standard error over seeds, and milliseconds a step.

    python benchmarks/bf16_quality.py [--seeds 3] [--steps 3000] [--image-steps 600]
"""

from __future__ import annotations

import argparse
import statistics

from mixture import score_error

import scorefield as sf
from scorefield.overrides import override

PRECISIONS = ("float32", "bfloat16")


def fitted(data: str, precision: str, steps: int, seed: int) -> sf.Bundle:
    """A fit of a fixed number of steps in one precision."""
    settings = [f"training.precision={precision}", f"training.steps={steps}", "training.patience=1000"]
    return sf.fit(data, override(sf.recipes.auto(), settings), seed=seed)


def compare(name: str, data: str, steps: int, seeds: int) -> None:
    """Fit both ways for each seed and print a line of figures for each and their difference."""
    differences: list[float] = []
    errors: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    speeds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for seed in range(seeds):
        for precision in PRECISIONS:
            bundle = fitted(data, precision, steps, seed)
            training = bundle.facts["training"]
            error = score_error(bundle)[0] if data == "toy:mixture" else training["held_out_loss"]
            errors[precision].append(error)
            speeds[precision].append(training["milliseconds_a_step"])
        differences.append(errors["bfloat16"][-1] - errors["float32"][-1])
    for precision in PRECISIONS:
        figures = ", ".join(f"{error:.4f}" for error in errors[precision])
        print(f"{name}, {precision:>8}: {figures}   ({statistics.median(speeds[precision]):.2f} ms a step)")
    spread = statistics.stdev(differences) / len(differences) ** 0.5 if seeds > 1 else float("nan")
    print(f"{name}, bfloat16 − float32: {statistics.mean(differences):+.4f} ± {spread:.4f}", flush=True)


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--image-steps", type=int, default=600)
    arguments = parser.parse_args()
    compare("score error on toy:mixture", "toy:mixture", arguments.steps, arguments.seeds)
    compare("held-out loss on digits", "sklearn:digits", arguments.image_steps, arguments.seeds)


if __name__ == "__main__":
    main()
