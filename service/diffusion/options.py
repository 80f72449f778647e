"""Types of the options that samplers and schedules take: the keyword-only parameters of their functions."""

from typing import Annotated

from annotated_types import Interval

Eta = Annotated[float, Interval(ge=0, le=10)]  # share of the noise that is drawn anew; 0 is deterministic
NoiseScale = Annotated[float, Interval(ge=0, le=10)]  # multiplies every noise that a step adds; 1 is exact
Rho = Annotated[float, Interval(ge=1, le=100)]
Sigma = Annotated[float, Interval(gt=0)]
