"""Every level that rows passed: in the rows' order whatever the chunks, NaN where no estimate was asked for, limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scorefield import drawing, trajectory
from scorefield.drawing import draw
from scorefield.errors import DataError, OptionError, WriteError
from scorefield.exact import Gaussian
from scorefield.model import Denoiser
from scorefield.noise import VP, Schedule
from scorefield.samplers import presets
from scorefield.samplers.adaptive import AdaptiveFlow, AdaptiveSDE
from scorefield.samplers.loop import sample
from scorefield.samplers.presets import AnySampler
from scorefield.trajectory import Trajectory, check_levels, check_trajectory

SCHEDULE = VP(t_min=0.01)
MODEL = Gaussian(torch.zeros(2), torch.eye(2) / 4, SCHEDULE)


def kept(sampler: AnySampler, rows: int, model: Denoiser = MODEL, schedule: Schedule = SCHEDULE) -> Trajectory:
    levels = Trajectory(schedule)
    draw(
        lambda part: model,
        sampler,
        rows,
        (2,),
        seed=1,
        device=torch.device("cpu"),
        denoiser=model,
        on_step=levels,
        on_chunk=levels.begin,
    )
    return levels


@pytest.mark.parametrize("chunk", [1, 4, 5, 99])
def test_law_the_levels_of_all_rows_in_their_order(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(drawing, "_CHUNK", 2 * chunk)
    found = kept(presets.heun(6), 10).arrays()
    seen: list[tuple[float, torch.Tensor, torch.Tensor | None]] = []
    grid, predictor, _ = presets.heun(6).parts(SCHEDULE)
    ends = sample(
        MODEL, 10, (2,), grid, predictor, seed=1, on_step=lambda step, t, x, x0: seen.append((float(t), x.clone(), x0))
    )
    assert {name: values.shape for name, values in found.items()} == {
        "t": (6,),
        "sigma": (6,),
        "x": (6, 10, 2),
        "x0": (6, 10, 2),
    }
    assert found["t"].tolist() == [t for t, _, _ in seen]
    np.testing.assert_allclose(found["x"], torch.stack([x for _, x, _ in seen]).numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["x0"][-1], ends.numpy(), rtol=0, atol=1e-6)
    # Of N(0, 1/4) the estimate at a level is x α/4/(α²/4 + σ²), which sigma = σ/α and α² + σ² = 1 give.
    alpha = 1 / np.sqrt(1 + found["sigma"] ** 2)
    share = alpha / 4 / (alpha**2 / 4 + 1 - alpha**2)
    np.testing.assert_allclose(found["x0"], found["x"] * share[:, None, None], rtol=1e-4, atol=1e-6)


def test_what_was_not_estimated_is_nan() -> None:
    # Langevin looks at x before it moves it, so that only the last level is estimated, for its end.
    found = kept(presets.annealed_langevin(4, moves=2), 3).arrays()
    assert np.isnan(found["x0"][:-1]).all()
    assert np.isfinite(found["x0"][-1]).all()
    assert np.isfinite(found["x"]).all()


def test_a_chunk_that_was_begun_anew_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_CHUNK", 16)
    whole = kept(presets.heun(5), 20).arrays()

    class Scarce(Denoiser):
        calls = 0
        schedule, sigma_data = SCHEDULE, 0.5

        def forward(self, x_t: torch.Tensor, t: torch.Tensor | float) -> object:
            self.calls += 1
            if self.calls > 12 and len(x_t) > 3:
                raise MemoryError
            return MODEL(x_t, t)

    found = kept(presets.heun(5), 20, Scarce())
    assert any(len(chunk[0][1]) < 8 for chunk in found.chunks.values())
    for name, values in found.arrays().items():
        np.testing.assert_allclose(values, whole[name], rtol=0, atol=1e-6)


def test_memory_that_runs_out_after_the_last_level_leaves_no_row_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kept(presets.heun(5), 20).arrays()

    class Scarce:
        name = "heun"

        def parts(self, schedule: Schedule) -> tuple[torch.Tensor, object, object]:
            return presets.heun(5).parts(schedule)

        def __call__(self, model: Denoiser, rows: range, *arguments: object, **options: object) -> torch.Tensor:
            drawn = presets.heun(5)(model, rows, *arguments, **options)  # type: ignore[arg-type]
            if len(rows) > 8:
                raise MemoryError
            return drawn

    found = kept(Scarce(), 20)  # type: ignore[arg-type]
    assert [len(chunk[0][1]) for chunk in found.chunks.values()] == [5, 5, 5, 5]
    for name, values in found.arrays().items():
        np.testing.assert_allclose(values, whole[name], rtol=0, atol=1e-6)


def test_the_file_holds_the_arrays_and_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = kept(presets.heun(4), 3)
    levels.write(tmp_path / "way.npz")
    with np.load(tmp_path / "way.npz", allow_pickle=False) as written:
        assert set(written.files) == {"t", "sigma", "x", "x0"}
        for name, values in levels.arrays().items():
            np.testing.assert_array_equal(written[name], values)
    before = (tmp_path / "way.npz").read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        levels.write(tmp_path / "way.npz")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"way.npz": before}


def test_chunks_that_are_not_told_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_CHUNK", 8)
    levels = Trajectory(SCHEDULE)
    options = {"seed": 1, "device": torch.device("cpu"), "denoiser": MODEL, "on_step": levels}
    with pytest.raises(OptionError, match="other chunks need its `begin` as on_chunk"):
        draw(lambda part: MODEL, presets.heun(4), 10, (2,), **options)  # type: ignore[arg-type]


# -- faults -----------------------------------------------------------------------------------------------------------


def test_more_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four levels of x and x0 of three rows of two float32.
    monkeypatch.setattr(trajectory, "_MOST_BYTES", 4 * 2 * 3 * 2 * 4)
    check_levels(presets.heun(4), SCHEDULE, 3, (2,))
    for sampler, rows, shape in ((presets.heun(5), 3, (2,)), (presets.heun(4), 4, (2,)), (presets.heun(4), 3, (3,))):
        with pytest.raises(OptionError, match="draw fewer rows or take fewer steps"):
            check_levels(sampler, SCHEDULE, rows, shape)


@pytest.mark.parametrize("sampler", [AdaptiveFlow(), AdaptiveSDE()])
def test_rows_with_times_of_their_own_are_refused_early_and_late(sampler: AnySampler) -> None:
    with pytest.raises(OptionError, match="adaptive ones do not"):
        check_levels(sampler, SCHEDULE, 3, (2,))
    with pytest.raises(OptionError, match="adaptive ones do not"):
        kept(sampler, 3)


def test_a_path_is_refused_early(tmp_path: Path) -> None:
    check_trajectory(tmp_path / "way.npz", tmp_path / "new.npz")
    check_trajectory(tmp_path / "WAY.NPZ", tmp_path / "new.csv")
    for name in ("way.npy", "way"):
        with pytest.raises(DataError, match=f"{name}: a trajectory is written as .npz, got the ending"):
            check_trajectory(tmp_path / name, tmp_path / "new.csv")
    with pytest.raises(DataError, match="gone does not exist"):
        check_trajectory(tmp_path / "gone" / "way.npz", tmp_path / "new.csv")
    with pytest.raises(DataError, match="--out has this file already"):
        check_trajectory(tmp_path / "way.npz", tmp_path / "nothing" / ".." / "way.npz")
