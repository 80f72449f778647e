"""The mathematics of sampling: pure NumPy, one convention (variance-exploding), no I/O."""
