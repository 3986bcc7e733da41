"""How likely each row of a user's data is: in chunks, spread over its bins, in nats of the data as they were given.

    log p(row) = log 1/K Σ_k p(x(u_k)) |∂x/∂row| / q(u_k)                                                       (1)

with x the encoded row, moved within the bins that its rounded values stand for (`likelihood.dequantisation`); without
any there is one term, and log p is that of the row itself.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from scorefield.chunks import in_chunks
from scorefield.codecs.degenerate import degenerate
from scorefield.codecs.table import TableCodec
from scorefield.data.kinds import Data, Images
from scorefield.drawing import OnProgress, Progress
from scorefield.errors import DataError, OptionError, SamplingError
from scorefield.features import Features
from scorefield.likelihood.dequantisation import Dequantiser, bits_per_dim, mean_density, through, uniform, variational
from scorefield.likelihood.log_prob import LogProb, log_prob
from scorefield.model import Denoiser, NetworkDenoiser
from scorefield.moments import Moments
from scorefield.noise import Schedule

_CHUNK = 1 << 16  # numbers at a time, of which a hundred levels are kept
_MOST_ROWS = 1 << 12
_EXACT = 64  # numbers in a row up to which the divergence is exact by default
_PROBES = 4  # by default beyond
_DRAWS, _DRAWS_OF_LONG = 4, 2  # of offsets by default, for rows of up to _EXACT numbers and beyond
_PATH, _NODES = 40, 50  # evaluations along the path, and with the divergence, at the default tolerance
_EXPECTED = 100.0  # evaluations of a row for each draw, until a chunk has told
_LISTED = 5  # rows that a refusal names
_FARTHEST = 1e12  # encoded values, of order one in training; from some 1e16 on float64 cannot carry a row to the noise


@dataclass(frozen=True)
class Scoring:
    """How log p is computed.

    Args:
        tolerance: about the solver's error, nats.
        probes: random vectors that estimate the divergence, 0 for the exact one; None for exact up to 64 numbers.
        draws: K of (1) for rows with rounded values; None for 4, or 2 of more than 64 numbers.
        fitted: whether the offsets' density is fitted to each row (variational dequantisation), and not uniform.
        noise: σ/α of the level whose density is asked for, in units of the encoded data; None for the lowest.
        seed: of offsets and probes.

    Raises:
        OptionError: for numbers out of range.
    """

    tolerance: float = 1e-3
    probes: int | None = None
    draws: int | None = None
    fitted: bool = False
    noise: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < math.inf:
            raise OptionError(f"the tolerance is an error in nats, finite and above 0, got {self.tolerance}")
        if self.probes is not None and (self.probes < 0 or self.probes == 1):
            raise OptionError(f"probes are 0 for the exact divergence, or at least 2, got {self.probes}")
        if self.draws is not None and self.draws < 1:
            raise OptionError(f"draws must be at least 1, got {self.draws}")
        if self.noise is not None and not 0 < self.noise < math.inf:
            raise OptionError(f"the noise of a level is finite and above 0, got {self.noise}")

    def probes_of(self, elements: int) -> int | None:
        """How many probes for rows of so many numbers, None for the exact divergence."""
        chosen = (0 if elements <= _EXACT else _PROBES) if self.probes is None else self.probes
        return chosen or None

    def cost(self, gridded: Tensor) -> float:
        """About how many evaluations of the model a row costs, a backward pass counting as one.

        Args:
            gridded: which numbers of a row lie on a grid, (*shape) bool.
        """
        probes, elements = self.probes_of(gridded.numel()), gridded.numel()
        return self.draws_of(elements, bool(gridded.any())) * (_PATH + _NODES * (1 + (probes or elements)))

    def draws_of(self, elements: int, gridded: bool) -> int:
        """How many offsets are drawn."""
        if not gridded:
            return 1
        return (_DRAWS if elements <= _EXACT else _DRAWS_OF_LONG) if self.draws is None else self.draws


@dataclass(frozen=True, eq=False)
class Scores:
    """log p of each row.

    Args:
        log_prob: nats of the data as given, (n,) float64; NaN for rows that have none.
        std_error: its standard error, (n,): of probes, of draws within bins, and of the solver. With few draws of many
            rounded numbers log_prob is a lower bound, whose gap this does not tell.
        unusable: why rows have no density, by row from 0.
        features: of the model.
        evaluations: of the model for a row, on average; one with the divergence counts once.
    """

    log_prob: Tensor
    std_error: Tensor
    unusable: dict[int, str]
    features: Features
    evaluations: float

    @property
    def bits_per_dim(self) -> Tensor:
        """−log P/(D log 2), (n,), of rows that are integers throughout.

        Raises:
            OptionError: unless all modelled numbers are declared integers.
        """
        return bits_per_dim(self.log_prob + self.features.codec.numbers.log_volume(), self.elements)

    @property
    def bits_std_error(self) -> Tensor:
        """The standard error of `bits_per_dim`, (n,)."""
        return self.std_error / (self.elements * math.log(2))

    @property
    def elements(self) -> int:
        """Numbers in an encoded row."""
        return math.prod(self.features.codec.shape)

    def over(self, other: Scores) -> tuple[Tensor, Tensor]:
        """log p(row)/p(other row) of each pair, and its standard error, (n,) each.

        Raises:
            OptionError: for another number of rows.
        """
        if len(self.log_prob) != len(other.log_prob):
            raise OptionError(f"densities are compared row by row, got {len(self.log_prob)} and {len(other.log_prob)}")
        return self.log_prob - other.log_prob, torch.hypot(self.std_error, other.std_error)


def score(
    denoiser: NetworkDenoiser,
    features: Features,
    data: Data,
    how: Scoring,
    *,
    skip_bad: bool = False,
    on_progress: OnProgress | None = None,
) -> Scores:
    """log p of rows.

    Args:
        denoiser: the model.
        features: how data become rows of R^d.
        data: the rows.
        how: tolerance, probes, draws.
        skip_bad: whether rows without a density get NaN, and are no error.
        on_progress: called as the work goes on; what it raises stops it.

    Raises:
        DataError: for no rows, and rows without a density unless they are skipped.
        OptionError: for a level out of the model's range.
        SamplingError: for rows on which the model is not finite, unless they are skipped.
    """
    if not len(data):
        raise DataError(f"{data.source}: no rows, at least 1 is needed")
    unusable = features.unusable_rows(data)
    unusable = dict(sorted((unusable | _too_far(features, data, unusable)).items()))
    if unusable and not skip_bad:
        raise DataError(_refusal(data, unusable))
    _time(denoiser, how.noise)
    values = torch.full((3, len(data)), math.nan, dtype=torch.float64)
    bad = np.array(sorted(unusable), dtype=np.int64)
    if len(bad) < len(data):
        # Others keep their numbers, by which they are drawn for, as a good row stands in for a bad one.
        numbers = np.arange(len(data))
        numbers[bad] = np.setdiff1d(numbers, bad)[0]
        good = data.rows(numbers) if len(bad) else data
        stopped = _fill(values, denoiser, features, good, how, skip_bad, on_progress)
        values[:, torch.from_numpy(bad)] = math.nan
        unusable = dict(sorted((stopped | unusable).items()))
    return Scores(values[0], values[1], unusable, features, float(values[2].nanmean()))


def _fill(
    values: Tensor,
    denoiser: NetworkDenoiser,
    features: Features,
    data: Data,
    how: Scoring,
    skip_bad: bool,
    on_progress: OnProgress | None,
) -> dict[int, str]:
    """Write log p, its standard error and evaluations of all rows, (3, n); say which rows the model stopped at."""
    elements = math.prod(features.codec.shape)
    # Rounding would show in the steps that are taken. Images are dear, and their error is another one.
    dtype = torch.float64 if len(features.codec.shape) == 1 else torch.float32
    model = copy.deepcopy(denoiser).to(dtype)
    draws = how.draws_of(elements, bool(features.codec.numbers.gridded.any()))
    told = _Told(on_progress, len(data), draws * _EXPECTED)
    work = _Work(model, features, data, how, draws, dtype, told)
    handle = model.register_forward_hook(told.call)
    try:
        for part, found in in_chunks(range(len(data)), max(1, min(_MOST_ROWS, _CHUNK // elements)), work):
            values[:, part.start : part.stop] = found
            if work.stopped and not skip_bad:
                raise SamplingError(_refusal(data, work.stopped))
            told.done(part)
    finally:
        handle.remove()
    return work.stopped


@dataclass(frozen=True, eq=False)
class _Work:
    """What is done with some rows; `stopped` says at which of them the model was not finite, and where."""

    model: NetworkDenoiser
    features: Features
    data: Data
    how: Scoring
    draws: int
    dtype: torch.dtype
    told: _Told
    stopped: dict[int, str] = field(default_factory=dict)

    def __call__(self, rows: range) -> Tensor:
        """log p, its standard error and evaluations of rows by their numbers, (3, n)."""
        self.told.begin(rows)
        data = self.data.rows(np.arange(rows.start, rows.stop))
        device = next(self.model.parameters()).device
        gridded = self.features.codec.numbers.gridded
        _, _, conditions = self.features.spread(data)
        model = self.model if conditions is None else self.model.given(conditions.to(device))
        offsets = self._offsets(model, data, rows, gridded)
        weights, errors, evaluations = [], [], torch.zeros(len(rows), dtype=torch.float64)
        for draw in range(self.draws):
            u, log_q = offsets.draw(draw)
            x, log_jacobian = self.features.codec.spread(data, u)
            found = self._density(model, x.to(device, self.dtype), draw, rows)
            self.stopped.update(found.faults)
            weights.append(found.value.cpu() + log_jacobian - log_q)
            errors.append(found.std_error.cpu())
            evaluations += (found.evaluations + found.traces).cpu()
        value, error = mean_density(torch.stack(weights), torch.stack(errors))
        return torch.stack([value, error, evaluations])

    def _density(self, model: Denoiser, x: Tensor, draw: int, rows: range) -> LogProb:
        """Of encoded rows at the level asked for, in their own units."""
        how = self.how
        t = _time(model, how.noise)
        alpha = model.schedule.at(t).alpha
        found = log_prob(
            model,
            alpha.to(x) * x,
            t,
            tolerance=how.tolerance,
            probes=how.probes_of(x[0].numel()),
            seed=how.seed + (draw << 32),  # no other seed of a user's has these probes
            rows=rows,
            strict=False,
        )
        shift = x[0].numel() * alpha.log()
        return replace(found, value=found.value + shift.to(found.value))

    def _offsets(self, model: Denoiser, data: Data, rows: range, gridded: Tensor) -> Dequantiser:
        if not self.how.fitted:
            return uniform(rows, gridded, self.how.seed)
        t = _time(model, self.how.noise)
        alpha, device = model.schedule.at(t).alpha, next(self.model.parameters()).device

        def slope(x: Tensor) -> Tensor:
            """∇ of log p_t(α x) in x."""
            x_t = (alpha * x).to(device, self.dtype)
            return alpha * model.score(x_t, t.to(device)).double().cpu()

        def spread(u: Tensor) -> tuple[Tensor, Tensor]:
            return self.features.codec.spread(data, u)

        return variational(through(spread, slope), rows, gridded, self.how.seed)


class _Told:
    """How far the work is, guessed within a chunk from what the one before has taken."""

    def __init__(self, on_progress: OnProgress | None, rows: int, expected: float) -> None:
        self._on_progress, self._rows, self._expected = on_progress, rows, expected
        self._done, self._asked, self._evaluations, self._size = 0, 0, 0, 0
        self._share = 0.0

    def begin(self, part: range) -> None:
        """Some rows are begun with, or begun with anew."""
        self._asked, self._size = 0, len(part)

    def call(self, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        """The model was asked once, for some rows at one level or more."""
        self._asked += len(inputs[0])
        self._evaluations += len(inputs[0])
        if self._on_progress is not None:
            within = min(0.95, self._asked / (self._expected * self._size)) * self._size
            # What is tried again in smaller chunks, as memory ran out, takes nothing back of what was told.
            self._share = max(self._share, min(0.999, (self._done + within) / self._rows))
            self._on_progress(Progress(self._share, self._rows, self._evaluations))

    def done(self, part: range) -> None:
        """Some rows are finished."""
        self._done, self._expected = part.stop, max(1.0, self._asked / len(part))
        if self._on_progress is not None:
            self._share = max(self._share, self._done / self._rows)
            self._on_progress(Progress(self._share, self._rows, self._evaluations))


def refuse_degenerate(features: Features, moments: Moments) -> None:
    """Refuse a model of columns that are linear functions of each other, whose joint density is infinite.

    Raises:
        DataError: with their names.
    """
    if isinstance(features.codec, TableCodec):
        if features.codec.dependent:
            raise DataError(features.codec.dependent)
        return
    numbers = features.codec.numbers
    free = ~numbers.gridded.reshape(-1)
    if len(moments.variances) != len(free) or len(numbers.names) != len(free):
        return  # rows of many numbers are no columns
    covariance = (moments.axes * moments.variances) @ moments.axes.T
    names = [name for name, own in zip(numbers.names, free.tolist(), strict=True) if own]
    sentence = degenerate(covariance[free][:, free], names)
    if sentence:
        raise DataError(sentence)


def rank(values: Tensor, reference: Tensor) -> Tensor:
    """The share of reference values below each value, halves for equal ones, in (0, 1): (r + ½)/(n + 1).

    Args:
        values: (m,), NaN gives NaN.
        reference: (n,), of rows like those that are normal and were not trained on; NaN are left out.

    Raises:
        OptionError: where there is none.
    """
    growing = reference[~reference.isnan()].sort().values
    if not len(growing):
        raise OptionError("there is no row to rank against: none of them has a density")
    below = torch.searchsorted(growing, values.contiguous()).double()
    upto = torch.searchsorted(growing, values.contiguous(), right=True).double()
    return torch.where(values.isnan(), math.nan, ((below + upto) / 2 + 0.5) / (len(growing) + 1))


def _too_far(features: Features, data: Data, unusable: dict[int, str]) -> dict[int, str]:
    """Why rows, of those that are usable as yet, are beyond what float64 can tell the density of, by row from 0."""
    found: dict[int, str] = {}
    if isinstance(data, Images):
        return found  # pixels have an end
    good = np.setdiff1d(np.arange(len(data)), np.array(sorted(unusable), dtype=np.int64))
    size = max(1, min(_MOST_ROWS, _CHUNK // math.prod(features.codec.shape)))
    for part in (good[start : start + size] for start in range(0, len(good), size)):
        most = features.spread(data.rows(part))[0].flatten(1).abs().amax(1)
        for place in (~(most <= _FARTHEST)).nonzero().flatten().tolist():
            found[int(part[place])] = f"it lies {float(most[place]):.1g} times as far out as the data of training"
    return found


def _time(denoiser: Denoiser, noise: float | None) -> Tensor:
    """The time of a level, the lowest by default."""
    if noise is None:
        return torch.tensor(denoiser.schedule.t_min, dtype=torch.float64)
    return time_of_noise(denoiser.schedule, noise)


def time_of_noise(schedule: Schedule, noise: float) -> Tensor:
    """The time at which σ/α is this, ().

    Raises:
        OptionError: where that is none of the model's levels.
    """
    t = schedule.time_of_sigma(noise) if noise > 0 else torch.tensor(math.nan)
    if not schedule.t_min <= float(t) <= schedule.t_max:
        ends = schedule.at(torch.tensor((schedule.t_min, schedule.t_max), dtype=torch.float64))
        low, high = (ends.sigma / ends.alpha).tolist()
        raise OptionError(f"noise must lie between the model's levels, {low:.3g} and {high:.3g}, got {noise:g}")
    return t


def _refusal(data: Data, unusable: dict[int, str]) -> str:
    shown = "; ".join(f"row {row + 1}: {reason}" for row, reason in list(unusable.items())[:_LISTED])
    more = f"; and {len(unusable) - _LISTED} more" if len(unusable) > _LISTED else ""
    return (
        f"{data.source}: {len(unusable)} of {len(data)} rows have no density, {shown}{more}: --skip-bad gives them NaN"
    )
