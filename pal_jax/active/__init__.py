"""The asking side: what remembers. NumPy and the standard library only, never JAX."""

from pal_jax.active import journal, oracles, questions, relations, sampler, stopping, strategies

__all__ = ["journal", "oracles", "questions", "relations", "sampler", "stopping", "strategies"]
