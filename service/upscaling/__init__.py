"""Larger pictures in bounded memory: pure NumPy and Pillow; the network and its sampler are arguments."""
