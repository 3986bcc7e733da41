"""Networks: maps from (x, c_noise, condition) to a tensor like x; they know nothing of diffusion."""
