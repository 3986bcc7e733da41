"""One optimisation step of the table network against the bare matrix products in it.

Claim: a whole step of the library's training loop (order of rows, keyed noise, denoising loss, gradients, clipping,
fused Adam, average of weights) on points in the plane, width 256, depth 4, batch 1024, takes at most 2 times its own
matrix products in the same precision, in bfloat16 and in float32, without torch.compile (median of the rounds).

The products are the three of each layer (forward, gradient of the input, gradient of the weights; the first layer has
no gradient of its input) and nothing else: no bias, no activation. Contenders take turns within each round, because
the speed of a machine drifts; a ratio is of one round, and the table gives its median and extremes over the rounds.

    python benchmarks/mlp_step.py [--threads 1] [--rounds 15] [--compile] [--release-memory] [--cpu-time]

glibc is asked to keep freed memory, as `fit` does. With --release-memory it is left as it is: it then hands a step's
activations back to the system and takes them again in the next, page by page, which cost 1.5 to 2 ms of processor time
a step in bfloat16 and 3.5 to 5 in float32 where this was written, more or less as the heap happens to lie.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from scorefield.build import build_model, build_objective
from scorefield.networks.mlp import MLP
from scorefield.noise_range import measure_noise_range
from scorefield.overrides import override
from scorefield.recipes import auto
from scorefield.resolve import DataFacts, resolve
from scorefield.training.loop import Trainer
from scorefield.training.memory import keep_freed_memory
from scorefield.training.rows import Rows

BATCH, FEATURES, SIGMA_DATA = 1024, 2, 1.0
LEARNING_RATE, BETAS, EPSILON, CLIP, DECAY = 3e-3, (0.9, 0.99), 1e-8, 1.0, 0.999


@contextlib.contextmanager
def float32_products(library: str) -> Iterator[None]:
    """Float32 products by PyTorch's default library, or by oneDNN, which is 2 times as fast on AMD and as exact there
    (it may round to bfloat16 inside where the processor has units for that)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if library == "oneDNN" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def products(network: MLP, precision: torch.dtype) -> Callable[[], None]:
    """The bare products of a step: all that a perfect implementation could not leave out."""
    layers = [network.first, *network.hidden, network.out]
    # In bfloat16 the first layer takes its input as a sum of two, so its product is twice as wide: count the plain one.
    pairs = [
        (
            torch.randn(BATCH, layer.in_features, dtype=precision),
            torch.randn(BATCH, layer.out_features, dtype=precision),
        )
        for layer in layers
    ]
    weights = [layer.weight.detach().to(precision) for layer in layers]

    def run() -> None:
        for index, ((inputs, gradients), weight) in enumerate(zip(pairs, weights, strict=True)):
            torch.mm(inputs, weight.T)
            torch.mm(gradients.T, inputs)
            if index > 0:
                torch.mm(gradients, weight)

    return run


