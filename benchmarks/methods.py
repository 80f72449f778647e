"""Recipes that differ in everything but their network calls: one of two rows in every step."""

METHODS = (
    {"sampler": "euler", "schedule": "trailing"},
    {"sampler": "ddim", "schedule": "leading"},
    {"sampler": "dpmpp_2m", "schedule": "karras"},
    {"sampler": "unipc", "schedule": "linspace"},
    {"sampler": "dpmpp_2m_sde", "schedule": "exponential"},
    {"sampler": "euler_ancestral", "schedule": "simple"},
    {"sampler": "deis", "schedule": "beta"},
    {"sampler": "dpmpp_3m_sde", "schedule": "polyexponential"},
)
