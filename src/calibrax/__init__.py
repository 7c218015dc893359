"""Calibrated decoders for VAEs and world models in JAX."""

__version__ = "0.1.0"
