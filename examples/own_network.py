"""The library without its command: your own network, an objective, a training loop in five lines, and any sampler.

python examples/own_network.py
"""

import torch

from scorefield.data.toy import read_toy
from scorefield.model import NetworkDenoiser
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM
from scorefield.objectives import presets as objectives
from scorefield.objectives.matching import stratified
from scorefield.parametrization import edm_f
from scorefield.randomness import Noise, Stream
from scorefield.samplers import presets as samplers

data = torch.from_numpy(read_toy("moons", rows=5000).values)
data = (data - data.mean(0)) / data.std()

# Any module called as network(x, c_noise, condition) will do.
model = NetworkDenoiser(MLP((2,), width=64, depth=3), EDM(0.01, 5.0), edm_f(1.0), sigma_data=1.0)
objective = objectives.edm(sigma_data=1.0)
adam = torch.optim.Adam(model.parameters(), 3e-3)

for step in range(500):
    rows = Stream(0, "rows").uniform(256, step=step)
    x0 = data[(rows * len(data)).long()]
    noise, u = Noise(Stream(0, "noise"), range(256), step), Stream(0, "times").uniform(256, step=step)
    loss = objective(model, x0, noise, stratified(u)).mean()
    adam.zero_grad()
    loss.backward()
    adam.step()

# The same model under three samplers; row i of each starts from the same noise.
for sampler in (samplers.ddim(20), samplers.heun(12), samplers.ancestral(100)):
    drawn = sampler(model, 1000, (2,), seed=1)
    print(f"{sampler.name:>10}: mean {drawn.mean(0).tolist()}, covariance {torch.cov(drawn.T).flatten().tolist()}")
print(f"{'data':>10}: mean {data.mean(0).tolist()}, covariance {torch.cov(data.T).flatten().tolist()}")
