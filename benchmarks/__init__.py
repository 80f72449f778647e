"""Side-by-side measurements against peers, one command each; every one prints ratios from interleaved runs."""
