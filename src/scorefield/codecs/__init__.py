"""Codecs: data ↔ R^d, invertible, with log-Jacobian, saved as JSON and tensors."""
