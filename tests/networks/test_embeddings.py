"""Laws of the embedding: constant energy, levels told apart, no condition means zeros, rows stay rows."""

import pytest
import torch

from scorefield.networks.embeddings import Embedding, Waves, per_channel


def seeded_embedding(condition_features: int = 0) -> Embedding:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Embedding(16, condition_features=condition_features)


def test_waves_have_mean_square_one_at_every_level() -> None:
    energy = Waves(7)(torch.linspace(-4, 4, 33)).square().mean(dim=-1)
    torch.testing.assert_close(energy, torch.ones(33))


def test_waves_tell_levels_apart_and_vary_slowly() -> None:
    # EDM's range, sigma from 0.002 to 80, is log(sigma)/4 from -1.55 to 1.10.
    levels = torch.linspace(-1.55, 1.10, 200)
    waves = Waves()(levels)
    apart = torch.cdist(waves, waves) + 1e3 * torch.eye(200)
    assert apart.min() > 0.05
    assert (waves[1:] - waves[:-1]).norm(dim=-1).max() < 0.2 * waves.norm(dim=-1).mean()


def test_no_condition_is_a_condition_of_zeros() -> None:
    embedding = seeded_embedding(condition_features=3)
    c_noise = torch.tensor([0.3, -0.2])
    torch.testing.assert_close(embedding(c_noise), embedding(c_noise, torch.zeros(2, 3)), rtol=0, atol=0)
    assert not torch.allclose(embedding(c_noise), embedding(c_noise, torch.ones(2, 3)))


def test_one_row_of_either_argument_serves_all_rows() -> None:
    embedding = seeded_embedding(condition_features=3)
    c_noise, condition = torch.tensor([0.1, 0.7]), torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    shared_level = embedding(c_noise[:1], condition)
    shared_condition = embedding(c_noise, condition[:1])
    torch.testing.assert_close(shared_level, embedding(c_noise[:1].expand(2), condition))
    torch.testing.assert_close(shared_condition, embedding(c_noise, condition[:1].expand(2, 3)))


@pytest.mark.parametrize("taken", [0, 3])
def test_a_condition_of_another_length_is_refused(taken: int) -> None:
    with pytest.raises(ValueError, match=f"2 features, the network takes {taken}"):
        seeded_embedding(taken)(torch.zeros(1), torch.zeros(1, 2))


def test_per_channel_scales_each_channel_of_each_row() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    images = torch.ones(2, 2, 3, 5) * per_channel(values)
    torch.testing.assert_close(images.mean(dim=(2, 3)), values)
    torch.testing.assert_close(images.var(dim=(2, 3)), torch.zeros(2, 2))
