"""fit and load: from data and a recipe to a bundle."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from scorefield.build import build_model, build_objective, build_sampler
from scorefield.bundle import Bundle
from scorefield.card import short
from scorefield.data.kinds import Data
from scorefield.data.read import read
from scorefield.errors import BundleError, Interrupted, OptionError
from scorefield.features import Features, columns_to_read
from scorefield.finish import with_reference, with_shrinkage, with_solvers
from scorefield.moments import measure_moments
from scorefield.noise_range import NoiseRange, measure_noise_range
from scorefield.progress import Quiet, Reporter
from scorefield.recipes import Recipe, auto, plain
from scorefield.resolve import DataFacts, resolve
from scorefield.storage import MANIFEST, read_json, write_text
from scorefield.training.checkpoints import load_checkpoint, save_checkpoint
from scorefield.training.device import pick_device
from scorefield.training.journal import Journal
from scorefield.training.loop import Step, Trainer
from scorefield.training.memory import keep_freed_memory
from scorefield.training.rows import Rows, split_held_out

_BEGUN = "fit.json"
_REPORT_SECONDS = 0.5
_JOURNAL_STEPS = 10
_CHECKPOINT_SECONDS = 30.0
_HELD_OUT_NUMBERS = 400_000  # numbers in the held-out rows of images, whose evaluation costs


def load(path: str | Path, device: str = "auto") -> Bundle:
    """Read a trained model.

    Args:
        path: the folder that `fit` made.
        device: "cpu", "cuda" or "auto".

    Raises:
        BundleError: when it is damaged, unfinished or no bundle.
    """
    return Bundle.load(path, pick_device(device))


def fit(
    data: Any,
    recipe: Recipe | None = None,
    *,
    out: str | Path | None = None,
    condition: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    column_types: Mapping[str, str] | None = None,
    seed: int = 0,
    device: str = "auto",
    on_bad: Literal["raise", "skip"] = "raise",
    report: Reporter | None = None,
) -> Bundle:
    """Learn the distribution of data.

    Args:
        data: a path, "toy:NAME", "sklearn:NAME", an array, a tensor, a table or a data frame.
        recipe: a preset of `scorefield.recipes`, `auto()` by default.
        out: a folder for the bundle, its checkpoints and metrics.jsonl; an unfinished one is gone on with.
        condition: columns or labels to condition on.
        columns: columns to use, all by default.
        column_types: what columns of a table are, by name, where that is not what their values say: "number",
            "category", "date", "ordered:A<B<C" or "out".
        seed: of all randomness.
        device: "cpu", "cuda" or "auto".
        on_bad: what to do with images that cannot be read.
        report: where progress goes; nowhere by default.

    Returns:
        the trained bundle, saved in `out` where that is given.

    Raises:
        DataError, OptionError: before training, when data or options are wrong.
        TrainingError: when the loss is not finite.
        Interrupted: when the reporter asked to stop; a checkpoint is in `out`.
    """
    recipe, report = recipe or auto(), report or Quiet()
    place = pick_device(device)
    keep_freed_memory()
    taken = read(data, columns=columns_to_read(columns, condition), on_bad=on_bad)
    for note in taken.notes:
        report.say(note)
    features = Features.fit(taken, condition, seed, column_types)
    for note in features.codec.notes:
        report.say(note)
    request = _request(recipe, taken, condition, column_types or {}, seed)
    folder = None if out is None else _reached(Path(out))
    if folder is not None and (folder / MANIFEST).exists():
        if not (folder / _BEGUN).exists():
            raise OptionError(f"--out {folder}: it is a saved model, not a run; choose another --out")
        _check_request(read_json(folder / _BEGUN), request, folder)
        report.say(f"{folder} is complete already, nothing to do")
        return Bundle.load(folder, place)
    kept = None if folder is None else _kept(folder, request)
    if kept is None:
        noise_range, complete, choices = _prepare(recipe, taken, features, seed, place)
        for choice in choices:
            report.say(choice)
    else:
        noise_range, complete = NoiseRange(**kept["noise_range"]), Recipe.model_validate(kept["complete"])
    # Whatever refuses the recipe does so here, before anything is written.
    trainer = _trainer(complete, taken, features, seed, place)
    _check_sampler(complete)
    if folder is not None:
        _make(folder)
    if folder is not None and kept is None:
        _begin(folder, {**request, "complete": plain(complete), "noise_range": asdict(noise_range)})
    after = load_checkpoint(trainer, folder / "checkpoints") if folder is not None else None
    if after:
        report.say(f"going on from step {after}")
    _train(trainer, complete, folder, report)
    best = trainer.best().to(place)
    facts = _facts(taken, request["data"], trainer, seed)
    bundle = Bundle(best, features, complete, noise_range, facts)  # type: ignore[arg-type]
    # A step of training counts as three evaluations of its rows: one forward and, about twice as dear, one backward.
    trained = 3 * trainer.number * (complete.training.batch or 0)
    bundle = with_shrinkage(bundle, taken, trainer.held_out_rows, trained, seed, report)
    bundle = with_solvers(bundle, trained, seed, report)
    bundle = with_reference(bundle, taken, trainer.held_out_rows, trained, report)
    if folder is not None:
        bundle.save(folder)
    return bundle


def plan(
    data: Any,
    recipe: Recipe | None = None,
    *,
    condition: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    column_types: Mapping[str, str] | None = None,
    seed: int = 0,
    device: str = "auto",
    on_bad: Literal["raise", "skip"] = "raise",
) -> tuple[Recipe, list[str]]:
    """What `fit` would do, without training and without writing anything.

    Args:
        data, recipe, condition, columns, column_types, seed, device, on_bad: as for `fit`.

    Returns:
        the complete recipe, and the sentences that `fit` would say.

    Raises:
        DataError, OptionError: for whatever `fit` would refuse in data and recipe before training.
    """
    place = pick_device(device)
    taken = read(data, columns=columns_to_read(columns, condition), on_bad=on_bad)
    features = Features.fit(taken, condition, seed, column_types)
    _, complete, choices = _prepare(recipe or auto(), taken, features, seed, place)
    trainer = _trainer(complete, taken, features, seed, place)
    _check_sampler(complete)
    size = f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters, {len(trainer.rows)} rows to train on"
    return complete, [*taken.notes, *features.codec.notes, *choices, size]


def _kept(folder: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """What the run in a folder was begun with, so that going on repeats no choice; None where none was begun."""
    if not folder.exists():
        return None
    if (folder / _BEGUN).exists():
        kept = read_json(folder / _BEGUN)
        _check_request(kept, request, folder)
        return kept
    # A run that was killed at its very beginning leaves a hidden file that never took its place.
    if not folder.is_dir() or any(not entry.name.endswith(".partial") for entry in folder.iterdir()):
        raise OptionError(f"--out {folder}: it exists and is not a run of scorefield; choose another name")
    return None


def _prepare(
    recipe: Recipe, data: Data, features: Features, seed: int, device: torch.device
) -> tuple[NoiseRange, Recipe, list[str]]:
    """Measure the data and complete the recipe, with a sentence for each choice."""
    noise_range = measure_noise_range(
        features.measured_rows(data, seed), resolution=features.codec.resolution, seed=seed, rows=len(data)
    )
    facts = DataFacts(
        features.codec.shape, len(data), noise_range, device, features.codec.steps, features.blocks is not None
    )
    complete, choices = resolve(recipe, facts)
    return noise_range, complete, [noise_range.reason, *choices]


def _reached(folder: Path) -> Path:
    """The folder of a run, refused where this place cannot even be looked at."""
    try:
        (folder / MANIFEST).exists()
    except OSError as error:
        raise OptionError(f"--out {folder}: cannot be reached: {error.strerror or error}") from error
    return folder


def _make(folder: Path) -> None:
    """Make the folder of a run, or refuse a place where nothing can be written, before training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--out {folder}: cannot be made: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"--out {folder}: nothing can be written there")


