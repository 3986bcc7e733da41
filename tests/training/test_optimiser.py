"""Laws of the optimiser: which weights Muon takes, what its step is, and that its state goes on to the same bits."""

import pytest
import torch
from torch import nn

from scorefield.training.optimiser import Optimiser


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 1, 3))


def gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        # As autograd leaves them: laid out like the parameter.
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))


def test_muon_steps_every_direction_of_a_kernel_alike() -> None:
    module = network()
    kernel = module[1].weight
    before = kernel.detach().clone()
    gradients(module, 1)
    assert kernel.grad is not None
    # A gradient with singular values far apart: gradient descent would follow the largest alone.
    u, _, v = torch.linalg.svd(kernel.grad.flatten(1), full_matrices=False)
    kernel.grad = (u @ torch.diag(torch.logspace(0, -2, len(u))) @ v).reshape(kernel.shape)
    Optimiser(module, muon=True, beta2=0.99).step(1e-2)
    moved = torch.linalg.svdvals((before - kernel.detach()).flatten(1))
    # Liu et al. 2025: 0.2·lr·√(longer side) in each direction, up to the accuracy of five Newton–Schulz steps.
    wanted = 0.2 * 1e-2 * max(kernel.flatten(1).shape) ** 0.5
    assert moved.max() < 1.35 * wanted
    assert moved.min() > 0.55 * wanted


@pytest.mark.parametrize("muon", [True, False])
def test_entrances_and_exits_are_stepped_by_adam(muon: bool) -> None:
    module = network()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    gradients(module, 2)
    Optimiser(module, muon=muon, beta2=0.99).step(1e-3)
    for number, (old, new) in enumerate(zip(before, module.parameters(), strict=True)):
        is_adam = not muon or number != 2  # 2 is the weight of the middle convolution
        # Adam's first step moves every entry by the learning rate, whatever its gradient.
        moved_alike = torch.allclose((old - new).abs(), torch.full_like(old, 1e-3), rtol=1e-3)
        assert moved_alike == is_adam


def test_the_layout_in_memory_changes_nothing() -> None:
    plain, last = network(), network().to(memory_format=torch.channels_last)
    for module in (plain, last):
        optimiser = Optimiser(module, muon=True, beta2=0.99)
        for seed in range(3):
            gradients(module, seed)
            optimiser.step(1e-2)
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        # Columns of the matrix are in another order, which orthogonalising does not see, up to bfloat16 rounding.
        assert torch.allclose(a, b, atol=2e-3)


@pytest.mark.parametrize("muon", [True, False])
def test_going_on_from_a_state_gives_the_same_bits(muon: bool) -> None:
    whole, halves = network(), network()
    straight = Optimiser(whole, muon=muon, beta2=0.99)
    first = Optimiser(halves, muon=muon, beta2=0.99)
    for seed in range(3):
        for module, optimiser in ((whole, straight), (halves, first)):
            gradients(module, seed)
            optimiser.step(1e-2)
    second = Optimiser(halves, muon=muon, beta2=0.99)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    for seed in range(3, 6):
        for module, optimiser in ((whole, straight), (halves, second)):
            gradients(module, seed)
            optimiser.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))
