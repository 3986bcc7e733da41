"""Checkpoints: there and back, the newest valid one wins, what is damaged or partial is passed over and removed."""

from __future__ import annotations

import json
import os
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from scorefield.errors import BundleError
from scorefield.exact import Gaussian
from scorefield.model import NetworkDenoiser
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM
from scorefield.objectives.presets import edm
from scorefield.parametrization import edm_f
from scorefield.storage import MANIFEST
from scorefield.training.checkpoints import load_checkpoint, save_checkpoint
from scorefield.training.loop import Trainer
from scorefield.training.rows import Rows
from scorefield.training.settings import TrainingSettings

SETTINGS = TrainingSettings(batch=8, steps=1000, learning_rate=1e-3, precision="float32")
DATA = Gaussian(torch.zeros(2), torch.eye(2)).sample(40, seed=0).float()


def trainer() -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NetworkDenoiser(MLP((2,), 8, 1), EDM(0.05, 10.0), edm_f(1.0), 1.0)
    rows = Rows(np.arange(40), lambda index, _: (DATA[torch.from_numpy(index)], None))
    return Trainer(model, edm(1.0), rows, Rows(np.arange(0), rows.take), SETTINGS, 0)


def saved(folder: Path, steps: tuple[int, ...], keep: int = 9) -> Trainer:
    """A trainer that has saved checkpoints after these steps."""
    made = trainer()
    for step in steps:
        list(islice(made, step - made.number))
        save_checkpoint(made, folder, keep)
    return made


def names(folder: Path) -> list[str]:
    return sorted(place.name for place in folder.iterdir())


def damage(place: Path, how: str) -> str:
    """Spoil a checkpoint; returns what the warning should say."""
    state = place / "state.safetensors"
    size = state.stat().st_size
    if how == "truncated":
        os.truncate(state, size // 2)
        return f"state.safetensors has {size // 2} bytes, the manifest says {size}"
    if how == "flipped":
        content = bytearray(state.read_bytes())
        content[-3] ^= 1
        state.write_bytes(content)
        return "state.safetensors is damaged"
    if how == "missing":
        state.unlink()
        return "state.safetensors is missing"
    (place / MANIFEST).unlink()
    return "MANIFEST.json is not there"


HOW = ("truncated", "flipped", "missing", "without manifest")


def test_law_a_checkpoint_brings_back_every_bit(tmp_path: Path) -> None:
    first, second = saved(tmp_path, (7,)), trainer()
    assert load_checkpoint(second, tmp_path) == 7
    (mine, my_values), (theirs, their_values) = first.state(), second.state()
    assert my_values == their_values
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_nothing_to_load_is_said_and_changes_nothing(tmp_path: Path) -> None:
    made = trainer()
    assert load_checkpoint(made, tmp_path / "never made") is None
    assert load_checkpoint(made, tmp_path) is None
    assert made.number == 0


def test_the_newest_few_stay(tmp_path: Path) -> None:
    saved(tmp_path, (3, 8, 9, 20), keep=2)
    assert names(tmp_path) == ["step-000000009", "step-000000020"]
    second = trainer()
    assert load_checkpoint(second, tmp_path) == 20


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_newest_one_is_passed_over_with_a_warning(tmp_path: Path, how: str) -> None:
    saved(tmp_path, (5, 10))
    expected = damage(tmp_path / "step-000000010", how)
    second = trainer()
    with pytest.warns(UserWarning, match="passing over checkpoint step-000000010") as told:
        assert load_checkpoint(second, tmp_path) == 5
    assert expected in str(told[0].message)
    assert second.number == 5


def test_when_all_are_damaged_training_begins_anew(tmp_path: Path) -> None:
    saved(tmp_path, (5, 10))
    for name in names(tmp_path):
        damage(tmp_path / name, "flipped")
    second = trainer()
    fresh = trainer().state()[0]
    with pytest.warns(UserWarning, match="passing over") as told:
        assert load_checkpoint(second, tmp_path) is None
    assert len(told) == 2
    assert all(torch.equal(value, fresh[name]) for name, value in second.state()[0].items())


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("next_save", [7, 10])
def test_training_on_replaces_what_was_damaged(tmp_path: Path, how: str, next_save: int) -> None:
    """Damaged steps of the future neither crowd out what is saved now nor stand in its place."""
    saved(tmp_path, (5, 10))
    damage(tmp_path / "step-000000010", how)
    second = trainer()
    with pytest.warns(UserWarning, match="passing over"):
        load_checkpoint(second, tmp_path)
    list(islice(second, next_save - 5))
    save_checkpoint(second, tmp_path, 1)
    third = trainer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(third, tmp_path) == next_save
    assert names(tmp_path) == [f"step-{next_save:09d}"]


def test_partial_folders_are_ignored_and_later_removed(tmp_path: Path) -> None:
    made = saved(tmp_path, (5,))
    partial = tmp_path / ".step-000000009.partial"
    partial.mkdir()
    (partial / "state.safetensors").write_bytes(b"half")
    second = trainer()
    assert load_checkpoint(second, tmp_path) == 5
    list(islice(made, 1))
    save_checkpoint(made, tmp_path, 9)
    assert names(tmp_path) == ["step-000000005", "step-000000006"]


def test_saving_the_same_step_twice_writes_it_once(tmp_path: Path) -> None:
    made = saved(tmp_path, (5,))
    before = (tmp_path / "step-000000005" / "state.json").stat().st_mtime_ns
    save_checkpoint(made, tmp_path, 2)
    assert (tmp_path / "step-000000005" / "state.json").stat().st_mtime_ns == before


def test_a_disk_that_refuses_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = saved(tmp_path, (5,))
    list(islice(made, 5))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(BundleError, match="No space left on device"):  # noqa: PT012
        patch.setattr(os, "fsync", full)
        save_checkpoint(made, tmp_path, 1)
    assert names(tmp_path) == ["step-000000005"]
    assert load_checkpoint(trainer(), tmp_path) == 5


def test_a_whole_checkpoint_of_another_network_or_version_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a", (5,))
    wide = trainer()
    wide.model = NetworkDenoiser(MLP((2,), 9, 1), EDM(0.05, 10.0), edm_f(1.0), 1.0)
    with pytest.raises(BundleError, match=r"step-000000005: it is of another recipe or version(.|\n)*\[9"):
        load_checkpoint(wide, tmp_path / "a")
    made = trainer()
    tensors, values = made.state()
    del values["evaluations"]
    made.state = lambda: (tensors, values)  # type: ignore[method-assign]
    save_checkpoint(made, tmp_path / "b", 1)
    with pytest.raises(BundleError, match="another recipe or version: 'evaluations'"):
        load_checkpoint(trainer(), tmp_path / "b")


def test_no_pickle_is_read(tmp_path: Path) -> None:
    """A pickle under a checkpoint's name, with a manifest that fits it, is passed over and never executed."""
    import hashlib

    saved(tmp_path, (5, 10))
    place = tmp_path / "step-000000010"
    mark = tmp_path / "executed"
    # The opcodes of os.system("touch …"), as pickle protocol 0 has them.
    payload = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    (place / "state.safetensors").write_bytes(payload)
    manifest = json.loads((place / MANIFEST).read_text())
    manifest["state.safetensors"] = {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    (place / MANIFEST).write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="passing over"):
        assert load_checkpoint(trainer(), tmp_path) == 5
    assert not mark.exists()
