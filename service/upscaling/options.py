"""How a picture is to be enlarged, as a request may give it and as a recipe states it."""

from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Interval, Len
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

Method = Literal["network", "lanczos"]
Solver = Literal["euler", "heun", "dpmpp_2m", "unipc", "deis"]  # the samplers that draw no noise and know no model
MAX_STEPS = 16  # keys and values are kept for every evaluation


def _ending(sigmas: tuple[float, ...]) -> tuple[float, ...]:
    if sigmas[-1] != 0 or not all(a > b for a, b in pairwise(sigmas)):
        raise ValueError("must decrease and end in 0")
    return sigmas


Level = Annotated[float, Strict(), Interval(ge=0), Field(allow_inf_nan=False)]
Sigmas = Annotated[tuple[Level, ...], Len(2, MAX_STEPS + 1), AfterValidator(_ending)]


class Upscaling(BaseModel):
    """A recipe states all of it; sampler and sigmas are the network's, so that lanczos has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: Literal[4, 16]
    method: Method | None = None
    sampler: Solver | None = None
    sigmas: Sigmas | None = None
