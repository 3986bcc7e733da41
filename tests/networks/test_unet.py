"""Laws of the U-Net: every size, zeros at birth, rows apart, all parameters reached, a batch learned, bf16 close by."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scorefield.errors import OptionError
from scorefield.networks.embeddings import per_channel
from scorefield.networks.unet import Attention, UNet

SMALL: dict[str, Any] = {"channels": (32, 32), "blocks": (1, 1), "attention": (False, True), "embedding_features": 32}


def seeded(in_channels: int = 1, *, born: bool = True, **arguments: Any) -> UNet:
    """A small network with reproducible weights; with born=False the zeros of its initialisation are filled in."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(in_channels, **{**SMALL, **arguments})
        if not born:
            for parameter in network.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
    return network


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 7), (8, 8), (28, 28), (32, 32), (13, 6), (5, 31)])
def test_output_has_the_shape_of_the_input(size: tuple[int, int], patch: int) -> None:
    network = seeded(channels=(32, 32, 32), blocks=(1, 0, 1), attention=(False, True, False), patch=patch)
    assert network(noise(2, 1, *size), torch.zeros(2)).shape == (2, 1, *size)


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4])
def test_any_number_of_channels_and_one_level_for_all_rows(in_channels: int) -> None:
    network = seeded(in_channels, born=False)
    x = noise(3, in_channels, 9, 10)
    torch.testing.assert_close(network(x, torch.tensor([0.2])), network(x, torch.full((3,), 0.2)))


def test_a_new_network_gives_exactly_zero() -> None:
    assert not seeded()(noise(2, 1, 8, 8), torch.zeros(2)).any()
    assert not seeded(outputs=2)(noise(2, 1, 8, 8), torch.zeros(2)).any()


@pytest.mark.parametrize("patch", [1, 2])
def test_several_outputs_follow_each_other_along_the_channels(patch: int) -> None:
    network, single = seeded(3, born=False, outputs=2, patch=patch), seeded(3, born=False, patch=patch)
    x, c_noise = noise(2, 3, 7, 9), noise(2, seed=2)
    output = network(x, c_noise)
    assert output.shape == (2, 6, 7, 9)
    # Each is what a network with its share of the last layer gives, which unfolds its own patches.
    for number, part in enumerate(output.chunk(2, dim=1)):
        own = network.state_dict()
        for name in ("leave.weight", "leave.bias"):
            own[name] = own[name].chunk(2)[number]
        single.load_state_dict(own)
        torch.testing.assert_close(single(x, c_noise), part)


def test_the_same_seed_gives_the_same_weights_and_no_draw_is_made_afterwards() -> None:
    first, second = seeded(), seeded()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    state = torch.random.get_rng_state()
    first(noise(2, 1, 8, 8), torch.zeros(2)).sum().backward()
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_row_does_not_depend_on_the_others() -> None:
    # Would catch statistics over the batch, and levels or conditions given to the wrong row.
    network = seeded(2, born=False, condition_features=3).eval()
    x, c_noise, condition = noise(5, 2, 11, 8), noise(5, seed=2), noise(5, 3, seed=3)
    together = network(x, c_noise, condition)
    for i in range(5):
        alone = network(x[i : i + 1], c_noise[i : i + 1], condition[i : i + 1])
        assert (together[i] - alone[0]).abs().max() < 1e-5 * together.abs().max()
    shuffled = network(x.flip(0), c_noise.flip(0), condition.flip(0)).flip(0)
    assert (together - shuffled).abs().max() < 1e-5 * together.abs().max()


def test_every_parameter_is_reached_by_the_gradient() -> None:
    network = seeded(born=False, condition_features=3)
    network(noise(4, 1, 8, 8), noise(4, seed=2), noise(4, 3, seed=3)).square().sum().backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@pytest.mark.parametrize("patch", [1, 2])
def test_features_are_channels_last_throughout(patch: int) -> None:
    # One channel is both channels-last and contiguous: convolutions then fall back to contiguous, a fifth slower.
    network = seeded(born=False, patch=patch)
    orders = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module is not network.enter:
            module.register_forward_hook(
                lambda _, x, y: orders.append(x[0].is_contiguous(memory_format=torch.channels_last))
            )
    network(noise(2, 1, 8, 8), torch.zeros(2))
    assert len(orders) == 13
    assert all(orders)


