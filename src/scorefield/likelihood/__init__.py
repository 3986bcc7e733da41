"""How likely data are: log p along the probability flow, with its error, and what follows from it."""
