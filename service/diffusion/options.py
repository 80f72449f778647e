"""The options of samplers, schedules and guidance: the keyword-only parameters of their functions, checked strictly."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Annotated, Any, Literal

from annotated_types import Interval
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from service.errors import InvalidRequest

Eta = Annotated[float, Interval(ge=0, le=1)]  # share of the noise that is drawn anew; 0 is deterministic
NoiseScale = Annotated[float, Interval(ge=0, le=10)]  # multiplies every noise that a step adds; 1 is exact
Rho = Annotated[float, Interval(ge=1, le=100)]
Sigma = Annotated[float, Interval(gt=0)]
Order = Annotated[int, Interval(ge=1, le=3)]
Solver = Literal["midpoint", "heun"]


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
