"""Positive Active Learning in JAX: joint-embedding learning on a similarity graph.

The parts meant for use from outside, each imported when it is first named, so that the asking side
(`active`) starts without JAX:

    graph           similarity graphs: dense, group ids, edges
    losses          VICReg, SimCLR / SupCon and Barlow Twins on a graph
    spectral        spectral contrastive, VICReg squared and Barlow Twins squared
    closed_form     their optima, and linear and kernel models without SGD
    views           random views of images and features, on the device
    active          questions, oracles, journal, relations and the sampler; NumPy only
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pal_jax import active, closed_form, graph, losses, spectral, views

__all__ = ["active", "closed_form", "graph", "losses", "spectral", "views"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'pal_jax' has no attribute {name!r}")
    return importlib.import_module(f"pal_jax.{name}")
