"""A trained model and all that it does: draw rows, score them, fill in what is missing; `load` needs no flags."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scorefield.bounded import Bounded
from scorefield.build import build_sampler
from scorefield.chunks import in_chunks
from scorefield.codecs.between import Among, Between
from scorefield.codecs.table import TableCodec
from scorefield.data.kinds import Data, Table
from scorefield.data.read import read
from scorefield.drawing import OnProgress, chunk_rows, draw
from scorefield.errors import OptionError, SamplingError
from scorefield.filling import Filling, draw_given, impute
from scorefield.given import Given, given_row
from scorefield.model import Denoiser, EnergyDenoiser
from scorefield.parts import Parts
from scorefield.samplers.choice import fit_solvers
from scorefield.samplers.flow import Flowed, decode, encode, slerp
from scorefield.samplers.langevin import MetropolisLangevin
from scorefield.samplers.loop import OnStep
from scorefield.samplers.presets import AnySampler, Sampler, Varied
from scorefield.scoring import Scores, Scoring, refuse_degenerate, score, time_of_noise


@dataclass(frozen=True)
class Bundle(Parts):
    """A trained model with all that belongs to it."""

    def sample(
        self,
        rows: int,
        *,
        seed: int = 0,
        given: Mapping[str, Any] | None = None,
        sampler: str | AnySampler | None = None,
        steps: int | None = None,
        tolerance: float | None = None,
        how: Filling | None = None,
        on_progress: OnProgress | None = None,
        on_step: OnStep | None = None,
        on_chunk: Callable[[range], None] | None = None,
    ) -> Data:
        """Draw new rows in the form of the training data.

        Args:
            rows: how many; row i is the same however many are drawn.
            seed: of all randomness.
            given: by name a value, a range or a choice (`codecs.between`). Of conditions: those that are left open are
                drawn as they occurred with these in training. Of columns of a table that are no conditions: rows are
                then drawn by a particle filter.
            sampler, steps, tolerance: as in `sampler_for`, where no column is given but conditions.
            how: the particles and levels of the filter.
            on_progress: called with a `Progress` after each step of the sampler, at last when all rows are drawn; what
                it raises stops the drawing.
            on_step: called as on_step(step, t, x, x0) at each level for each chunk of rows, in units of the model; x
                and x0 are to be read, not written to.
            on_chunk: as in `drawing.draw`.

        Returns:
            a Table, an Array or Images.

        Raises:
            OptionError: for an unknown condition, category or sampler, and less than one row or two steps.
            SamplingError: for rows that are not finite.
        """
        if rows < 1:
            raise OptionError(f"rows must be at least 1, got {rows}")
        given, wished = self._split(given or {})
        conditions = self._conditions(range(rows), given, seed)
        if wished is not None:
            open_ones = Between | Among
            still = [n for n in self.features.condition_names if n not in given or isinstance(given[n], open_ones)]
            if still:
                # They would be drawn as they occur in all rows, and not in those that are asked for.
                raise OptionError(
                    f"--given: the model is conditioned on {still}, which must be given a value where other columns "
                    "are given"
                )
            if (sampler, steps, tolerance, on_step, on_chunk) != (None,) * 5:
                raise OptionError("rows with columns given are drawn by a particle filter, not by a sampler")
            filling = replace(how or Filling(), seed=seed)
            model_of = self._models(conditions)
            drawn = draw_given(model_of, self.denoiser, wished, rows, filling, on_progress)
            decoded = self.features.decode(drawn, conditions)
            return wished.kept(decoded) if isinstance(decoded, Table) else decoded
        chosen = self.sampler_for(sampler, steps, tolerance)
        drawn = draw(
            self._models(conditions),
            chosen,
            rows,
            self.features.codec.shape,
            seed=seed,
            device=self.device,
            denoiser=self.denoiser,
            on_progress=on_progress,
            on_step=on_step,
            on_chunk=on_chunk,
        )
        return self.features.decode(drawn, conditions)

    def impute(
        self,
        data: Any,
        draws: int = 1,
        *,
        seed: int = 0,
        how: Filling | None = None,
        on_progress: OnProgress | None = None,
    ) -> Table:
        """Fill the missing cells of a table, each row's drawn from p(missing | seen) of that row, whatever is missing.

        Args:
            data: a table like that of training, or a path to one, with missing cells as nulls.
            draws: K, how many rows are made of each; they stand one after the other.
            seed: of all randomness; a row is filled alike whatever the other rows are.
            how: the particles and levels of the filter (`filling`).
            on_progress: called as rows are done.

        Returns:
            K rows for each of the data, seen cells untouched, with a column `draw` where K > 1.

        Raises:
            DataError: for a table of other columns, and values that were never seen in training.
            OptionError: for fewer than one draw, and a model that is not of tables.
        """
        filling = replace(how or Filling(), seed=seed)
        return impute(self._model, self.denoiser, self.features, read(data), draws, filling, on_progress)

    def sampler_for(
        self, name: str | AnySampler | None = None, steps: int | None = None, tolerance: float | None = None
    ) -> AnySampler:
        """The sampler that these options mean.

        Args:
            name: of `samplers.presets.SAMPLERS`, "fitted" or "auto", instead of the recipe's; or a sampler itself, with
                no other option.
            steps: number of levels; of fitted solvers, the most evaluations.
            tolerance: of fitted solvers, how far rows may end from the exact paths, in units of the data's deviation;
                of adaptive ones, the error of a step.

        Raises:
            OptionError: for what does not go together.
        """
        if name is None or isinstance(name, str):
            chosen = build_sampler(self.recipe, name, steps, tolerance, self.solvers)
        elif isinstance(name, type) or not isinstance(getattr(name, "name", None), str):
            raise OptionError(f"a sampler is a name, or one as samplers.presets.heun(18) makes it, got {name!r}")
        elif (steps, tolerance) != (None, None):
            raise OptionError(f"{name.name} is given as it is: it has its own steps and tolerance")
        else:
            chosen = name
        if isinstance(chosen, Sampler):
            try:
                corrector = chosen.parts(self.denoiser.schedule)[2]
            except SamplingError as error:
                raise OptionError(f"{chosen.name} with {chosen.steps} levels: {error}") from error
            if isinstance(corrector, MetropolisLangevin) and not isinstance(self.denoiser, EnergyDenoiser):
                raise OptionError(f"{chosen.name} needs a model with an energy, which network.energy=true makes of one")
        return chosen

    def with_solvers(self, paths: int, *, seed: int = 0) -> Bundle:
        """The same bundle with solvers fitted to its model anew, in place of those it has.

        Args:
            paths: at least 4, to fit and judge them by; each costs `samplers.choice.COST` evaluations. A few rows that
                begin between modes miss most, so the error is known well from some hundreds on.
            seed: of their first draws, which are not those of `sample`.
        """
        if paths < 4:
            raise OptionError(f"solvers are fitted to at least 4 paths, got {paths}")
        conditions = self._conditions(range(paths), {}, seed)
        shape = self.features.codec.shape
        return replace(self, solvers=fit_solvers(self._model(conditions), paths, shape, seed=seed))

    def vary(
        self,
        data: Any,
        noise: float,
        *,
        seed: int = 0,
        sampler: str | AnySampler | None = None,
        steps: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Data:
        """Rows near given ones: noised up to a level and drawn again from there (SDEdit, `samplers.edit`).

        Args:
            data: rows like those of training, or a path to some; conditions are kept.
            noise: σ/α of the level, in units of the encoded data: what is coarser stays.
            seed: of all randomness.
            sampler, steps: by which to come down, a sampler with a grid; 20 levels of `straight_adams` by default.
            on_progress: as for `sample`.

        Raises:
            OptionError: for a level out of the model's range and samplers without a grid.
        """
        t = float(time_of_noise(self.denoiser.schedule, noise))
        chosen = self.sampler_to_vary_by(sampler, steps)
        x0, conditions = self.features.encode(read(data))
        drawn = draw(
            self._models(conditions),
            Varied(chosen, x0, t),
            len(x0),
            self.features.codec.shape,
            seed=seed,
            device=self.device,
            denoiser=self.denoiser,
            on_progress=on_progress,
        )
        return self.features.decode(drawn, conditions)

    def sampler_to_vary_by(self, name: str | AnySampler | None = None, steps: int | None = None) -> Sampler:
        """The sampler by which `vary` comes down; arguments and errors as there."""
        chosen = self.sampler_for("straight_adams" if name is None else name, steps)
        if not isinstance(chosen, Sampler):
            raise OptionError(f"rows are varied by a sampler with a grid to begin in, {chosen.name} has none")
        return chosen

    def encode(self, data: Any, *, tolerance: float = 1e-5) -> Tensor:
        """Data to noise by the probability flow: z, about N(0, I), from which `decode` makes these rows again.

        Args:
            data: rows like those of training, or a path to some.
            tolerance: of a step of the flow, relative and absolute, in units of the level's deviation. The middle row
                comes back to some five times this, the worst of a hundred to some hundred times, where the flow tears
                neighbours apart. They differ by as much between batches of other sizes, as the way up amplifies the
                rounding of matrix products.

        Returns:
            (n, *shape).
        """
        return self._encoded(data, tolerance)[0]

    def decode(self, z: Tensor, conditions: Tensor | None = None, *, tolerance: float = 1e-5) -> Data:
        """Noise to data: the inverse of `encode`.

        Args:
            z: (n, *shape), as `encode` gives them, or anything between; n at least 1.
            conditions: (n, k), encoded, of a conditional model; by default as they occurred in training.
            tolerance: as for `encode`.

        Raises:
            OptionError: for z of another shape.
        """
        z = torch.as_tensor(z, dtype=torch.float32)
        if z.shape[1:] != self.features.codec.shape or not len(z):
            expected = ", ".join(map(str, ("n", *self.features.codec.shape)))
            raise OptionError(f"z should have shape ({expected}), got {tuple(z.shape)}")
        if conditions is None:
            conditions = self._conditions(range(len(z)), {}, 0)
        return self.features.decode(self._flow(decode, z, conditions, tolerance), conditions)

    def interpolate(self, a: Any, b: Any, shares: Sequence[float], *, tolerance: float = 1e-5) -> list[Data]:
        """Rows between rows: decoded from the great circle between their encodings (`samplers.flow.slerp`).

        Args:
            a, b: as many rows of each as of the other, like those of training; conditions are those of a.
            shares: how far from a to b.
            tolerance: as for `encode`.

        Returns:
            as many rows for each share.
        """
        first, conditions = self._encoded(a, tolerance)
        second, _ = self._encoded(b, tolerance)
        if first.shape != second.shape:
            raise OptionError(f"interpolation is between as many rows, got {len(first)} and {len(second)}")
        return [self.decode(slerp(first, second, share), conditions, tolerance=tolerance) for share in shares]

    def _encoded(self, data: Any, tolerance: float) -> tuple[Tensor, Tensor | None]:
        """What `encode` makes of rows, and their conditions."""
        x0, conditions = self.features.encode(read(data))
        return self._flow(encode, x0, conditions, tolerance), conditions

    def _flow(self, way: Callable[..., Flowed], x: Tensor, conditions: Tensor | None, tolerance: float) -> Tensor:
        def work(rows: range) -> Tensor:
            here = slice(rows.start, rows.stop)
            # Both ways along the model as it is: a bound in one place only would not be undone by the other.
            bound = None if conditions is None else conditions[here].to(self.device)
            model = self.denoiser if bound is None else self.denoiser.given(bound)
            return way(model, x[here].to(self.device), rtol=tolerance, atol=tolerance, rows=rows).x.cpu()

        size = chunk_rows(self.features.codec.shape, self.device)
        return torch.cat([done for _, done in in_chunks(range(len(x)), size, work)])

    def log_prob(
        self, data: Any, how: Scoring | None = None, *, skip_bad: bool = False, on_progress: OnProgress | None = None
    ) -> Scores:
        """How likely rows are, in nats of the data as given, with a standard error for each (`scoring`).

        Args:
            data: rows like those of training, or a path to some. A conditional model's log p is given their conditions.
            how: tolerance, probes, draws within the bins of rounded values; the defaults suit most.
            skip_bad: whether rows without a density get NaN, and are no error.
            on_progress: as for `sample`.

        Raises:
            DataError: for rows without a density, and columns whose joint density is infinite.
            OptionError: for a level out of the model's range.
        """
        taken = read(data)
        refuse_degenerate(self.features, self.denoiser.terminal)
        return score(self.denoiser, self.features, taken, how or Scoring(), skip_bad=skip_bad, on_progress=on_progress)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.denoiser.parameters()).device

    def _model(self, conditions: Tensor | None) -> Denoiser:
        """The model for samplers, conditions (B, k) bound."""
        bounded = Bounded(self.denoiser, *self.features.codec.bounds)
        return bounded if conditions is None else bounded.given(conditions.to(self.device))

    def _models(self, conditions: Tensor | None) -> Callable[[range], Denoiser]:
        """The model for some rows of those whose conditions (n, k) these are."""
        return lambda part: self._model(None if conditions is None else conditions[part.start : part.stop])

    def _split(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], Given | None]:
        """What is given of conditions, and of other columns, None where that is nothing.

        Raises:
            OptionError: for columns that are not there.
        """
        codec, names = self.features.codec, self.features.condition_names
        own = {name: self.features.told(name, wish) for name, wish in given.items() if name in names}
        others = {name: wish for name, wish in given.items() if name not in names}
        if not others or not isinstance(codec, TableCodec):
            return {**own, **others}, None
        return own, given_row(codec, others, names)

    def blank(self, *, seed: int = 0, given: Mapping[str, Any] | None = None) -> Data:
        """One row in the form that `sample` gives, without asking the network: to see early what can be done with it.

        Raises:
            OptionError: for an unknown condition or category.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of conditions that never occurred `sample` will say it
            condition = self._conditions(range(1), self._split(given or {})[0], seed)
        return self.features.decode(torch.zeros(1, *self.features.codec.shape), condition)

    def _conditions(self, rows: range, given: Mapping[str, Any], seed: int) -> Tensor | None:
        if self.features.conditions is None:
            if given:
                raise OptionError(
                    f"this model is not conditioned on {list(given)}: fit it with --condition {next(iter(given))}"
                )
            return None
        return self.features.conditions.draw(rows, given, seed)

    def to(self, device: torch.device | str) -> Bundle:
        """The same bundle with its model on another device."""
        self.denoiser.to(device)
        return self
