"""Laws of the table network: shapes, zeros at birth, rows apart, derivatives of both orders, bfloat16 close by."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scorefield.errors import OptionError
from scorefield.networks.mlp import MLP

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "mlp_step.py"


def seeded(shape: tuple[int, ...] = (2,), *, born: bool = True, condition_features: int = 0, width: int = 32) -> MLP:
    """A small network with reproducible weights; with born=False the zeros of its initialisation are filled in."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(shape, width=width, depth=3, condition_features=condition_features)
        if not born:
            torch.nn.init.normal_(network.out.weight, std=0.2)
            torch.nn.init.normal_(network.out.bias, std=0.2)
    return network


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (13,), (3, 4), (1, 2, 3)])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_output_has_shape_and_type_of_the_input(shape: tuple[int, ...], rows: int) -> None:
    network = seeded(shape, born=False)
    x, c_noise = noise(rows, *shape), noise(rows, seed=2)
    assert network(x, c_noise).shape == x.shape
    with bfloat16():
        output = network(x, c_noise)
    assert (output.shape, output.dtype) == (x.shape, torch.float32)


def test_a_new_network_predicts_zero_and_learns_from_there() -> None:
    network = seeded()
    output = network(noise(7, 2), noise(7, seed=2))
    assert not output.any()
    (output - 1).square().mean().backward()
    assert network.out.weight.grad is not None
    assert network.out.weight.grad.any()