def test_every_pixel_can_be_reached_from_every_other() -> None:
    # 15 x 13 folds to 8 x 7, shrinks to 4 x 4: the rows that padding adds and cropping removes lie at the far edge.
    network = seeded(born=False)
    x = noise(1, 1, 15, 13).requires_grad_()
    network(x, torch.zeros(1))[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0


def test_noise_level_and_condition_change_the_output_after_training_steps() -> None:
    network = seeded(condition_features=2)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    x, c_noise, condition = noise(8, 1, 8, 8), noise(8, seed=2), torch.eye(2).repeat(4, 1)
    for _ in range(6):
        loss = functional.mse_loss(
            network(x, c_noise, condition), x * per_channel(condition[:, :1] + c_noise.unsqueeze(-1))
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    here = network(x, c_noise, condition)
    assert (here - network(x, c_noise, condition.flip(-1))).abs().max() > 1e-3
    assert (here - network(x, c_noise + 0.5, condition)).abs().max() > 1e-3
    torch.testing.assert_close(network(x, c_noise), network(x, c_noise, torch.zeros(1, 2)))


@pytest.mark.parametrize("bf16", [False, True])
def test_a_small_batch_is_learned(bf16: bool) -> None:
    network = seeded()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    x, target, c_noise = noise(4, 1, 9, 9), noise(4, 1, 9, 9, seed=2), torch.zeros(4)
    losses = []
    for _ in range(100):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = network(x, c_noise)
        loss = functional.mse_loss(y, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5


def test_bf16_gives_float32_close_to_full_precision() -> None:
    network = seeded(3, born=False)
    x, c_noise = noise(4, 3, 12, 12), noise(4, seed=2)
    exact = network(x, c_noise)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, c_noise)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()


def test_plain_and_fused_attention_agree() -> None:
    # 12 x 24 positions take the plain products, 24 x 24 the fused operator.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = Attention(32, 16)
        torch.nn.init.normal_(attention.out.weight)
    x = noise(2, 32, 12, 24)
    tiled = torch.cat([x, x], dim=2)
    # Attention without positions: every value repeated twice leaves every average as it was, and norms too.
    assert tiled.shape[2] * tiled.shape[3] > 512 > x.shape[2] * x.shape[3]
    torch.testing.assert_close(attention(tiled)[:, :, :12], attention(x), rtol=1e-4, atol=1e-4)


def test_lengths_that_do_not_agree_are_refused() -> None:
    with pytest.raises(OptionError, match="one entry per resolution: 2 channels, 1 blocks, 2 attention"):
        UNet(1, channels=(32, 32), blocks=(1,), attention=(False, False))
    with pytest.raises(OptionError, match="heads of 32 features do not divide 48 channels"):
        UNet(1, channels=(48,), blocks=(1,), attention=(True,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": (0, 32)}, "channels must be 1 or more, got 0"),
        ({"channels": (32, -32)}, "channels must be 1 or more, got -32"),
        ({"blocks": (1, -1)}, "blocks must be 0 or more, got -1"),
        ({"patch": 0}, "patch must be 1 or more, got 0"),
        ({"outputs": 0}, "outputs must be 1 or more, got 0"),
        ({"in_channels": 0}, "in_channels must be 1 or more"),
        ({"head_features": 0}, "head_features must be 1 or more"),
        ({"embedding_features": 0}, "embedding_features must be 1 or more"),
        ({"condition_features": -1}, "condition_features must be 0 or more, got -1"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        UNet(**{"in_channels": 1, "channels": (32, 32), "blocks": (1, 1), "attention": (False, False), **arguments})


def test_a_condition_of_another_shape_is_refused() -> None:
    x, c_noise = noise(2, 1, 8, 8), torch.zeros(2)
    for wrong in (torch.zeros(2, 2), torch.zeros(3)):
        with pytest.raises(OptionError, match=r"\(B, 3\), got"):
            seeded(condition_features=3)(x, c_noise, wrong)
    with pytest.raises(OptionError, match="shape none, got"):
        seeded()(x, c_noise, torch.zeros(2, 2))
