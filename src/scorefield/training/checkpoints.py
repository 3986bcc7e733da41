"""Checkpoints: the state of a trainer as a folder that is whole or not there, the newest few kept."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from scorefield.errors import BundleError
from scorefield.storage import read_files, write_folder
from scorefield.training.loop import Trainer


def save_checkpoint(trainer: Trainer, folder: Path, keep: int) -> Path:
    """Write the trainer's state below a folder and remove all but the newest `keep`.

    Raises:
        TrainingError: when the weights are not finite; the checkpoints that are there stay.
        WriteError: when the disk refuses; they stay too.
    """
    tensors, values = trainer.state()
    place = folder / f"step-{trainer.number:09d}"
    if not _is_valid(place):
        shutil.rmtree(place, ignore_errors=True)
        content = safetensors.torch.save({name: value.contiguous().cpu() for name, value in tensors.items()})
        write_folder(place, {"state.safetensors": content, "state.json": json.dumps(values, indent=2).encode()})
    for partial in folder.glob(".*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    # Later steps are of a run that was cut off: they were damaged, or training would have gone on from them.
    mine = sorted(old for old in folder.glob("step-*") if old.name <= place.name)
    for other in {*folder.glob("step-*")} - {*mine[-keep:]}:
        shutil.rmtree(other, ignore_errors=True)
    return place


def _is_valid(place: Path) -> bool:
    try:
        return bool(read_files(place))
    except BundleError:
        return False


def load_checkpoint(trainer: Trainer, folder: Path) -> int | None:
    """Bring a trainer to the newest valid checkpoint below a folder; a damaged one is passed over with a warning.

    Returns:
        the step, or None where there is no valid checkpoint.

    Raises:
        BundleError: when the checkpoint is whole, but not of this trainer's recipe or of this version.
    """
    for place in sorted(folder.glob("step-*"), reverse=True):
        try:
            files = read_files(place)
            values: dict[str, Any] = json.loads(files["state.json"])
            tensors = safetensors.torch.load(files["state.safetensors"])
        except (BundleError, KeyError, ValueError, safetensors.SafetensorError) as error:
            warnings.warn(f"passing over checkpoint {place.name}: {error}", stacklevel=2)
            continue
        try:
            trainer.load_state(tensors, values)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BundleError(f"{place}: it is of another recipe or version: {error}") from error
        return trainer.number
    return None
