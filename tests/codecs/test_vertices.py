"""Vertices: exactly two apart and about the origin, decoded as the nearest one however they are blurred."""

from __future__ import annotations

import pytest
import torch

from scorefield.codecs.vertices import BLUR, REACH, Vertices
from scorefield.randomness import Stream


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_law_names_of_a_simplex_are_two_apart_about_the_origin(count: int) -> None:
    points = Vertices(count).points
    assert points.shape == (count, count - 1)
    apart = torch.cdist(points, points)
    torch.testing.assert_close(apart, 2 * (1 - torch.eye(count, dtype=torch.float64)), rtol=0, atol=1e-6)
    torch.testing.assert_close(points.sum(0), torch.zeros(count - 1, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 65, 100, 1024])
def test_law_corners_of_a_cube_are_different_and_at_least_two_apart(count: int) -> None:
    vertices = Vertices(count, cube=True)
    assert 2**vertices.features >= count
    assert count == 1 or 2 ** (vertices.features - 1) < count
    assert vertices.points.shape == (count, vertices.features)
    assert (vertices.points.abs() == 1).all()
    apart = torch.cdist(vertices.points, vertices.points) + 9 * torch.eye(count)
    assert count == 1 or float(apart.min()) == pytest.approx(2)


@pytest.mark.parametrize("cube", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 20, 70])
def test_law_whatever_is_less_than_half_way_is_decoded_as_its_name(count: int, cube: bool) -> None:
    vertices = Vertices(count, cube)
    names = torch.arange(count).repeat(20)
    away = Stream(0, "away").normal(len(names), (vertices.features,)).double()
    away = 0.999 * away / away.norm(dim=1, keepdim=True) if vertices.features else away
    assert torch.equal(vertices.nearest(vertices.points[names] + away), names)
    # Straight towards another one, half way is where the next begins.
    if count > 1:
        step = vertices.points[1] - vertices.points[0]
        near = vertices.points[0] + torch.tensor([[0.499], [0.501]]) * step
        assert vertices.nearest(near).tolist() == [0, 1]


@pytest.mark.parametrize("cube", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5, 70])
def test_the_ends_hold_every_blurred_point(count: int, cube: bool) -> None:
    vertices = Vertices(count, cube)
    low, high = vertices.ends
    assert low.shape == high.shape == (vertices.features,)
    for side in (-REACH, REACH):
        blurred = vertices.points + side * BLUR
        assert ((low <= blurred + 1e-12) & (blurred - 1e-12 <= high)).all()
