"""A trained model as a folder: weights, what the data was, how it was made; `load` needs no flags.

model.safetensors   averaged weights, and the conditions seen in training
bundle.json         recipe, codec, noise range, versions, fingerprint of the data, losses
README.md           the model card
MANIFEST.json       sizes and SHA-256 of the three
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydantic
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from scorefield.build import build_model, build_sampler
from scorefield.card import model_card
from scorefield.data.kinds import Data
from scorefield.errors import BundleError, OptionError, WriteError
from scorefield.features import Features
from scorefield.model import Bounded, NetworkDenoiser
from scorefield.noise_range import NoiseRange
from scorefield.recipes import Recipe, plain
from scorefield.samplers.loop import OnStep
from scorefield.storage import MANIFEST, read_files, write_files

FORMAT = 1
_CHUNK = 1 << 18  # numbers drawn at a time on a processor: what its caches still serve
_ACCELERATED = 8  # times as many on an accelerator, which is idle with less
_MOST_ROWS = 16_384

_UNREADABLE = (
    *(KeyError, TypeError, ValueError, AttributeError, RecursionError),
    *(safetensors.SafetensorError, pydantic.ValidationError),
)

OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class Bundle:
    """A trained model with all that belongs to it.

    Args:
        denoiser: the model, averaged weights, in evaluation mode.
        features: how data becomes rows of R^d and back.
        recipe: complete.
        noise_range: what was measured of the data.
        facts: plain values on the data, training and versions, as they are in bundle.json.
    """

    denoiser: NetworkDenoiser
    features: Features
    recipe: Recipe
    noise_range: NoiseRange
    facts: dict[str, Any]

    def sample(
        self,
        rows: int,
        *,
        seed: int = 0,
        given: Mapping[str, Any] | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Data:
        """Draw new rows in the form of the training data.

        Args:
            rows: how many; row i is the same however many are drawn.
            seed: of all randomness.
            given: values of conditions by name; the others are drawn as they occurred with these in training.
            sampler, steps: instead of the recipe's.
            on_progress: called with the share that is done after each step of the sampler, with 1 when all rows are
                drawn; what it raises stops the drawing.

        Returns:
            a Table, an Array or Images.

        Raises:
            OptionError: for an unknown condition, category or sampler, and less than one row or two steps.
            SamplingError: for rows that are not finite.
        """
        if rows < 1:
            raise OptionError(f"rows must be at least 1, got {rows}")
        if steps is not None and steps < 2:
            raise OptionError(f"steps must be at least 2, got {steps}")
        shape = self.features.codec.shape
        chosen = build_sampler(self.recipe, sampler, steps)
        levels = len(chosen.grid(self.denoiser.schedule, chosen.steps))
        bounded = Bounded(self.denoiser, *self.features.codec.bounds)
        device = next(self.denoiser.parameters()).device
        most = _CHUNK if device.type == "cpu" else _ACCELERATED * _CHUNK
        size = max(1, min(_MOST_ROWS, most // max(1, math.prod(shape))))
        drawn, conditions = [], []
        for start in range(0, rows, size):
            part = range(start, min(start + size, rows))
            condition = self._conditions(part, given or {}, seed)
            model = bounded if condition is None else bounded.given(condition.to(device))
            tell = None if on_progress is None else _share_of_steps(on_progress, part, rows, levels)
            drawn.append(chosen(model, part, shape, seed=seed, device=device, on_step=tell).cpu())
            conditions.append(condition)
            if on_progress is not None:
                on_progress(part.stop / rows)
        bound = None if conditions[0] is None else torch.cat([c for c in conditions if c is not None])
        return self.features.decode(torch.cat(drawn), bound)

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
        if self.features.conditions is not None:
            tensors["conditions.seen"] = self.features.conditions.seen.contiguous()
        fields = {
            "format": FORMAT,
            "recipe": plain(self.recipe),
            "features": self.features.to_json(),
            "noise_range": asdict(self.noise_range),
            **self.facts,
        }
        write_files(
            folder,
            {
                "model.safetensors": safetensors.torch.save(tensors),
                "bundle.json": (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode(),
                "README.md": model_card(
                    self.facts, self.recipe, self.noise_range, self.features.condition_names
                ).encode(),
            },
        )

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
        except _UNREADABLE as error:
            raise BundleError(f"{folder}: bundle.json or model.safetensors is not as expected: {error!r}") from error
        denoiser = build_model(recipe, features.codec.shape, features.condition_features, seed=0)
        _load_weights(denoiser, tensors, folder)
        facts = {name: fields[name] for name in fields if name not in ("format", "recipe", "features", "noise_range")}
        return Bundle(denoiser.to(device).eval().requires_grad_(False), features, recipe, noise_range, facts)


def check_header(content: bytes, path: Path) -> None:
    """Refuse a safetensors file whose header claims more than the file holds, before memory is taken.

    Raises:
        BundleError: with the file and what it claims.
    """
    if len(content) < 8:
        raise BundleError(f"{path}: {len(content)} bytes are no safetensors file")
    (length,) = struct.unpack("<Q", content[:8])
    if length > len(content) - 8:
        raise BundleError(f"{path}: its header claims {length} bytes, the file has {len(content)}")


def _load_weights(denoiser: NetworkDenoiser, tensors: dict[str, Tensor], folder: Path) -> None:
    """All weights or none: missing, unexpected and mismatched ones are listed."""
    expected = denoiser.state_dict()
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    other = [
        f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}, expected {tuple(value.shape)} {value.dtype}"
        for name, value in expected.items()
        if name in tensors and (tensors[name].shape != value.shape or tensors[name].dtype != value.dtype)
    ]
    if missing or unexpected or other:
        raise BundleError(
            f"{folder}: weights do not fit: missing {missing}, unexpected {unexpected}, different {other}"
        )
    denoiser.load_state_dict(tensors)


def _share_of_steps(tell: OnProgress, part: range, rows: int, steps: int) -> OnStep:
    """What tells, at each level that a chunk of the rows has reached, which share of all rows is done."""
    return lambda step, t, x, x0: tell((part.start + len(part) * step / steps) / rows)
