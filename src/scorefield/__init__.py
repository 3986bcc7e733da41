"""Score-based generative modelling: learn ∇ₓ log p(x) of your data, then sample, score and condition."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scorefield import recipes
    from scorefield.api import fit, load
    from scorefield.bundle import Bundle
    from scorefield.codecs.between import Among, Between
    from scorefield.filling import Filling
    from scorefield.recipes import Recipe
    from scorefield.scoring import Scoring

__all__ = ["Among", "Between", "Bundle", "Filling", "Recipe", "Scoring", "fit", "load", "recipes"]

_HOMES = {
    "fit": "api",
    "load": "api",
    "Bundle": "bundle",
    "Recipe": "recipes",
    "Among": "codecs.between",
    "Between": "codecs.between",
    "Filling": "filling",
    "Scoring": "scoring",
}


def __getattr__(name: str) -> Any:
    # torch takes a second to import, and `scorefield --help` should not wait for it.
    if name == "recipes":
        return import_module("scorefield.recipes")
    if name in _HOMES:
        return getattr(import_module(f"scorefield.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'scorefield' has no attribute {name!r}")
