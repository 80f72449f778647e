"""What is asked for, and what must be refused."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SMALL = {"size": "64x64", "num_inference_steps": 5}
BODIES: Sequence[Mapping[str, Any]] = (
    {**SMALL, "prompt": "a café 🚤", "preset": "fast"},
    {**SMALL, "prompt": "the sea", "sampler": "dpmpp_2m_sde", "schedule": "karras"},
    {**SMALL, "prompt": "a hill", "sampler": "heun", "guidance_scale": 1.0},
    {**SMALL, "prompt": "", "preset": "diverse", "num_inference_steps": 8},
    {**SMALL, "prompt": "a lake", "size": "256x256", "negative_prompt": "rain"},
)
POSTCARDS: Sequence[Mapping[str, Any]] = (
    {"prompt": "the sea at night", "num_inference_steps": 3, "preset": "fast"},
    {"prompt": "a red ball in the desert", "num_inference_steps": 2, "sampler": "heun"},
    {"prompt": "mountains at dawn", "num_inference_steps": 4, "sampler": "euler", "guidance_scale": 1.0},
)
BAD: Sequence[bytes] = (
    b"",
    b"{",
    b"[]",
    b"[" * 100_000,
    b'{"prompt": "x", "seed": NaN}',
    b'{"prompt": "x", "seed": -1}',
    b'{"prompt": "x", "num_inference_steps": 100000}',
    b'{"prompt": "x", "sigmas": [1, 2, 0]}',
    b'{"prompt": "x", "unheard_of": 1}',
    b'{"prompt": "x", "size": "63x63"}',
    b'{"prompt": "\xff"}',
    b'{"prompt": "' + b"x" * 40_000 + b'"}',
)
PAGES = {"/": 200, "/metrics": 200, "/v1/presets": 200, "/openapi.json": 200, "/nowhere": 404, "/v1/jobs/none": 404}
FORMATS = ("png", "webp", "jpeg")
SEEDS = 3


class Wish(NamedTuple):
    """Pictures of one body, with the seeds seed ... seed + number - 1."""

    body: int
    seed: int
    output_format: str
    number: int = 1

    def each(self) -> "list[Wish]":
        """Its pictures one by one."""
        return [Wish(self.body, self.seed + i, self.output_format) for i in range(self.number)]
