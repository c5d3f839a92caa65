"""Positive Active Learning in JAX."""
