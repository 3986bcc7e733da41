"""Claim: a minute's fit gives held-out digits 1.95 bits/dim, fitted offsets, and pixels on their own need 2.41.

Bits/dim, −log₂ P/D with P the probability of a row's integers: log p + D log δ in units where an integer's bin is δ
wide, so that the figure is the same for pixels as 0 … 16, in [0, 1] and in [−1, 1]. Every image was held out; all
methods see the same ones, and ± is the standard error of a mean, or of a mean paired difference, over them.

*Ours* is a default fit within the budget: the probability flow with the offsets within a pixel's bin uniform or fitted
to each image (variational dequantisation), one, two or four draws of them, and the divergence exact or by probes; and
the variational bounds of the same network, in steps and continuous, whose decoder knows integers. On sixteen digits:

    uniform offsets, exact divergence, 1, 2, 4 draws     2.043, 2.005, 1.986        ± 0.04 over images
    fitted offsets, exact divergence, 1, 2 draws         1.963, 1.952               0.091 ± 0.011 below the first
    uniform, 2, 4, 8 probes in place of exact            2.041, 2.045, 2.045        apart by 0.002 ± 0.016
    variational bound, continuous, 1000 steps, 50        2.097, 2.088, 2.242
    histograms, mixture of Gaussians, one Gaussian       2.410, 2.626, 2.841

*All are upper bounds on −log₂ P/D.* A draw of uniform offsets moves log p of a digit by 3.8 nats (0.085 bits/dim), so
that the mean over few draws is that of the best: its own standard error, of first order in the spread, is then at most
one nat and tells nothing of how far log P is above. Fitted offsets spread less, and one of them beats four uniform.

*The variational bounds may be lower than the flow's figure*, though here they are not. They bound another density, that
of the walk, which is the flow's only for a perfect score. The flow's figure has the gap of the offsets of each of D
pixels. And its density ends at σ_min, by default δ/√12, where a pixel that is certain keeps but 92 % of its mass within
its bin: 0.12 bits with fitted offsets, 0.26 with uniform ones; while the decoder's bins of black and white reach to
infinity. `--noise` sets σ_min in units of δ; a tenth, with as many steps of training, is no better: 0.10 ± 0.02 more
with fitted offsets, 0.15 with uniform ones (32 digits), for levels below a bin's width have to be learned too.

*References*: all values alike; the histogram of each pixel on its own, one added to each count; one Gaussian with the
training images' mean and covariance (1/12 of rounding added to each variance); a mixture of Gaussians, how many and how
stiff chosen on a fifth of the training images (digits only). Gaussians have four uniform draws of offsets.

    python benchmarks/bits_per_dim.py [--budget 60] [--rows 16] [--noise 0.1]
    python benchmarks/bits_per_dim.py --data FOLDER [--budget 240] [--train 10000] [--rows 16]

FOLDER has mnist-train.parquet and mnist-test.parquet, of which the network sees the first `--train` images. `--quick`
is digits with a quarter of a minute of training, four images and one draw.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

import scorefield as sf
from scorefield.bundle import Bundle
from scorefield.data.kinds import Images
from scorefield.data.read import read
from scorefield.likelihood.dequantisation import bits_per_dim, mean_density
from scorefield.randomness import Stream
from scorefield.recipes import NoiseSettings, ObjectiveSettings, TrainingSettings
from scorefield.samplers.grids import geometric
from scorefield.scoring import Scoring
from scorefield.variational.bins import Bins
from scorefield.variational.bound import Bound, bound, continuous_bound

DRAWS = 4  # of uniform offsets; of fitted ones, half as many
TOLERANCE = 1e-2  # nats a row, far below what rows differ by


class Report:
    """Prints the mean of each method and its difference from the first."""

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def add(self, name: str, bits: Tensor, claimed: float = math.nan, seconds: float = math.nan) -> None:
        """A line of the table.

        Args:
            name: of the method.
            bits: of each image, (n,).
            claimed: root mean square of the rows' own standard errors, bits/dim.
            seconds: a row.
        """
        if self._first is None:
            self._first = bits
            print(f"\n{'bits/dim':46} {'mean':>15} {'less the first':>17} {'own error':>10} {'ms a row':>9}")
        pairs = "" if bits is self._first else _with_error(bits - self._first)
        own = "" if math.isnan(claimed) else f"{claimed:.4f}"
        shown = "" if math.isnan(seconds) else f"{1000 * seconds:.0f}"
        print(f"{name:46} {_with_error(bits):>15} {pairs:>17} {own:>10} {shown:>9}", flush=True)


def _with_error(values: Tensor) -> str:
    return f"{values.mean():.3f} ± {values.std() / len(values) ** 0.5:.3f}"


def flow(report: Report, bundle: Bundle, test: Images, exact: bool, draws: int) -> None:
    """The probability flow with offsets and divergences of each kind."""

    def runs(count: int, probes: int, fitted: bool = False) -> tuple[Tensor, Tensor, float]:
        """log P and standard errors of single draws of offsets, (count, n) each, and seconds a row of one draw."""
        start = time.perf_counter()
        found = [
            bundle.log_prob(test, Scoring(TOLERANCE, probes=probes, draws=1, fitted=fitted, seed=seed))
            for seed in range(count)
        ]
        seconds = (time.perf_counter() - start) / count / len(test)
        return torch.stack([one.log_prob for one in found]), torch.stack([one.std_error for one in found]), seconds

    def of_draws(name: str, values: Tensor, errors: Tensor, seconds: float) -> None:
        """1, 2, 4 draws at a time, averaged over the disjoint groups that there are."""
        size = 1
        while size <= len(values):
            groups = [
                mean_density(values[at : at + size], errors[at : at + size]) for at in range(0, len(values), size)
            ]
            bits = torch.stack([bits_per_dim(value, elements) for value, _ in groups]).mean(0)
            own = torch.stack([error for _, error in groups]).square().mean().sqrt() / (elements * math.log(2))
            report.add(f"{name}, {size} draw{'s' if size > 1 else ''}", bits, float(own), size * seconds)
            size *= 2

    elements = test.pixels[0].size
    least = 0 if exact else 4
    kind = "exact" if exact else "4 probes"
    values, errors, seconds = runs(draws, least)
    of_draws(f"flow, uniform offsets, {kind}", values, errors, seconds)
    of_draws(f"flow, fitted offsets, {kind}", *runs(max(1, draws // 2), least, fitted=True))
    if draws > 1:
        spread = values.var(0).mean().sqrt() / (elements * math.log(2))
        print(f"{'':4}one uniform draw has a standard deviation of {spread:.4f} bits/dim within an image", flush=True)
    for probes in (2, 4, 8) if exact else (8,):
        value, error, seconds = runs(1, probes)
        of_draws(f"flow, uniform offsets, {probes} probes", value, error, seconds)
        if exact:
            away = (value[0] - values[0]) / error[0]
            print(f"{'':4}off the exact one by {away.square().mean().sqrt():.2f} of its standard errors (rms)")


def bounds(report: Report, bundle: Bundle, test: Images, draws: int, long: bool) -> None:
    """The variational bounds of the same network, with a decoder of integers."""
    codec, model = bundle.features.codec, bundle.denoiser
    x0 = codec.encode(test)
    bins = Bins(2 / test.maximum, *codec.bounds)

    def steps(count: int) -> Callable[[int], Bound]:
        grid = geometric(model.schedule, count)
        return lambda draws: bound(model, x0, grid, seed=0, bins=bins, draws=draws)

    ways: list[tuple[str, Callable[[int], Bound], int]] = [
        ("continuous", lambda draws: continuous_bound(model, x0, seed=0, bins=bins, draws=draws), draws),
        ("50 steps", steps(50), draws),
    ]
    if long:
        ways.append(("1000 steps", steps(1000), 2))
    for name, way, count in ways:
        start = time.perf_counter()
        found = way(count)
        seconds = (time.perf_counter() - start) / len(test)
        unit = found.elements * math.log(2)
        own = float(found.std_error.square().mean().sqrt()) / unit
        report.add(f"bound, {name}, {count} draws", found.bits_per_dim, own, seconds)
        prior, middle, last = (float(part.mean()) / unit for part in (found.prior, found.steps.sum(0), found.decoder))
        print(f"{'':4}first draw {prior:.4f}, steps {middle:.3f}, decoder {last:.3f}", flush=True)


def references(report: Report, train: Images, test: Images, mixture: bool) -> None:
    """What costs nothing."""
    levels, elements = train.maximum + 1, test.pixels[0].size
    seen, asked = (images.pixels.reshape(len(images), elements).astype(np.int64) for images in (train, test))
    report.add("every value alike", torch.full((len(test),), math.log2(levels), dtype=torch.float64))
    counts = np.stack([np.bincount(column, minlength=levels) for column in seen.T]) + 1
    log_share = np.log(counts / counts.sum(1, keepdims=True))
    log_p = log_share[np.arange(elements), asked].sum(1)
    report.add("pixels on their own, histograms", bits_per_dim(torch.from_numpy(log_p), elements))
    covariance = np.cov(seen.T, bias=True) + np.eye(elements) / 12
    gaussian = torch.distributions.MultivariateNormal(
        torch.from_numpy(seen.mean(0)), torch.from_numpy(covariance), validate_args=False
    )
    report.add("one Gaussian", _spread(gaussian.log_prob, asked))
    if mixture:
        start = time.perf_counter()
        best, said = _mixture(seen)
        report.add(f"mixture of Gaussians ({said})", _spread(lambda x: torch.from_numpy(best.score_samples(x)), asked))
        print(f"{'':4}chosen and fitted in {time.perf_counter() - start:.0f} s", flush=True)


def _spread(log_density: Callable[[Tensor], Tensor], pixels: np.ndarray) -> Tensor:
    """Bits/dim of a density of real pixels with uniform offsets, (n,)."""
    values = torch.stack([log_density(_offset(pixels, draw)) for draw in range(DRAWS)])
    return bits_per_dim(mean_density(values, torch.zeros_like(values))[0], pixels.shape[1])


def _offset(pixels: np.ndarray, draw: int) -> Tensor:
    u = Stream(draw, "offsets of references").uniform(pixels.size).reshape(pixels.shape)
    return torch.from_numpy(pixels) + u - 0.5


def _mixture(seen: np.ndarray) -> tuple[GaussianMixture, str]:
    """The best on a fifth of the images, fitted to all, each twice with other offsets."""

    def rows(part: np.ndarray) -> np.ndarray:
        return np.concatenate([_offset(part, 10 + copy).numpy() for copy in range(2)])

    def fitted(part: np.ndarray, count: int, stiff: float) -> GaussianMixture:
        return GaussianMixture(count, reg_covar=stiff, random_state=0, max_iter=50).fit(rows(part))

    kept, checked = seen[np.arange(len(seen)) % 5 > 0], seen[::5]
    tried = [
        (float(_spread(lambda x, m=fitted(kept, k, s): torch.from_numpy(m.score_samples(x)), checked).mean()), k, s)
        for k in (5, 10, 20, 40)
        for s in (0.03, 0.1, 0.3)
    ]
    _, count, stiff = min(tried)
    return fitted(seen, count, stiff), f"{count}, floor {stiff:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder with MNIST; without it, scikit-learn's digits")
    parser.add_argument("--budget", type=float, help="seconds of training, 60 for digits and 240 for MNIST")
    parser.add_argument("--rows", type=int, help="held-out images, 16")
    parser.add_argument("--train", type=int, default=10_000, help="images of MNIST to train on")
    parser.add_argument("--noise", type=float, help="σ_min in widths of a bin, by default 1/√12")
    parser.add_argument("--times", help="the law of noise in training, by default that of a default fit")
    parser.add_argument("--run", help="a folder for the fitted model, used again where it is there")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun, digits = time.perf_counter(), options.data is None
    if digits:
        data = read("sklearn:digits")
        test = data.rows(np.arange(0, len(data), 5))
        train = data.rows(np.flatnonzero(np.arange(len(data)) % 5))
    else:
        train = read(str(Path(options.data) / "mnist-train.parquet"))
        train = train.rows(np.arange(min(options.train, len(train))))
        test = read(str(Path(options.data) / "mnist-test.parquet"))
    count = options.rows or (4 if options.quick else 16)
    test = test.rows(np.arange(min(count, len(test))))
    budget = options.budget or (15.0 if options.quick else 60.0 if digits else 240.0)
    noise = NoiseSettings(sigma_min=None if options.noise is None else options.noise * 2 / train.maximum)
    objective, training = ObjectiveSettings(times=options.times), TrainingSettings(budget=budget)
    recipe = sf.recipes.auto().model_copy(update={"training": training, "noise": noise, "objective": objective})
    bundle = sf.fit(train, recipe, out=options.run)
    torch.set_num_threads(1)  # training may have chosen otherwise
    done, network = bundle.facts["training"], bundle.recipe.network
    print(
        f"{'digits' if digits else 'MNIST'}: {len(train)} images to train on, {len(test)} held out; "
        f"{done['seconds']:.0f} s, {done['steps']} steps, {done['parameters']:,} parameters "
        f"({network.kind}, channels {network.channels}), noise {bundle.recipe.objective.times}, σ_min = "
        f"{(bundle.recipe.noise.sigma_min or 0) * train.maximum / 2:.3f} bins"
    )
    report = Report()
    flow(report, bundle, test, exact=digits, draws=1 if options.quick else DRAWS if digits else 2)
    bounds(report, bundle, test, 2 if options.quick else 8 if digits else 4, long=digits and not options.quick)
    references(report, train, test, mixture=digits and not options.quick)
    print(f"{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
