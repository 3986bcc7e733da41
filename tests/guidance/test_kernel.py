"""A Gaussian given some of its numbers: against dense algebra, for full covariances and a few axes."""

import pytest
import torch
from torch import Tensor

from scorefield.guidance.kernel import Seen, Spread
from scorefield.randomness import Stream

PATTERNS = torch.tensor(
    [[True, False, True, False], [False, False, False, False], [True, True, True, False], [True, False, True, False]]
)


def spread(kept: int) -> Spread:
    axes = torch.linalg.qr(Stream(0, "axes").normal(4, (4,), dtype=torch.float64))[0][:, :kept]
    return Spread(axes, torch.tensor([3.0, 1.5, 0.7, 0.4], dtype=torch.float64)[:kept], torch.tensor(0.3).double())


def dense(q: Spread) -> Tensor:
    beside = torch.eye(4, dtype=torch.float64) - q.axes @ q.axes.mT
    return q.axes @ torch.diag(q.along) @ q.axes.mT + q.beside * beside


@pytest.mark.parametrize("kept", [4, 2, 0])
def test_draws_and_densities_are_those_of_dense_algebra(kept: int) -> None:
    q, count = spread(kept), 3
    covariance = dense(q)
    torch.testing.assert_close(q.diagonal(), covariance.diagonal())
    mean, target = (Stream(0, n).normal(4, s, dtype=torch.float64) for n, s in (("m", (count, 4)), ("t", (1, 4))))
    # Draws are affine in z: basis vectors read off their mean and their square root.
    whole = torch.cat((torch.zeros(1, 4), torch.eye(4))).double()
    for row, seen in enumerate(PATTERNS):
        z = whole.reshape(5, 1, 4).expand(5, count, 4)
        pattern = Seen.of(seen.expand(5, 4))
        drawn, density = q.given(pattern, mean[row].expand(5, count, 4), target[row].expand(5, 1, 4), z)
        slope = covariance[:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
        expected = mean[row] + (target[row][:, seen] - mean[row][:, seen]) @ slope.mT
        torch.testing.assert_close(drawn[0], expected)
        root = drawn[1:, 0] - drawn[0, 0]
        torch.testing.assert_close(root.mT @ root, covariance - slope @ covariance[seen])
        if seen.any():
            law = torch.distributions.MultivariateNormal(mean[row][:, seen], covariance[seen][:, seen])
            log_prob = law.log_prob(target[row][:, seen])
            torch.testing.assert_close(density[0] - density[0, 0], log_prob - log_prob[0])
        else:
            assert not density.any()


def test_rows_of_different_patterns_do_not_mix() -> None:
    q, z = spread(4), Stream(0, "z").normal(4, (2, 4), dtype=torch.float64)
    mean, target = torch.zeros(4, 2, 4).double(), torch.ones(4, 1, 4).double()
    drawn, density = q.given(Seen.of(PATTERNS), mean, target, z)
    for row in range(4):
        one = slice(row, row + 1)
        alone = q.given(Seen.of(PATTERNS[one]), mean[one], target[one], z[one])
        torch.testing.assert_close(alone, (drawn[one], density[one]))