def _begin(folder: Path, fields: dict[str, Any]) -> None:
    """Write down what a run is begun with."""
    write_text(folder / _BEGUN, json.dumps(fields, indent=2) + "\n")


def _trainer(recipe: Recipe, data: Data, features: Features, seed: int, device: torch.device) -> Trainer:
    shape = features.codec.shape
    most = min(2000, max(256, _HELD_OUT_NUMBERS // max(1, math.prod(shape))))
    training, held_out = split_held_out(len(data), recipe.training.held_out or 0.0, most, seed)
    take = features.take(data, device)
    model = build_model(recipe, shape, features.condition_features, seed, features.blocks).to(device)
    model.moments = measure_moments(features.measured_rows(data, seed), seed)
    objective = build_objective(recipe)
    return Trainer(model, objective, Rows(training, take), Rows(held_out, take), recipe.training, seed)


def _train(trainer: Trainer, recipe: Recipe, folder: Path | None, report: Reporter) -> None:
    """Run the trainer: log, report, save, and stop when asked."""
    journal = Journal(None if folder is None else folder / "metrics.jsonl", trainer.number)
    every, keep = recipe.checkpoint.every, recipe.checkpoint.keep
    recent: list[Step] = []
    said, saved, first = time.monotonic(), time.monotonic(), trainer.number
    started = trainer.seconds
    for step in trainer:
        recent.append(step)
        now = time.monotonic()
        stop = report.should_stop()
        last = step.share >= 1 or trainer.stopped_early or stop
        rate = (step.number - first) / max(step.seconds - started, 1e-9)
        if step.held_out is not None or last or now - said > _REPORT_SECONDS:
            loss = float(torch.stack([each.loss for each in recent]).mean())
            left = step.seconds * (1 - step.share) / max(step.share, 1e-9)
            error = float(torch.stack([each.std_error for each in recent]).square().sum().sqrt()) / len(recent)
            report.step(step, loss, error, rate, left)
            recent, said = [], now
        # Which steps have a line depends on nothing but their number, so that a run that was cut off has the same.
        if step.number % _JOURNAL_STEPS == 0 or step.held_out is not None or step.share >= 1:
            journal.write(_line(step, rate))
        due = step.number % every == 0 if every else now - saved > _CHECKPOINT_SECONDS
        if folder is not None and (due or stop) and not (last and not stop):
            save_checkpoint(trainer, folder / "checkpoints", keep)
            saved = time.monotonic()
        if stop and step.share < 1:
            raise Interrupted(f"stopped at step {step.number}; the same command goes on from there")
    if trainer.stopped_early:
        report.say(f"the held-out loss has begun to rise: done after {trainer.number} steps")


def _check_sampler(recipe: Recipe) -> None:
    """Refuse a recipe's sampler early; a fitted one comes only after training, and is read as auto until then."""
    if recipe.sampler.name == "fitted":
        recipe = recipe.model_copy(update={"sampler": recipe.sampler.model_copy(update={"name": "auto"})})
    build_sampler(recipe)


def _line(step: Step, rate: float) -> dict[str, Any]:
    """A step's line in metrics.jsonl; rate in steps a second."""
    return {
        "step": step.number,
        "loss": float(step.loss),
        "loss_std_error": float(step.std_error),
        "gradient_norm": float(step.gradient_norm),
        "learning_rate": step.learning_rate,
        "seconds": round(step.seconds, 3),
        "steps_per_second": round(rate, 3),
        **({} if step.held_out is None else {"held_out": step.held_out.to_json()}),
    }


def _request(
    recipe: Recipe, data: Data, condition: Sequence[str], types: Mapping[str, str], seed: int
) -> dict[str, Any]:
    """What a run was asked for: going on with it needs the same."""
    return {
        "recipe": plain(recipe),
        "data": {"fingerprint": data.fingerprint(), "description": short(data)},
        "condition": list(condition),
        "column_types": dict(types),
        "seed": seed,
    }


def _check_request(kept: dict[str, Any], request: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with another recipe, seed or data."""
    if not isinstance(kept.get("data"), dict) or request.keys() - kept.keys():
        raise BundleError(f"{folder / _BEGUN} is not as `fit` wrote it, found {sorted(kept)}: choose another --out")
    if kept["data"]["fingerprint"] != request["data"]["fingerprint"]:
        raise OptionError(
            f"{folder} was begun with other data ({kept['data']['description']}, SHA-256 "
            f"{kept['data']['fingerprint'][:12]}…; now {request['data']['description']}, "
            f"{request['data']['fingerprint'][:12]}…): choose another --out"
        )
    for name in ("recipe", "condition", "column_types", "seed"):
        if kept[name] != request[name]:
            raise OptionError(
                f"{folder} was begun with {name} {_difference(kept[name], request[name])}: choose another --out"
            )


def _difference(kept: Any, asked: Any, path: str = "") -> str:
    """The first field in which two recipes differ, as `path old, now new`."""
    if isinstance(kept, dict) and isinstance(asked, dict):
        for name in kept | asked:
            if kept.get(name) != asked.get(name):
                return _difference(kept.get(name), asked.get(name), f"{path}.{name}" if path else name)
    return f"{path} {kept!r}, now {asked!r}".strip()


def _facts(data: Data, asked: dict[str, str], trainer: Trainer, seed: int) -> dict[str, Any]:
    """What bundle.json tells beyond the recipe and the codec; `asked` is what was asked for of the data."""
    best = trainer.held_out_loss()
    return {
        "data": {
            "kind": data.kind,
            "rows": len(data),
            **asked,
        },
        "training": {
            "steps": trainer.number,
            "seconds": round(trainer.seconds, 2),
            "milliseconds_a_step": round(1000 * trainer.seconds / max(1, trainer.number), 3),
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "held_out_loss": None if best is None else best.mean,
            "held_out": None if best is None else best.to_json(),
            "seed": seed,
        },
        "versions": {
            "scorefield": version("scorefield"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
