"""Figures of runs and of what was measured."""
