"""Laws of the measured noise range: brute force, units, copies of rows, the rule for levels, and refusals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import Tensor

from scorefield.errors import DataError
from scorefield.noise_range import LARGEST_RATIO, NoiseRange, geometric_ratio, measure_noise_range
from scorefield.randomness import Stream


def cloud(rows: int, *shape: int, seed: int = 0) -> Tensor:
    return Stream(seed, "cloud").normal(rows, shape, dtype=torch.float64)


def brute_force(x: Tensor) -> tuple[float, float]:
    """Largest distance, and median distance to the nearest row that differs, from every pair in float64."""
    flat = x.double().flatten(1).numpy()
    distances = cdist(flat, flat)
    nearest = np.where(distances > 0, distances, np.inf).min(1)
    return float(distances.max()), float(torch.from_numpy(nearest[np.isfinite(nearest)]).median())


# -- distances --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (2,), (13,), (80,), (3, 8, 8)])
@pytest.mark.parametrize("rows", [2, 3, 600, 1100])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_every_pair_is_measured(rows: int, shape: tuple[int, ...], offset: float) -> None:
    # Rows far from the origin beside their distances are where products in float32 would cancel.
    x = offset + 0.05 * cloud(rows, *shape)
    found, (largest, nearest) = measure_noise_range(x), brute_force(x.float())
    assert found.largest_distance == pytest.approx(largest, rel=1e-3)
    assert found.largest_distance_bound == found.largest_distance
    assert found.nearest_distance == pytest.approx(nearest, rel=1e-3)
    assert (found.rows, found.dimension) == (rows, math.prod(shape))
    assert found.sigma_data == pytest.approx(float(x.float().double().std(correction=0)), rel=1e-6)


def test_points_that_can_be_measured_by_hand() -> None:
    # A unit square and a far point: distances 1 (four sides), √2, and to (5, 1) 4, √17, 5 …: √26 the largest.
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [5.0, 1.0]])
    found = measure_noise_range(square)
    assert found.largest_distance == pytest.approx(math.sqrt(26), rel=1e-6)
    assert found.nearest_distance == pytest.approx(1, rel=1e-6)  # median of 1, 1, 1, 1, 4
    # All ten coordinates 0 0 1 0 0 1 1 1 5 1: mean 1, mean square 3.
    assert found.sigma_data == pytest.approx(math.sqrt(3 - 1), rel=1e-6)
    assert found.sigma_max == found.largest_distance
    assert found.sigma_min == pytest.approx(0.02 * math.sqrt(2), rel=1e-6)  # half of 1/√2 would be above 0.02 σ_data
    assert "kept at 0.02 σ_data" in found.reason


def test_sigma_min_is_half_the_nearest_distance_per_element() -> None:
    # Two lattices of 450 points with step 1, far apart so that the share of σ_data does not bind: every nearest
    # neighbour is at 1, so σ_min = 1/(2√2).
    axis = torch.arange(30.0)
    points = torch.cartesian_prod(axis, axis)
    points[450:] += 60
    found = measure_noise_range(points)
    assert found.nearest_distance == pytest.approx(1, rel=1e-6)
    assert found.sigma_min == pytest.approx(1 / math.sqrt(8), rel=1e-6)
    assert found.largest_distance == pytest.approx(89 * math.sqrt(2), rel=1e-6)  # from (0, 0) to (89, 89)


@pytest.mark.parametrize("shape", [(2,), (100,)])
@pytest.mark.parametrize("outlier", [False, True])
def test_of_many_rows_the_truth_lies_between_what_was_found_and_the_bound(
    shape: tuple[int, ...], outlier: bool
) -> None:
    x = cloud(5000, *shape)
    if outlier:
        x[4321] = 40.0  # one row in 5000: likely not among those looked at, found by the walk
    found, (largest, nearest) = measure_noise_range(x), brute_force(x)
    assert found.largest_distance <= largest * (1 + 1e-6)
    assert found.largest_distance_bound >= largest * (1 - 1e-6)
    assert found.largest_distance_bound <= 2 * largest  # each row is nearer to the mean than to its farthest row
    assert found.largest_distance > 0.9 * largest
    assert found.nearest_distance == pytest.approx(nearest, rel=0.1)
    assert "4000 random rows" in found.reason


def test_the_rows_looked_at_are_a_function_of_the_seed() -> None:
    x = cloud(5000, 2)
    assert measure_noise_range(x, seed=1) == measure_noise_range(x, seed=1)
    assert measure_noise_range(x, seed=1).nearest_distance != measure_noise_range(x, seed=2).nearest_distance


# -- units ------------------------------------------------------------------------------------------------------------


def lengths(found: NoiseRange) -> list[float]:
    return [
        *(found.sigma_data, found.sigma_min, found.sigma_max, found.largest_distance, found.largest_distance_bound),
        *(found.nearest_distance, found.resolution or 0.0),
    ]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(2, 30),
    dimension=st.sampled_from([1, 2, 5, 70]),
    scale=st.sampled_from([1e-6, 0.3, 7.0, 1e6]),
    resolution=st.sampled_from([None, 0.01, 0.5]),
)
def test_other_units_give_the_same_range_in_those_units(
    seed: int, rows: int, dimension: int, scale: float, resolution: float | None
) -> None:
    x = cloud(rows, dimension, seed=seed)
    before = measure_noise_range(x, resolution=resolution)
    after = measure_noise_range(scale * x, resolution=None if resolution is None else scale * resolution)
    # In 70 dimensions distances come from products in float32.
    assert lengths(after) == pytest.approx([scale * length for length in lengths(before)], rel=1e-3)
    assert abs(after.levels - before.levels) <= 1  # rounding may cross a whole number
    assert 0 < after.sigma_min < after.sigma_max < math.inf
    assert after.sigma_max >= 4 * after.sigma_min * (1 - 1e-12)
    assert after.levels >= 2
    # The levels span the range, and none is farther from the next than the rule allows.
    assert before.sigma_min * before.ratio ** (before.levels - 1) == pytest.approx(before.sigma_max, rel=1e-9)
    assert before.ratio <= geometric_ratio(dimension) * (1 + 1e-9)


def test_where_rows_lie_changes_nothing() -> None:
    x = cloud(50, 3)
    assert lengths(measure_noise_range(x + 5)) == pytest.approx(lengths(measure_noise_range(x)), rel=1e-4)
    shuffled = x[torch.from_numpy(Stream(0, "shuffle").permutation(50))]
    assert lengths(measure_noise_range(shuffled)) == pytest.approx(lengths(measure_noise_range(x)), rel=1e-6)


# -- copies and resolution --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "offset"), [(2, 0.0), (100, 0.0), (100, 10.0)])
def test_copies_of_rows_do_not_pull_sigma_min_to_zero(dimension: int, offset: float) -> None:
    x = offset + 0.1 * cloud(300, dimension)
    once, thrice = measure_noise_range(x), measure_noise_range(x.repeat(3, 1))
    assert lengths(thrice) == pytest.approx(lengths(once), rel=1e-3)
    assert once.sigma_min >= 3.4e-3 * once.sigma_data


@pytest.mark.parametrize("rows", [100, 10_000])
@pytest.mark.parametrize("dimension", [1, 3, 100])
@pytest.mark.parametrize("odd", [0, 1, 2, 3])
def test_one_row_that_differs_among_copies_is_a_distribution(rows: int, dimension: int, odd: int) -> None:
    # At 10 000 rows all that are looked at may be copies of one.
    x = torch.zeros(rows, dimension)
    x[odd] = 1
    found = measure_noise_range(x)
    assert all(0 < length < math.inf for length in lengths(found)[:-1])
    assert found.largest_distance == pytest.approx(math.sqrt(dimension), rel=1e-3)
    assert found.sigma_min <= 0.02 * found.sigma_data * (1 + 1e-9)


def test_values_on_a_grid_have_its_rounding_error_already() -> None:
    # H₀: rounding to step δ leaves an error of deviation δ/√12, which is σ_min. Threshold: 5 standard errors of a mean
    # square of 40 000 errors, a false alarm of 6e-7; δ/2, the largest error, in its place is caught.
    x, step = 2 * cloud(20_000, 2), 0.1
    rounded = (x / step).round() * step
    error = (rounded - x).flatten()
    sigma_min = measure_noise_range(rounded[:500], resolution=step).sigma_min
    apart = float(error.square().mean()) - sigma_min**2
    allowed = 5 * float(error.square().std()) / math.sqrt(len(error))
    assert abs(apart) < allowed < abs(float(error.square().mean()) - (step / 2) ** 2)
    assert measure_noise_range(x[:500], resolution=step).resolution == step


def test_a_grid_that_is_too_fine_or_too_coarse_is_kept_within_bounds() -> None:
    x = cloud(200, 2)
    fine, coarse = (measure_noise_range(x, resolution=step) for step in (1e-9, 100.0))
    assert fine.sigma_min == pytest.approx(3.5e-3 * fine.sigma_data)
    assert coarse.sigma_min == pytest.approx(0.2 * coarse.sigma_data)
    assert "kept at" in fine.reason


# -- the rule for levels ----------------------------------------------------------------------------------------------


def overlap(gamma: float, dimension: int) -> float:
    """How much of level σ's shell lies within three deviations of level γσ's (Song & Ermon 2020, technique 2).

    The norm of D normals of deviation σ is about N(√D σ, σ²/2); what falls into √D γσ ± 3γσ/√2 is integrated here.
    """
    density_at = torch.linspace(-12, 12, 400_001, dtype=torch.float64)  # of the smaller level's norm, standardised
    norms = math.sqrt(dimension) + density_at / math.sqrt(2)
    inside = (norms - gamma * math.sqrt(dimension)).abs() <= 3 * gamma / math.sqrt(2)
    density = torch.exp(-(density_at**2) / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(density * inside, density_at))


@pytest.mark.parametrize("dimension", [40, 784, 3072, 12_288])
def test_neighbouring_levels_overlap_by_half(dimension: int) -> None:
    gamma = geometric_ratio(dimension)
    assert overlap(gamma, dimension) == pytest.approx(0.5, abs=1e-4)
    assert 1 < gamma < LARGEST_RATIO


def test_the_ratio_for_cifar10_is_near_the_published_configuration() -> None:
    # NCSNv2's CIFAR-10: 232 levels from 50 to 0.01, so γ = 5000^(1/231) = 1.0376. The rule itself, without their
    # rounding, has √(2D)(γ − 1) = 3γ where the far side's share is nothing: γ = 1 + 3/(√(2D) − 3) = 1.0398.
    gamma = geometric_ratio(3072)
    assert gamma == pytest.approx(1 + 3 / (math.sqrt(2 * 3072) - 3), rel=1e-6)
    assert gamma == pytest.approx(5000 ** (1 / 231), rel=5e-3)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**7))
def test_the_ratio_falls_with_the_dimension_and_is_capped(dimension: int) -> None:
    gamma = geometric_ratio(dimension)
    assert 1 < gamma <= LARGEST_RATIO
    assert geometric_ratio(dimension + 1) <= gamma + 1e-12


def test_in_few_dimensions_the_rule_sets_no_limit() -> None:
    # However large γ, the shells of fewer than five dimensions overlap by more than half.
    for dimension in (1, 2, 4):
        assert overlap(100.0, dimension) > 0.5
        assert geometric_ratio(dimension) == pytest.approx(LARGEST_RATIO)


def test_levels_are_as_many_as_the_ratio_needs() -> None:
    x = cloud(300, 50)
    found = measure_noise_range(x)
    needed = math.log(found.sigma_max / found.sigma_min) / math.log(geometric_ratio(50))
    assert needed <= found.levels - 1 < needed + 1


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_are_refused(rows: int) -> None:
    with pytest.raises(DataError, match=f"at least 2 rows, got {rows}"):
        measure_noise_range(torch.zeros(rows, 3))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e6])
@pytest.mark.parametrize("rows", [2, 5000])
def test_rows_that_are_all_equal_are_refused(value: float, rows: int) -> None:
    with pytest.raises(DataError, match=f"all {rows} rows are equal"):
        measure_noise_range(torch.full((rows, 3), value))


def test_equal_rows_of_different_values_are_refused() -> None:
    # The elements differ from each other, but no row from any other.
    for rows in (3, 5000):
        with pytest.raises(DataError, match=f"all {rows} rows are equal"):
            measure_noise_range(torch.tensor([[1.0, 2.0, 3.0]]).repeat(rows, 1))


def test_a_random_part_gives_the_range_of_the_whole_when_told_its_size() -> None:
    """Within a tenth, five times the scatter of a median of 4000 distances; untold, the part's is √8 = 2.8 times it."""
    whole = cloud(32_000, 2)
    part = whole[Stream(1, "part").permutation(32_000)[:4000].copy()]
    nearest = measure_noise_range(part, rows=32_000).nearest_distance
    assert nearest == pytest.approx(measure_noise_range(part).nearest_distance / 8**0.5)
    assert nearest == pytest.approx(measure_noise_range(whole).nearest_distance, rel=0.1)
    assert "of 4000 random rows" in measure_noise_range(part, rows=32_000).reason
