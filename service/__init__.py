"""Darkroom: text-to-image serving in which every request brings its own sampling recipe."""

__version__ = "0.1.0"
