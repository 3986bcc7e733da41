"""The posterior of a Bayesian logistic regression from mini-batches, beside exact chains that say whether to trust it.

python examples/logistic_posterior.py

Both walk the same posterior. MetropolisLangevin reads all rows at each move and is exact however long its steps are;
StochasticLangevin reads a tenth of them, and its error, about step/4 of each variance and the mini-batch's own noise,
dies out with its step alone. Chains that mix well do not show it (R̂ = 1), a reference does.
"""

import time
from dataclasses import dataclass

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import logsigmoid

from scorefield.diagnostics import Summary, summarise
from scorefield.randomness import Stream
from scorefield.samplers.chains import Kernel, run_chains
from scorefield.samplers.langevin import MetropolisLangevin
from scorefield.samplers.stochastic_gradient import Posterior, StochasticLangevin
from scorefield.samplers.tuning import BEST_ACCEPTANCE


@dataclass(frozen=True)
class Regression:
    """A posterior in coordinates z in which it is nearly N(0, I), and the way back, θ = mode + factor z."""

    names: list[str]
    posterior: Posterior
    mode: Tensor
    factor: Tensor

    def coefficients(self, z: Tensor) -> Tensor:
        """θ for z (…, D)."""
        return self.mode + z @ self.factor.T


@dataclass(frozen=True)
class Run:
    """What some chains have found of θ."""

    summary: Summary
    acceptance: float | None
    seconds: float


def regression(control_variate: bool = True) -> Regression:
    """Is a tumour benign? 569 patients, 30 measurements each; θ ~ N(0, I) beforehand, for columns of deviation 1."""
    bunch = load_breast_cancer()
    columns = torch.from_numpy(bunch.data)
    columns = torch.cat((torch.ones(len(columns), 1), (columns - columns.mean(0)) / columns.std(0)), dim=1)
    # With answers y = ±1, log p(y given θ) = log sigmoid⟨y x, θ⟩: all that is needed of a patient is y x.
    data = columns * (2 * torch.from_numpy(bunch.target) - 1).unsqueeze(1)
    ridge = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
    mode = torch.from_numpy(ridge.fit(columns.numpy(), bunch.target).coef_[0])
    # A step is as long as the narrowest direction allows, so z goes along Laplace's approximation, where all are alike:
    # factor factorᵀ is the inverse of the precision at the mode.
    p = torch.sigmoid(data @ mode)
    precision = torch.eye(len(mode)) + (data * (p * (1 - p)).unsqueeze(1)).T @ data
    factor = torch.linalg.cholesky(torch.linalg.inv(precision))

    def log_prior(z: Tensor) -> Tensor:
        return -(mode + z @ factor.T).square().sum(1) / 2

    def log_likelihood(z: Tensor, rows: Tensor) -> Tensor:
        return logsigmoid(torch.einsum("cnd,cd->cn", rows, mode + z @ factor.T))

    names = ["intercept", *(str(name) for name in bunch.feature_names)]
    centre = torch.zeros_like(mode) if control_variate else None
    return Regression(names, Posterior(log_prior, log_likelihood, data, centre), mode, factor)


def run(
    problem: Regression, kernel: Kernel, chains: int, draws: int, thin: int, warmup: int, tune_to: float | None = None
) -> Run:
    """Chains that start wider than the posterior is."""
    start = 2 * Stream(0, "start").normal(chains, problem.mode.shape, dtype=torch.float64)
    began = time.perf_counter()
    found = run_chains(problem.posterior, start, kernel, draws, seed=0, warmup=warmup, thin=thin, tune_to=tune_to)
    seconds = time.perf_counter() - began
    acceptance = None if found.acceptance is None else float(found.acceptance.mean())
    return Run(summarise(problem.coefficients(found.draws)), acceptance, seconds)


def disagreement(one: Summary, other: Summary) -> tuple[float, float, float]:
    """The largest difference of two means in posterior deviations and in standard errors, and of log deviations."""
    apart = (one.mean - other.mean).abs()
    errors = (one.mcse.square() + other.mcse.square()).sqrt()
    return (
        float((apart / other.sd).max()),
        float((apart / errors).max()),
        float((one.sd / other.sd).log().abs().max()),
    )


def main(
    moves: int = 20_000, step: float = 0.04, batch: int = 57, chains: int = 16, control_variate: bool = True
) -> tuple[Run, Run]:
    """The reference by Metropolis-adjusted Langevin, and stochastic-gradient Langevin beside it.

    Args:
        moves: of each stochastic chain; the reference takes a quarter.
        step, batch: of the stochastic chains.
        chains: how many of each kind.
        control_variate: whether mini-batches are compared with the mode.
    """
    problem = regression(control_variate)
    metropolis, stochastic = MetropolisLangevin(step=0.5), StochasticLangevin(step, batch)
    exact = run(problem, metropolis, chains, moves // 4, 1, warmup=moves // 20, tune_to=BEST_ACCEPTANCE)
    small = run(problem, stochastic, chains, moves // 20, 20, warmup=moves // 20)
    print(f"{'':24}{'exact':>17}  {'mini-batches':>17}{'ESS':>9}{'':>7}{'R̂':>8}")
    one, other = exact.summary, small.summary
    for i, name in enumerate(problem.names):
        print(
            f"{name:24}{one.mean[i]:8.3f} ± {one.sd[i]:5.3f}   {other.mean[i]:8.3f} ± {other.sd[i]:5.3f}"
            f"{one.ess_bulk[i]:9.0f}{other.ess_bulk[i]:7.0f}{one.r_hat[i]:8.3f}{other.r_hat[i]:7.3f}"
        )
    for name, found in (("exact", exact), ("mini-batches", small)):
        rate = "" if found.acceptance is None else f", acceptance {found.acceptance:.3f}"
        print(
            f"{name}: {found.seconds:.1f} s, smallest ESS {found.summary.ess_bulk.min():.0f}, "
            f"tail {found.summary.ess_tail.min():.0f}, largest R̂ {found.summary.r_hat.max():.4f}{rate}"
        )
    deviations, errors, widths = disagreement(other, one)
    print(
        f"largest disagreement: of means {deviations:.3f} posterior deviations, {errors:.1f} standard errors; "
        f"of deviations {100 * widths:.1f} %"
    )
    return exact, small


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
