"""Every preset and the published claims about sampling, measured on one model."""
