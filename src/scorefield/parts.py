"""The parts of a trained model and the folder that holds them: weights, what the data was, how it was made.

model.safetensors   averaged weights; mean and covariance of the data, conditions seen, log p of held-out rows
bundle.json         recipe, codec, noise range, versions, fingerprint of the data, losses
solvers.json        samplers fitted to the model, where there are any
README.md           the model card
MANIFEST.json       sizes and SHA-256 of these
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pydantic
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from scorefield.build import build_model
from scorefield.card import model_card
from scorefield.errors import BundleError, OptionError, SamplingError, WriteError
from scorefield.features import Features
from scorefield.model import NetworkDenoiser
from scorefield.moments import Moments
from scorefield.noise_range import NoiseRange
from scorefield.recipes import Recipe, plain
from scorefield.samplers.choice import Solvers
from scorefield.shrinkage import Shrinkage
from scorefield.storage import MANIFEST, read_files, write_files
from scorefield.weights import check_header, load_weights

FORMAT, _READ = 3, (2, 3)  # that is written, and that are read: format 2 had no shrinkage
_SOLVERS = "solvers.json"
_MOMENTS, _REFERENCE = "moments.", "reference.log_prob"  # what names of tensors begin with, or are
_OWN = "format", "recipe", "features", "noise_range", "shrinkage"  # fields of bundle.json that are no facts

_UNREADABLE = (
    *(KeyError, TypeError, ValueError, AttributeError, RecursionError),
    *(safetensors.SafetensorError, pydantic.ValidationError, SamplingError),
)


@dataclass(frozen=True)
class Parts:
    """What a trained model is made of.

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
        shrinkage = self.denoiser.shrinkage
        fields = {
            "format": FORMAT,
            "recipe": plain(self.recipe),
            "features": self.features.to_json(),
            "noise_range": asdict(self.noise_range),
            "shrinkage": None if shrinkage is None else shrinkage.to_json(),
            **self.facts,
        }
        card = model_card(self.facts, self.recipe, self.noise_range, self.features.condition_names, shrinkage)
        files = {
            "model.safetensors": safetensors.torch.save(tensors),
            "bundle.json": (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode(),
            "README.md": card.encode(),
        }
        if self.solvers is not None:
            files[_SOLVERS] = (json.dumps(self.solvers.to_json()) + "\n").encode()
        write_files(folder, files)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
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
            if fields["format"] not in _READ:
                raise BundleError(
                    f"{folder}: format {fields['format']}, this version reads {' and '.join(map(str, _READ))}"
                )
            recipe = Recipe.model_validate(fields["recipe"])
            features = Features.from_json(fields["features"], tensors.pop("conditions.seen", None))
            noise_range = NoiseRange(**fields["noise_range"])
            solvers = Solvers.from_json(json.loads(files[_SOLVERS])) if _SOLVERS in files else None
            moments = Moments.from_tensors(tensors, _MOMENTS, features.codec.shape)
            reference = tensors.pop(_REFERENCE, None)
            given = fields.get("shrinkage")
            shrinkage = None if given is None else Shrinkage.from_json(given)
        except _UNREADABLE as error:
            raise BundleError(f"{folder}: one of {', '.join(files)} is not as expected: {error!r}") from error
        if recipe.network.whitened and moments is None:
            raise BundleError(f"{folder}: the mean and covariance that its network is scaled by are missing")
        denoiser = build_model(recipe, features.codec.shape, features.condition_features, 0, features.blocks)
        load_weights(denoiser, tensors, folder)
        facts = {name: fields[name] for name in fields if name not in _OWN}
        model = denoiser.to(device).eval().requires_grad_(False)
        model.moments, model.shrinkage = moments, shrinkage
        return cls(model, features, recipe, noise_range, facts, solvers, reference)
