"""Claim: a default fit gives images one would show: MNIST in at most 15 minutes, digits in the demo's time.

Fits, draws 2000 samples, writes a picture of them beside the data, and prints the Fréchet distance between samples and
held-out images in the features of a small classifier trained here (no known network is at hand, so the figure compares
only with others of this script), beside the same distance for as many real images and for copies of the data blurred
by one pixel. Labels are needed, in a column `label`.

    python benchmarks/images.py sklearn:digits --conditional
    python benchmarks/images.py mnist-train.parquet --test mnist-test.parquet --conditional --out mnist
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import scorefield as sf
from scorefield.cli.console import Console
from scorefield.cli.demo import ten_of_each
from scorefield.data.kinds import Images
from scorefield.data.read import read
from scorefield.report.pictures import picture_beside

SAMPLES = 2000


def tensor(images: Images) -> torch.Tensor:
    """(n, C, H, W) in [0, 1]."""
    return torch.from_numpy(images.pixels.astype(np.float32) / images.maximum).movedim(-1, 1)


def classifier(images: Images, seconds: float = 60) -> nn.Module:
    """A small convolutional network trained on the labels; its features are what comes before its last layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        channels = images.pixels.shape[-1]
        body = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()),
            *(nn.Linear(64 * 16, 64), nn.ReLU()),
        )
        head = nn.Linear(64, len(np.unique(images.labels)))
        adam = torch.optim.Adam([*body.parameters(), *head.parameters()], 1e-3)
        x, y = tensor(images), torch.from_numpy(np.unique(images.labels, return_inverse=True)[1])
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            index = torch.randint(len(x), (128,))
            loss = nn.functional.cross_entropy(head(body(x[index])), y[index])
            adam.zero_grad()
            loss.backward()
            adam.step()
    return body.eval()


@torch.no_grad()
def frechet(body: nn.Module, a: torch.Tensor, b: torch.Tensor) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) of the features (Heusel et al. 2017, arXiv:1706.08500)."""
    fa, fb = body(a).double(), body(b).double()
    ca, cb = torch.cov(fa.T), torch.cov(fb.T)
    values = torch.linalg.eigvals(ca @ cb).real.clamp(min=0).sqrt().sum()
    return float((fa.mean(0) - fb.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * values)


def main() -> None:
    """Fit, draw, picture, figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", default="sklearn:digits")
    parser.add_argument("--test", help="held-out images; by default every fifth image of the data")
    parser.add_argument("--out", default="images-benchmark")
    parser.add_argument("--conditional", action="store_true")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    out.mkdir(exist_ok=True)
    data = read(arguments.data)
    test = data.rows(np.arange(0, len(data), 5)) if arguments.test is None else read(arguments.test)
    train = data.rows(np.flatnonzero(np.arange(len(data)) % 5 > 0)) if arguments.test is None else data
    start = time.perf_counter()
    if (out / "run").exists():
        shutil.rmtree(out / "run")  # an old run would be taken for finished, and its time for nought
    with Console() as console:
        condition = ["label"] if arguments.conditional else []
        bundle = sf.fit(train, out=out / "run", condition=condition, report=console)
    fit_seconds = time.perf_counter() - start
    start = time.perf_counter()
    samples = bundle.sample(SAMPLES)
    each = (time.perf_counter() - start) / SAMPLES
    shown = (
        [ten_of_each(train), ten_of_each(samples)] if arguments.conditional else [train.rows(np.arange(100)), samples]
    )
    picture_beside(*shown, out / "samples.png")
    body = classifier(train)
    x, held_out = tensor(samples), tensor(test)
    real = tensor(train.rows(np.arange(min(SAMPLES, len(train)))))
    blurred = nn.functional.avg_pool2d(real, 3, 1, 1)
    training = bundle.facts["training"]
    print(f"fit {fit_seconds:.0f} s, {training['steps']} steps, {training['milliseconds_a_step']:.4g} ms each")
    print(f"sampling {1000 * each:.3g} ms an image")
    for name, images in (("samples", x), ("training images", real), ("training images blurred", blurred)):
        print(f"Fréchet distance to held-out images in a small classifier's features, {name}: "
              f"{frechet(body, images, held_out):.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
