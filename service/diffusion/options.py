"""The options of samplers, schedules and guidance: the keyword-only parameters of their functions, checked strictly."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Annotated, Any, Literal, Self

from annotated_types import Interval
from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator

from service.errors import InvalidRequest

Eta = Annotated[float, Interval(ge=0, le=1)]  # share of the noise that is drawn anew; 0 is deterministic
NoiseScale = Annotated[float, Interval(ge=0, le=10)]  # multiplies every noise that a step adds; 1 is exact
Rho = Annotated[float, Interval(ge=1, le=100)]
Sigma = Annotated[float, Interval(gt=0)]
Order = Annotated[int, Interval(ge=1, le=3)]
Solver = Literal["midpoint", "heun"]


class Structured(BaseModel):
    """Options with a name of their own in a recipe."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class EpsilonScaling(Structured):
    """eps is divided by scale + slope * (steps from the clean end)."""

    scale: Annotated[float, Interval(ge=0.5, le=1.5)]
    slope: Annotated[float, Interval(ge=0, le=0.1)] = 0.0
    form: Literal["everywhere", "x0_only"] = "everywhere"


class TimeShift(Structured):
    """x is read at the timestep, of ``window`` around the scheduled one, whose variance it has."""

    data_variance: Annotated[float, Interval(gt=0, le=100)]  # of the model's clean latents
    window: Annotated[int, Interval(ge=2, le=200)] = 20
    cutoff: Annotated[float, Interval(ge=0, le=1000)] = 300.0  # no shift at timesteps up to this one


class Cads(Structured):
    """Noise in the condition: all of it at times above tau2, none below tau1 (1 is the start, 0 the end)."""

    tau1: Annotated[float, Interval(ge=0, lt=1)] = 0.6
    tau2: Annotated[float, Interval(gt=0, le=1)] = 0.9
    noise_scale: Annotated[float, Interval(ge=0, le=1)] = 0.1
    mixing: Annotated[float, Interval(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.tau1 >= self.tau2:
            raise ValueError("tau1 must be below tau2")
        return self


def validated(function: Callable[..., Any], values: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The options with their defaults filled in; those that default to None stay out."""
    model = options_model(function)
    try:
        return model.model_validate(dict(values)).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name, known = f"{field}.{first['loc'][0]}", ", ".join(model.model_fields) or "none"
        raise InvalidRequest(f"{name}: {first['msg']}; options of {model.__name__}: {known}", field=name) from None


def bound(function: Callable[..., Any], options: Mapping[str, Any], facts: Mapping[str, Any]) -> Callable[..., Any]:
    """The function with its options, and with those facts of the model and the run that it has parameters for."""
    needed = inspect.signature(function).parameters.keys() & facts.keys()
    return partial(function, **options, **{name: facts[name] for name in needed})


@cache
def options_model(function: Callable[..., Any]) -> type[BaseModel]:
    """The keyword-only parameters of a function as a strict model."""
    parameters = inspect.signature(function).parameters.values()
    fields: dict[str, Any] = {p.name: (p.annotation, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return create_model(function.__name__, __config__=config, **fields)
