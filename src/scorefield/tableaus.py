"""Coefficients of explicit Runge–Kutta methods: Euler, Heun, RK4, and Dormand and Prince's pair.

k_i = f(x + h Σ_j a_ij k_j, t + c_i h),   x_new = x + h Σ_i b_i k_i,   error = h Σ_i (b_i − b̂_i) k_i          (1)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tableau:
    """The coefficients of an explicit method, (1).

    Args:
        name: for messages.
        order: p, the power of h by which the error over a given way falls.
        nodes: c_1 … c_n.
        matrix: a_ij, row i with its first i − 1 entries.
        weights: b_1 … b_n.
        error: b_i − b̂_i of (1) where the method has an embedded one of order p − 1, else empty.
        dense: d_i of the continuous extension of a step, (4) of `ode`, of order p − 1, else empty.
    """

    name: str
    order: int
    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    error: tuple[float, ...] = ()
    dense: tuple[float, ...] = ()

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last k_i is f at the end of the step and so the first one of the next."""
        return self.nodes[-1] == 1 and (*self.matrix[-1], 0.0) == self.weights


EULER = Tableau("Euler", 1, (0.0,), ((),), (1.0,))
HEUN = Tableau("Heun", 2, (0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2))
RK4 = Tableau(
    "RK4",
    4,
    (0.0, 1 / 2, 1 / 2, 1.0),
    ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
)

# Dormand & Prince 1980, "A family of embedded Runge–Kutta formulae"; Hairer, Nørsett & Wanner I, table II.5.2, and the
# continuous extension of their code DOPRI5.
DORMAND_PRINCE = Tableau(
    "Dormand–Prince",
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    (
        *(-12715105075 / 11282082432, 0.0, 87487479700 / 32700410799, -10690763975 / 1880347072),
        *(701980252875 / 199316789632, -1453857185 / 822651844, 69997945 / 29380423),
    ),
)
