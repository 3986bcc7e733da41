"""A trained model as a folder: weights, what the data was, how it was made; `load` needs no flags.

model.safetensors   averaged weights; mean and covariance of the data, conditions seen, log p of held-out rows
bundle.json         recipe, codec, noise range, versions, fingerprint of the data, losses
solvers.json        samplers fitted to the model, where there are any
README.md           the model card
MANIFEST.json       sizes and SHA-256 of these
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pydantic
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from scorefield.build import build_model, build_sampler
from scorefield.card import model_card
from scorefield.chunks import in_chunks
from scorefield.data.kinds import Data
from scorefield.data.read import read
from scorefield.drawing import OnProgress, chunk_rows, draw
from scorefield.errors import BundleError, OptionError, SamplingError, WriteError
from scorefield.features import Features
from scorefield.model import Bounded, Denoiser, NetworkDenoiser
from scorefield.moments import Moments
from scorefield.noise_range import NoiseRange
from scorefield.recipes import Recipe, plain
from scorefield.samplers.choice import Solvers, fit_solvers
from scorefield.samplers.flow import Flowed, decode, encode, slerp
from scorefield.samplers.loop import OnStep
from scorefield.samplers.presets import AnySampler, Sampler, Varied
from scorefield.scoring import Scores, Scoring, refuse_degenerate, score, time_of_noise
from scorefield.storage import MANIFEST, read_files, write_files
from scorefield.weights import check_header, load_weights

FORMAT = 1
_SOLVERS = "solvers.json"
_MOMENTS, _REFERENCE = "moments.", "reference.log_prob"  # what names of tensors begin with, or are

_UNREADABLE = (
    *(KeyError, TypeError, ValueError, AttributeError, RecursionError),
    *(safetensors.SafetensorError, pydantic.ValidationError, SamplingError),
)


@dataclass(frozen=True)
class Bundle:
    """A trained model with all that belongs to it.

    Args:
        denoiser: the model, averaged weights, in evaluation mode.
        features: how data becomes rows of R^d and back.
        recipe: complete.
        noise_range: what was measured of the data.
        facts: plain values on the data, training and versions, as they are in bundle.json.
        solvers: samplers fitted to the model, or None.
        reference: log p of rows that were held out, (n,), to rank others by; or None.
    """

    denoiser: NetworkDenoiser
    features: Features
    recipe: Recipe
    noise_range: NoiseRange
    facts: dict[str, Any]
    solvers: Solvers | None = None
    reference: Tensor | None = None

    def sample(
        self,
        rows: int,
        *,
        seed: int = 0,
        given: Mapping[str, Any] | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        tolerance: float | None = None,
        on_progress: OnProgress | None = None,
        on_step: OnStep | None = None,
    ) -> Data:
        """Draw new rows in the form of the training data.

        Args:
            rows: how many; row i is the same however many are drawn.
            seed: of all randomness.
            given: values of conditions by name; the others are drawn as they occurred with these in training.
            sampler, steps, tolerance: as in `sampler_for`.
            on_progress: called with a `Progress` after each step of the sampler, at last when all rows are drawn; what
                it raises stops the drawing.
            on_step: called as on_step(step, t, x, x0) at each level for each chunk of rows, in units of the model.

        Returns:
            a Table, an Array or Images.

        Raises:
            OptionError: for an unknown condition, category or sampler, and less than one row or two steps.
            SamplingError: for rows that are not finite.
        """
        if rows < 1:
            raise OptionError(f"rows must be at least 1, got {rows}")
        chosen = self.sampler_for(sampler, steps, tolerance)
        conditions = self._conditions(range(rows), given or {}, seed)
        drawn = draw(
            lambda part: self._model(None if conditions is None else conditions[part.start : part.stop]),
            chosen,
            rows,
            self.features.codec.shape,
            seed=seed,
            device=self.device,
            denoiser=self.denoiser,
            on_progress=on_progress,
            on_step=on_step,
        )
        return self.features.decode(drawn, conditions)

    def sampler_for(
        self, name: str | None = None, steps: int | None = None, tolerance: float | None = None
    ) -> AnySampler:
        """The sampler that these options mean.

        Args:
            name: of `samplers.presets.SAMPLERS`, "fitted" or "auto", instead of the recipe's.
            steps: number of levels; of fitted solvers, the most evaluations.
            tolerance: of fitted solvers, how far rows may end from the exact paths, in units of the data's deviation;
                of adaptive ones, the error of a step.

        Raises:
            OptionError: for what does not go together.
        """
        chosen = build_sampler(self.recipe, name, steps, tolerance, self.solvers)
        if isinstance(chosen, Sampler):
            try:
                chosen.parts(self.denoiser.schedule)
            except SamplingError as error:
                raise OptionError(f"{chosen.name} with {chosen.steps} levels: {error}") from error
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
        sampler: str | None = None,
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
        chosen = self.sampler_for("straight_adams" if sampler is None else sampler, steps)
        if not isinstance(chosen, Sampler):
            raise OptionError(f"rows are varied by a sampler with a grid to begin in, {chosen.name} has none")
        x0, conditions = self.features.encode(read(data))
        drawn = draw(
            lambda part: self._model(None if conditions is None else conditions[part.start : part.stop]),
            Varied(chosen, x0, t),
            len(x0),
            self.features.codec.shape,
            seed=seed,
            device=self.device,
            denoiser=self.denoiser,
            on_progress=on_progress,
        )
        return self.features.decode(drawn, conditions)

    def encode(self, data: Any, *, tolerance: float = 1e-5) -> Tensor:
        """Data to noise by the probability flow: z, about N(0, I), from which `decode` makes these rows again.

        Args:
            data: rows like those of training, or a path to some.
            tolerance: of a step of the flow, relative and absolute, in units of the level's deviation. Rows come back
                to some ten times this, and differ by as much between batches of other sizes, as the way up amplifies
                the rounding of matrix products.

        Returns:
            (n, *shape).
        """
        return self._encoded(data, tolerance)[0]

    def decode(self, z: Tensor, conditions: Tensor | None = None, *, tolerance: float = 1e-5) -> Data:
        """Noise to data: the inverse of `encode`.

        Args:
            z: (n, *shape), as `encode` gives them, or anything between.
            conditions: (n, k), encoded, of a conditional model; by default as they occurred in training.
            tolerance: as for `encode`.
        """
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

    def blank(self, *, seed: int = 0, given: Mapping[str, Any] | None = None) -> Data:
        """One row in the form that `sample` gives, without asking the network: to see early what can be done with it.

        Raises:
            OptionError: for an unknown condition or category.
        """
        condition = self._conditions(range(1), given or {}, seed)
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

    def save(self, path: str | Path) -> None:
        """Write the bundle into a folder, which is made if it is not there.

        Raises:
            OptionError: when the folder holds other things than a model or a run; nothing is written then.
            WriteError: when the disk refuses.
        """
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # What ends in .partial is left of a save that was cut off.
            foreign = sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".partial"))
        except OSError as error:
            raise WriteError(f"{folder}: cannot be made: {error.strerror or error}") from error
        if foreign and not {MANIFEST, "fit.json"} & set(foreign):
            raise OptionError(
                f"{folder}: it holds {foreign[0]!r} and is neither a model nor a run of scorefield; "
                "choose an empty or a new folder"
            )
        tensors = {name: value.contiguous().cpu() for name, value in self.denoiser.state_dict().items()}
        if self.denoiser.moments is not None:
            tensors |= self.denoiser.moments.to_tensors(_MOMENTS)
        if self.reference is not None:
            tensors[_REFERENCE] = self.reference.contiguous().cpu()
        if self.features.conditions is not None:
            tensors["conditions.seen"] = self.features.conditions.seen.contiguous()
        fields = {
            "format": FORMAT,
            "recipe": plain(self.recipe),
            "features": self.features.to_json(),
            "noise_range": asdict(self.noise_range),
            **self.facts,
        }
        card = model_card(self.facts, self.recipe, self.noise_range, self.features.condition_names)
        files = {
            "model.safetensors": safetensors.torch.save(tensors),
            "bundle.json": (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode(),
            "README.md": card.encode(),
        }
        if self.solvers is not None:
            files[_SOLVERS] = (json.dumps(self.solvers.to_json()) + "\n").encode()
        write_files(folder, files)

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> Bundle:
        """Read a bundle, checked against its manifest.

        Raises:
            BundleError: when something is missing, damaged, or does not fit together.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"{folder}: no such folder; a model is a folder made by `scorefield fit`")
        if not (folder / MANIFEST).exists():
            unfinished = (folder / "fit.json").exists()
            raise BundleError(
                f"{folder}: training has not finished here, the same `scorefield fit` goes on with it"
                if unfinished
                else f"{folder} is not a scorefield model: it has no {MANIFEST}"
            )
        files = read_files(folder)
        try:
            fields = json.loads(files["bundle.json"])
            check_header(files["model.safetensors"], folder / "model.safetensors")
            tensors = safetensors.torch.load(files["model.safetensors"])
            if fields["format"] != FORMAT:
                raise BundleError(f"{folder}: format {fields['format']}, this version reads {FORMAT}")
            recipe = Recipe.model_validate(fields["recipe"])
            features = Features.from_json(fields["features"], tensors.pop("conditions.seen", None))
            noise_range = NoiseRange(**fields["noise_range"])
            solvers = Solvers.from_json(json.loads(files[_SOLVERS])) if _SOLVERS in files else None
            moments = Moments.from_tensors(tensors, _MOMENTS, features.codec.shape)
            reference = tensors.pop(_REFERENCE, None)
        except _UNREADABLE as error:
            raise BundleError(f"{folder}: one of {', '.join(files)} is not as expected: {error!r}") from error
        denoiser = build_model(recipe, features.codec.shape, features.condition_features, seed=0)
        load_weights(denoiser, tensors, folder)
        facts = {name: fields[name] for name in fields if name not in ("format", "recipe", "features", "noise_range")}
        model = denoiser.to(device).eval().requires_grad_(False)
        model.moments = moments
        return Bundle(model, features, recipe, noise_range, facts, solvers, reference)