def test_every_parameter_is_reached() -> None:
    network = seeded(born=False, condition_features=3)
    network(noise(7, 2), noise(7, seed=2), noise(7, 3, seed=3)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_arguments_survive_json_and_rebuild_the_network() -> None:
    network = seeded((3, 2), born=False, condition_features=4)
    names = ("shape", "width", "depth", "condition_features", "noise_frequencies")
    again = MLP(**json.loads(json.dumps({name: getattr(network, name) for name in names})))
    again.load_state_dict(network.state_dict())
    x, c_noise, condition = noise(5, 3, 2), noise(5, seed=2), noise(5, 4, seed=3)
    torch.testing.assert_close(again(x, c_noise, condition), network(x, c_noise, condition), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be 1 or more, got 0"),
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"condition_features": -1}, "condition_features must be 0 or more, got -1"),
        ({"noise_frequencies": -1}, "noise_frequencies must be 0 or more, got -1"),
        ({"outputs": 0}, "outputs must be 1 or more, got 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MLP((2,), **arguments)


def with_depth(depth: int, shape: tuple[int, ...], outputs: int = 1, condition_features: int = 0) -> MLP:
    """A network of normals with this many hidden layers and outputs, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(shape, 12, depth, condition_features, outputs=outputs).double()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return network


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("condition_features", [0, 2])
def test_output_and_trace_are_those_of_derivatives(
    depth: int, shape: tuple[int, ...], outputs: int, condition_features: int
) -> None:
    network = with_depth(depth, shape, outputs, condition_features)
    condition = noise(5, condition_features, seed=3).double() if condition_features else None
    x, c_noise = noise(5, *shape).double(), noise(5, seed=2).double()
    assert network.has_closed_trace
    output, trace = network.output_and_trace(x, c_noise, condition)
    torch.testing.assert_close(output, network(x, c_noise, condition))

    def first(row: Tensor, i: int) -> Tensor:
        kept = None if condition is None else condition[i : i + 1]
        return network(row[None], c_noise[i : i + 1], kept)[0, : shape[0]]

    for i, row in enumerate(x):
        slope = torch.autograd.functional.jacobian(lambda y, i=i: first(y, i), row)
        expected = slope.reshape(row.numel(), row.numel()).trace()
        assert float(trace[i].detach()) == pytest.approx(float(expected), rel=1e-10)


def test_the_trace_of_a_deep_network_is_refused() -> None:
    network = with_depth(3, (2,))
    assert not network.has_closed_trace
    with pytest.raises(ValueError, match="the trace is known for one or two hidden layers, these are 3"):
        network.output_and_trace(noise(4, 2).double(), torch.zeros(1))


def test_the_trace_has_second_derivatives_and_the_precision_of_autocast() -> None:
    for depth in (1, 2):
        network, c_noise = with_depth(depth, (2,)), noise(3, seed=2).double()
        x = noise(3, 2).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda y, n=network, c=c_noise: n.output_and_trace(y, c), (x,))
        network = network.float()
        exact = network.output_and_trace(x.float(), c_noise.float())
        with bfloat16():
            rounded = network.output_and_trace(x.float(), c_noise.float())
        for mine, truth in zip(rounded, exact, strict=True):
            assert mine.dtype == torch.float32
            assert 0 < (mine - truth).norm() < 0.03 * truth.norm()


@pytest.mark.parametrize("shape", [(3,), (1, 4), (2, 2, 3)])
def test_several_outputs_follow_each_other_along_the_first_axis(shape: tuple[int, ...]) -> None:
    network = with_depth(2, shape, outputs=3)
    single, size = with_depth(2, shape), noise(1, *shape).numel()
    x, c_noise = noise(4, *shape).double(), noise(4, seed=2).double()
    output = network(x, c_noise)
    assert output.shape == (4, 3 * shape[0], *shape[1:])
    # Each is what a network with its share of the last layer gives.
    for number, part in enumerate(output.chunk(3, dim=1)):
        own = network.state_dict()
        for name in ("out.weight", "out.bias"):
            own[name] = own[name][number * size : (number + 1) * size]
        single.load_state_dict(own)
        torch.testing.assert_close(single(x, c_noise), part)
    assert not MLP(shape, 8, 2, outputs=3)(x.float(), c_noise.float()).any()


@pytest.mark.parametrize("width", [32, 256])
def test_a_row_does_not_depend_on_the_others(width: int) -> None:
    # A kernel may sum in another order at another batch size, so equality is up to rounding: 256 terms of float32.
    network = seeded((4,), born=False, width=width)
    x, c_noise = noise(257, 4), noise(257, seed=2)
    whole = network(x, c_noise)
    other = network(torch.cat([x[:9], 100 * x[9:]]), torch.cat([c_noise[:9], -c_noise[9:]]))
    torch.testing.assert_close(other[:9], whole[:9], rtol=0, atol=0)
    for rows in (1, 2, 9, 64):
        torch.testing.assert_close(network(x[:rows], c_noise[:rows]), whole[:rows], rtol=1e-5, atol=1e-5)


def test_one_noise_level_and_one_condition_serve_all_rows() -> None:
    network = seeded(born=False, condition_features=3)
    x, c_noise, condition = noise(6, 2), noise(1, seed=2), noise(1, 3, seed=3)
    each = network(x, c_noise.expand(6), condition.expand(6, 3))
    torch.testing.assert_close(network(x, c_noise, condition), each, rtol=0, atol=0)


def test_noise_and_condition_have_an_effect() -> None:
    network = seeded(born=False, condition_features=3)
    x, c_noise, condition = noise(6, 2), noise(6, seed=2), noise(6, 3, seed=3)
    output = network(x, c_noise, condition)
    for changed in (network(x, c_noise + 0.1, condition), network(x, c_noise, condition + 0.1)):
        assert ((changed - output).flatten(1).norm(dim=1) > 1e-4).all()


def test_no_condition_is_a_condition_of_zeros_and_a_wrong_one_is_refused() -> None:
    network = seeded(born=False, condition_features=3)
    x, c_noise = noise(6, 2), noise(6, seed=2)
    torch.testing.assert_close(network(x, c_noise), network(x, c_noise, torch.zeros(6, 3)), rtol=0, atol=0)
    for wrong in (torch.zeros(6, 2), torch.zeros(3)):
        with pytest.raises(OptionError, match=r"\(B, 3\)"):
            network(x, c_noise, wrong)
    with pytest.raises(OptionError, match="none"):
        seeded()(x, c_noise, torch.zeros(6, 2))


def test_first_and_second_derivatives_are_those_of_finite_differences() -> None:
    network = seeded(born=False, condition_features=1, width=8).double()
    inputs = [noise(3, 2).double(), noise(3, seed=2).double(), noise(3, 1, seed=3).double()]
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(network, inputs)
    assert torch.autograd.gradgradcheck(network, inputs)


def test_bfloat16_stays_close_in_output_gradient_and_second_derivative() -> None:
    # bfloat16 rounds each product's entries to 2^-9: a per cent or so of the whole after four layers.
    network = seeded(born=False, width=128)

    def trace_and_gradients() -> tuple[Tensor, ...]:
        x = noise(64, 2).requires_grad_()
        output = network(x, noise(64, seed=2))
        columns = [torch.autograd.grad(output[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)]
        trace = torch.stack(columns).sum(0)
        return output, trace, *torch.autograd.grad(trace.square().mean(), [*network.parameters()][:-1])

    exact = trace_and_gradients()
    with bfloat16():
        rounded = trace_and_gradients()
    for mine, truth in zip(rounded, exact, strict=True):
        assert mine.dtype == torch.float32
        assert 0 < (mine - truth).norm() < 0.03 * truth.norm()


def test_bfloat16_still_tells_rows_apart_that_its_eight_bits_cannot() -> None:
    # 1.001 and 1.002 are one number in bfloat16. The first layer below has slope 64 and value 0 at x = 1, so that the
    # bfloat16 of its result keeps the step between them.
    network = seeded((1,))
    x = torch.tensor([[1.001], [1.002]])
    assert x.to(torch.bfloat16).unique().numel() == 1
    with torch.no_grad():
        network.first.weight.zero_()
        network.first.weight[:, 0] = 64
        network.first.bias.fill_(-64)
        for layer in [*network.hidden, network.out]:
            torch.nn.init.eye_(layer.weight)
            layer.bias.zero_()
        c_noise = torch.zeros(1)
        with bfloat16():
            near, far = network(x, c_noise)
        exact = network(x, c_noise)
    torch.testing.assert_close(far - near, exact[1] - exact[0], rtol=0.1, atol=0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_small_function_is_learned(precision: torch.dtype) -> None:
    network = seeded(condition_features=1, width=64)
    x, c_noise, condition = noise(128, 2), noise(128, seed=2), noise(128, 1, seed=3)
    target = torch.sin(2 * x) * c_noise.unsqueeze(1) + condition
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, fused=True)
    for _ in range(400):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            output = network(x, c_noise, condition)
        functional.mse_loss(output, target).backward()
        optimizer.step()
    assert functional.mse_loss(network(x, c_noise, condition), target) < 0.01 * target.square().mean()


def test_the_benchmark_runs() -> None:
    command = [sys.executable, str(BENCHMARK), "--rounds", "1", "--repeats", "1", "--width", "16"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "step bfloat16" in printed