def denoising(data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch: network input, noise coordinate, target (Karras et al. 2022, table 1, EDM)."""
    x0 = data.index_select(0, torch.randint(len(data), (BATCH,)))
    log_sigma = 1.2 * torch.randn(BATCH) - 1.2
    sigma = log_sigma.exp().unsqueeze(1)
    x_t = x0 + sigma * torch.randn_like(x0)
    c_in = (SIGMA_DATA**2 + sigma**2).rsqrt()
    target = (x0 - (SIGMA_DATA * c_in) ** 2 * x_t) / (sigma * SIGMA_DATA * c_in)
    return c_in * x_t, log_sigma / 4, target


def training_step(data: Tensor, width: int, depth: int, precision: str) -> tuple[MLP, Callable[[], None]]:
    """A step of the library's own training loop: order, noise, times, loss, gradients, checks, Adam, average."""
    settings = [f"training.precision={precision}", "training.steps=1000000", f"training.batch={BATCH}"]
    settings += [f"network.width={width}", f"network.depth={depth}"]
    facts = DataFacts((FEATURES,), len(data), measure_noise_range(data), torch.device("cpu"))
    recipe, _ = resolve(override(auto(), settings), facts)
    model = build_model(recipe, facts.shape, 0, seed=0)
    rows = Rows(np.arange(len(data)), lambda numbers, _: (data.index_select(0, torch.from_numpy(numbers)), None))
    nothing = Rows(np.arange(0), rows.take)
    steps = iter(Trainer(model, build_objective(recipe), rows, nothing, recipe.training, seed=0))
    assert isinstance(model.network, MLP)
    return model.network, lambda: (next(steps), None)[1]


def compiled_step(network: MLP, data: Tensor, precision: torch.dtype) -> Callable[[], None]:
    """Loss, gradients, clipping, Adam and average in one compiled graph, to see what that would give."""
    weights = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    average = {name: weight.clone() for name, weight in weights.items()}
    count = torch.zeros(())

    def loss(weights: dict[str, Tensor], inputs: Tensor, c_noise: Tensor, target: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            output = torch.func.functional_call(network, weights, (inputs, c_noise))
        return (output - target).square().mean()

    @torch.compile(dynamic=False)
    def update(inputs: Tensor, c_noise: Tensor, target: Tensor) -> None:
        gradients = torch.func.grad(loss)(weights, inputs, c_noise, target)
        norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
        scale = (CLIP / (norm + 1e-6)).clamp(max=1)
        count.add_(1)
        for name, weight in weights.items():
            first[name].lerp_(gradients[name] * scale, 1 - BETAS[0])
            second[name].lerp_((gradients[name] * scale).square(), 1 - BETAS[1])
            step = first[name] / (1 - BETAS[0] ** count)
            weight.sub_(LEARNING_RATE * step / ((second[name] / (1 - BETAS[1] ** count)).sqrt() + EPSILON))
            average[name].lerp_(weight, 1 - DECAY)

    def run() -> None:
        update(*denoising(data))

    return run


def seconds(run: Callable[[], None], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=10, help="steps in a round")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="add the compiled step; needs a C++ compiler")
    parser.add_argument("--release-memory", action="store_true", help="leave glibc's way with freed memory as it is")
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for a busy machine and one thread")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    if not options.release_memory:
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = torch.randn(50_000, FEATURES)

    # name -> (what runs, library of float32 products, the bare products it is compared with)
    contenders: dict[str, tuple[Callable[[], None], str, str]] = {}
    for name, precision, library in (
        ("float32", torch.float32, "default"),
        ("float32 oneDNN", torch.float32, "oneDNN"),
        ("bfloat16", torch.bfloat16, "default"),
    ):
        network, step = training_step(data, options.width, options.depth, str(precision).removeprefix("torch."))
        bare = f"products {name}"
        contenders[bare] = (products(network, precision), library, bare)
        contenders[f"step {name}"] = (step, library, bare)
        if options.compile and library == "default":
            contenders[f"compiled step {name}"] = (compiled_step(network, data, precision), library, bare)

    for name, (run, library, _) in contenders.items():
        with float32_products(library):
            wait = seconds(run, 1, time.perf_counter)
            seconds(run, options.repeats, clock)
        if name.startswith("compiled"):
            print(f"{name}: first call {wait:.1f} s")

    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, (run, library, _) in contenders.items():
            with float32_products(library):
                times[name].append(seconds(run, options.repeats, clock))

    print(f"torch {torch.__version__}, {options.threads} thread(s), {BATCH} x {options.width}, depth {options.depth}")
    print(f"{'':26}{'microseconds':>14}{'min - max':>18}{'x products':>12}{'min - max':>14}")
    for name, (_, _, bare) in contenders.items():
        mine = [1e6 * value for value in times[name]]
        ratios = [value / other for value, other in zip(times[name], times[bare], strict=True)]
        spread = f"{min(mine):.0f} - {max(mine):.0f}"
        ratio_spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
        print(
            f"{name:26}{statistics.median(mine):14.0f}{spread:>18}{statistics.median(ratios):12.2f}{ratio_spread:>14}"
        )


if __name__ == "__main__":
    main()
