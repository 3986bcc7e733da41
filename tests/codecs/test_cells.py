"""Cells: where a number may stand and what that weighs, against autograd; parts kept together; what training draws."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scorefield.codecs.cells import Cells
from scorefield.randomness import Stream

ROWS = 40
WIDTH = 0.25  # of a bin, in units of the data


def cells() -> Cells:
    """A point, a bin of the width of 0.1, and two numbers about a vertex."""
    values = Stream(0, "cells").uniform(ROWS, (4,)) * 6 - 3
    point = Cells.points(values[:, :1], torch.full((ROWS, 1), 0.7, dtype=torch.float64))
    extent = torch.full((ROWS, 1), 0.05, dtype=torch.float64)
    rounded = Cells(values[:, 1:2], extent, torch.zeros(ROWS, 1, dtype=torch.bool), (2 * extent / WIDTH).log())
    return Cells.beside([point, rounded, Cells.about(values[:, 2:], 0.3)])


def offsets(name: str = "u") -> Tensor:
    return Stream(0, name).uniform(ROWS, (4,))


def test_law_the_weight_is_the_slope_in_u_of_what_is_spread() -> None:
    u = offsets().requires_grad_()
    x, weight = cells().at(u)
    (slopes,) = torch.autograd.grad(x.sum(), u)
    assert (slopes[:, 0] == 0).all()
    # Of a point the slope is that of its scale, 0.7; of a bin it is in units of the data, WIDTH of which it holds.
    expected = 0.7 + slopes[:, 1].log() - math.log(WIDTH) + slopes[:, 2:].log().sum(1)
    torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-9)


def test_law_half_is_the_centre_and_what_none_means() -> None:
    made = cells()
    for u in (None, torch.full((ROWS, 4), 0.5)):
        x, weight = made.at(u)
        torch.testing.assert_close(x, made.centre, rtol=0, atol=1e-12)
        torch.testing.assert_close(weight, made.at(None)[1])


def test_law_offsets_stay_within_bins_and_are_finite_at_the_ends() -> None:
    made = cells()
    for end in (0.0, 1.0):
        x, weight = made.at(torch.full((ROWS, 4), end))
        torch.testing.assert_close((x - made.centre)[:, 1].abs(), made.extent[:, 1])
        assert x.isfinite().all()
        assert weight.isfinite().all()
        # Nearly all of a normal, and no infinity.
        assert ((x - made.centre)[:, 2:].abs() > 6 * 0.3).all()


def test_equivalence_normals_draw_where_their_ranks_stand() -> None:
    made, z = cells(), Stream(0, "z").normal(ROWS, (4,)).double()
    torch.testing.assert_close(made.drawn(z), made.at(torch.special.ndtr(z))[0], rtol=1e-9, atol=1e-9)


def test_statistics_a_normal_about_a_vertex_and_evenly_in_a_bin() -> None:
    """Deviations within 4 standard errors, 10⁵ draws; caught: a uniform of the wrong width, a normal not scaled."""
    one, z = cells().rows(torch.zeros(100_000, dtype=torch.long)), Stream(1, "z").normal(100_000, (4,)).double()
    moved = one.drawn(z) - one.centre
    assert (moved[:, 0] == 0).all()
    even = float(moved[:, 1].std()) / (0.1 / math.sqrt(12))  # the fourth moment of a uniform is 9/5
    assert abs(even - 1) < 4 * math.sqrt((9 / 5 - 1) / 4 / 100_000)
    assert abs(float(moved[:, 2:].std()) / 0.3 - 1) < 4 / math.sqrt(4 * 100_000)


def test_rows_and_choices_keep_every_part_together() -> None:
    made = cells()
    other = Cells.about(torch.zeros(ROWS, 4, dtype=torch.float64), 1.0)
    chosen = torch.arange(ROWS) % 3 == 0
    mixed, u = made.where(chosen, other), offsets()
    for part in (0, 1):
        expected = torch.where(chosen.reshape((-1, 1)[: 2 - part]), made.at(u)[part], other.at(u)[part])
        assert torch.equal(mixed.at(u)[part], expected)
    index = torch.tensor([7, 0, 7])
    for one, all_of in zip(mixed.rows(index).at(u[index]), mixed.at(u), strict=True):
        assert torch.equal(one, all_of[index])


def test_what_training_keeps_draws_the_same_in_single_precision() -> None:
    made, z = cells(), Stream(0, "z").normal(ROWS, (4,))
    kept = made.kept(torch.device("cpu"))
    assert kept.rows(torch.tensor([1, 2])).drawn(z[:2]).dtype == torch.float32
    torch.testing.assert_close(kept.drawn(z).double(), made.drawn(z.double()), rtol=1e-6, atol=1e-6)
