"""The asking side: what remembers. NumPy and the standard library only, never JAX."""
