"""The way back: torch modules from a model repository alone, for training and for the tests' oracle."""
