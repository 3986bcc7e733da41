"""Training: the loop as a generator of steps, averages of weights, held-out loss, checkpoints."""
