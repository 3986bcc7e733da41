"""Laws of the random numbers: published vectors, rows that know nothing of each other, and normals that are normal.

Statistical tests are seeded. Means and correlations are held to 5 standard errors (false alarm 6e-7 each, about a
hundred of them), distributions to √n·sup|F_n − F| < 2.7 (false alarm at most 2·exp(−2·2.7²) = 9.3e-7, Massart 1990).
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from scorefield.randomness import Noise, Stream, philox_words

ONES = 0xFFFFFFFFFFFFFFFF
STANDARD_ERRORS = 5.0
LARGEST_KOLMOGOROV = 2.7

# kat_vectors of Random123 (Salmon et al. 2011): philox4x64 with ten rounds; counter, key, words.
PUBLISHED = {
    "zeros": ((0, 0, 0, 0), (0, 0), "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    "ones": ((ONES,) * 4, (ONES,) * 2, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
    "pi": (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_philox_gives_the_published_words(name: str) -> None:
    counter, key, words = PUBLISHED[name]
    assert [f"{word:016x}" for word in philox_words(key, counter, 4).tolist()] == words.split()


@pytest.mark.parametrize("low", [0, 41, ONES])
def test_the_next_block_is_the_next_counter_also_across_a_carry(low: int) -> None:
    following = (0, 8, 9, 10) if low == ONES else (low + 1, 7, 9, 10)
    assert (philox_words((1, 2), (low, 7, 9, 10), 8)[4:] == philox_words((1, 2), following, 4)).all()


# -- rows -------------------------------------------------------------------------------------------------------------


def normals(rows: range | int, shape: tuple[int, ...], seed: int = 0, step: int = 0, draw: int = 0) -> Tensor:
    return Stream(seed, "test").normal(rows, shape, step=step, draw=draw, dtype=torch.float64)


def uniforms(rows: range | int, shape: tuple[int, ...], seed: int = 0, step: int = 0, draw: int = 0) -> Tensor:
    return Stream(seed, "test").uniform(rows, shape, step=step, draw=draw)


shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple)
both = pytest.mark.parametrize("draw_rows", [normals, uniforms])


@both
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**70), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), shapes)
@example(0, 5, 4, 11, (3,))
@example(2**64 - 2, 3, 4, 5, (7,))  # the row number itself passes 2^64
@example(2**66 // 3 - 1, 2, 3, 2, (6,))  # the counter of blocks passes 2^64 within the rows
def test_a_range_of_rows_is_a_slice_of_a_larger_one(
    draw_rows: Callable[..., Tensor], first: int, before: int, count: int, after: int, shape: tuple[int, ...]
) -> None:
    whole = draw_rows(range(first, first + before + count + after), shape)
    part = draw_rows(range(first + before, first + before + count), shape)
    assert part.shape == (count, *shape)
    assert torch.equal(part, whole[before : before + count])


@both
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 0), (0,)])
def test_no_rows_and_no_elements_are_empty_tensors(draw_rows: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    assert draw_rows(0, shape).shape == (0, *shape)
    assert draw_rows(range(4, 6), shape).shape == (2, *shape)


@both
def test_a_number_of_rows_means_the_first_rows(draw_rows: Callable[..., Tensor]) -> None:
    assert torch.equal(draw_rows(5, (3,)), draw_rows(range(5), (3,)))


@both
def test_rows_that_are_not_consecutive_are_refused(draw_rows: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="consecutive"):
        draw_rows(range(0, 10, 2), (3,))


def test_a_step_of_a_sampler_sees_its_own_rows_and_the_type_of_x() -> None:
    x = torch.zeros(4, 3, 2, dtype=torch.float64)
    stream = Stream(1, "sampler")
    part = Noise(stream, range(6, 10), step=3).like(x, draw=1)
    assert part.dtype == torch.float64
    assert torch.equal(part, Noise(stream, range(20), 3).like(torch.zeros(20, 3, 2, dtype=torch.float64), 1)[6:10])
    assert not torch.equal(part, Noise(stream, range(6, 10), step=4).like(x, draw=1))


def test_types_agree_to_rounding() -> None:
    # u₁ near one has a spacing of 2⁻²⁴ in float32, so r² = −2 log u₁ is off by about 1e-7 and r by at most 3e-4,
    # but only where r is that small itself. Elsewhere the angle's 2⁻²⁴·2π and the rounding of r remain.
    exact = Stream(0, "types").normal(100_000, (4,), dtype=torch.float64)
    single = Stream(0, "types").normal(100_000, (4,), dtype=torch.float32)
    apart = (single.double() - exact).abs().flatten()
    assert single.dtype == torch.float32
    assert apart.max() < 1e-3
    assert apart.quantile(0.99) < 2e-6
    half = Stream(0, "types").normal(100, (4,), dtype=torch.bfloat16)
    assert torch.equal(half, single[:100].bfloat16())


# -- keys -------------------------------------------------------------------------------------------------------------

KEYS = {
    "seed": lambda k: Stream(k, "a").normal(20_000, (3,)),
    "large seed": lambda k: Stream(2**80 + k, "a").normal(20_000, (3,)),
    "name": lambda k: Stream(0, "abc"[k]).normal(20_000, (3,)),
    "step": lambda k: Stream(0, "a").normal(20_000, (3,), step=k),
    "draw": lambda k: Stream(0, "a").normal(20_000, (3,), draw=k),
    "step and draw": lambda k: Stream(0, "a").normal(20_000, (3,), step=(1, 2, 3)[k], draw=(2, 1, 0)[k]),
    "rows": lambda k: Stream(0, "a").normal(range(20_000 * k, 20_000 * (k + 1)), (3,)),
    "distant rows": lambda k: Stream(0, "a").normal(range(2**64 * k, 2**64 * k + 20_000), (3,)),
}


def z_correlation(x: Tensor, y: Tensor) -> float:
    """Sample correlation in standard errors; H₀: x and y are independent."""
    x, y = x.double().flatten(), y.double().flatten()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm())) * math.sqrt(len(x))


@pytest.mark.parametrize("key", KEYS)
def test_each_part_of_the_key_gives_numbers_of_its_own(key: str) -> None:
    draws = [KEYS[key](k) for k in range(3)]
    for x, y in itertools.combinations(draws, 2):
        assert not (x == y).all(1).any()
        assert abs(z_correlation(x, y)) < STANDARD_ERRORS
    # The first rows again give the first numbers: a key is all there is.
    assert torch.equal(draws[0], KEYS[key](0))


# -- distributions ----------------------------------------------------------------------------------------------------


def moments_fit(z: Tensor, moments: tuple[float, ...] = (0, 1, 0, 3)) -> bool:
    """H₀: E z^k = moments[k − 1]; each in its own standard errors."""
    z = z.double().flatten()
    powers = torch.stack([z**k for k in range(1, len(moments) + 1)])
    errors = (powers.mean(1) - torch.tensor(moments)) / (powers.std(1) / math.sqrt(len(z)))
    return bool((errors.abs() < STANDARD_ERRORS).all())


def kolmogorov_fits(values: Tensor, distribution: Callable[[Tensor], Tensor]) -> bool:
    """H₀: the values have this distribution function."""
    u = distribution(values.double().flatten().sort().values)
    steps = torch.arange(len(u) + 1, dtype=torch.float64) / len(u)
    apart = torch.maximum((steps[1:] - u).max(), (u - steps[:-1]).max())
    return float(apart) * math.sqrt(len(u)) < LARGEST_KOLMOGOROV


def uncorrelated(z: Tensor) -> bool:
    """H₀: elements are independent of their neighbours within a row, and rows of their neighbours; so are squares."""
    for x in (z, z**2):
        pairs = [(x[:, :-lag], x[:, lag:]) for lag in (1, 2, 3)] + [(x[:-lag], x[lag:]) for lag in (1, 2, 3)]
        pairs += [(x[:-1, 1:], x[1:, :-1]), (x[:-1, -1], x[1:, 0])]
        if any(abs(z_correlation(a, b)) > STANDARD_ERRORS for a, b in pairs):
            return False
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 5])
def test_normals_are_standard_normal_and_independent(dtype: torch.dtype, size: int) -> None:
    z = Stream(3, "distribution").normal(400_000 // size, (size,), dtype=dtype)
    assert moments_fit(z)
    assert kolmogorov_fits(z, torch.special.ndtr)
    assert uncorrelated(z if size > 1 else z.view(-1, 5))


def test_uniforms_are_uniform_independent_and_inside() -> None:
    u = Stream(3, "distribution").uniform(80_000, (5,))
    assert u.dtype == torch.float64
    assert ((u > 0) & (u < 1)).all()
    assert moments_fit(u, (1 / 2, 1 / 3, 1 / 4, 1 / 5))
    assert kolmogorov_fits(u, lambda x: x)
    assert uncorrelated(u)


def test_steps_are_independent_also_seen_from_one_row() -> None:
    steps = torch.stack([Stream(5, "walk").normal(4, (5,), step=k, dtype=torch.float64) for k in range(4000)])
    assert uncorrelated(steps[:, 2])


def test_wrong_normals_are_caught() -> None:
    u = Stream(3, "distribution").uniform(200_000, (2,))
    u1, u2 = u.unbind(1)
    without_two = (-u1.log()).sqrt() * (2 * math.pi * u2).cos()  # the 2 of √(−2 log u) left out
    assert not moments_fit(without_two)
    assert not kolmogorov_fits(without_two, torch.special.ndtr)
    half_turn = (-2 * u1.log()).sqrt() * (math.pi * u2).sin()  # π for 2π
    assert not kolmogorov_fits(half_turn, torch.special.ndtr)
    twice = (-2 * u1.log()).sqrt() * (2 * math.pi * u1).cos()  # one word used for radius and angle
    assert not kolmogorov_fits(twice, torch.special.ndtr)
    assert not kolmogorov_fits(u**1.02, lambda x: x)


def test_rows_that_share_words_are_caught() -> None:
    flat = Stream(3, "distribution").normal(1, (20_004,), dtype=torch.float64).flatten()
    assert uncorrelated(flat[:20_000].view(-1, 5))
    overlapping = flat.unfold(0, 5, 4)  # row i begins on the last word of row i − 1
    assert not uncorrelated(overlapping)
    assert not uncorrelated(flat[:20_000].repeat_interleave(2).view(-1, 5))
    signs = Stream(4, "signs").normal(4000, (5,), dtype=torch.float64).sign()
    assert not uncorrelated(flat[:4000, None].abs() * signs)  # one radius a row: only the squares show it


# -- permutations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 4097])
def test_a_permutation_holds_every_number_once(count: int) -> None:
    order = Stream(0, "order").permutation(count)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


def test_permutations_differ_by_step_seed_and_name_and_are_reproducible() -> None:
    streams = [Stream(0, "order"), Stream(1, "order"), Stream(0, "other")]
    orders = [stream.permutation(50, step=step).tolist() for stream in streams for step in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert orders == [stream.permutation(50, step=step).tolist() for stream in streams for step in (0, 1)]


def test_every_order_of_four_is_as_likely_as_any_other() -> None:
    # H₀: 24 orders, each with probability 1/24. χ² with 23 degrees of freedom exceeds 80 with probability 3e-8. Caught:
    # a swap with any place instead of a later one (the common wrong shuffle), by its 256 equally likely ways into 24.
    def chi_squared(orders: list[tuple[int, ...]]) -> float:
        counts = np.array([orders.count(order) for order in itertools.permutations(range(4))])
        assert counts.sum() == len(orders)
        return float(((counts - len(orders) / 24) ** 2 / (len(orders) / 24)).sum())

    def naive(step: int) -> tuple[int, ...]:
        order = list(range(4))
        for i, u in enumerate(Stream(0, "naive").uniform(4, step=step).tolist()):
            j = int(4 * u)
            order[i], order[j] = order[j], order[i]
        return tuple(order)

    assert chi_squared([tuple(Stream(0, "order").permutation(4, step=k).tolist()) for k in range(6000)]) < 80
    assert chi_squared([naive(k) for k in range(6000)]) > 80
