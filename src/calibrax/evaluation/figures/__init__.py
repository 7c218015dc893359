"""Figures of runs and of what was measured.

Figures are written to `path`, whose folders are made, with `title` above all panels. Where matplotlib draws, `path`
ends in .png or .svg; another ending is a ValueError.
"""
