"""The torch target behind the real Triton on a CUDA device, beside diffusers' own pipeline."""
