"""Recipe: what the caller wants, fully resolved. It is echoed to the caller and is itself a valid request."""

import inspect
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    create_model,
)

from service.diffusion.corrections import epsilon_scaling
from service.diffusion.guidance import Guidance, Interval, cfg
from service.diffusion.parameterization import Parameterization
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES, check
from service.diffusion.types import Sampler, Wrapper
from service.engines.contract import ModelDescription
from service.errors import InvalidRequest, UnknownModel

T = TypeVar("T")

PRESETS = Path(__file__).parent / "presets"
EXPLICIT = "explicit"  # the schedule of a request that lists its own sigmas
DEFAULTS = {"negative_prompt": "", "guidance_scale": 1.0, "guidance_interval": None, "epsilon_scaling": None}


def _ascending(interval: Interval) -> Interval:
    if not 0 <= interval[0] < interval[1]:
        raise ValueError("must be [lo, hi] with 0 <= lo < hi: guidance acts for lo < sigma <= hi")
    return interval


def _option(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value in (inf, -inf) or value != value:
        raise ValueError("must be a finite number or a string")
    return value


def _unicode(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair, which is no character")
    return text


Text = Annotated[str, Strict(), AfterValidator(_unicode)]
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Options = dict[str, Annotated[int | float | str, BeforeValidator(_option)]]
GuidanceInterval = Annotated[tuple[Number, Number], AfterValidator(_ascending)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EpsilonScaling(_Frozen):
    """eps is divided by scale + slope * (steps from the clean end)."""

    scale: Annotated[float, Strict(), Field(ge=0.5, le=1.5)]
    slope: Annotated[float, Strict(), Field(ge=0, le=0.1)] = 0.0


class Recipe(_Frozen):
    """Every number of one picture."""

    model: str
    model_digest: str
    preset: str  # gave what the request left open
    prompt: str
    negative_prompt: str
    width: int
    height: int
    seed: int
    sampler: str
    sampler_options: Options
    schedule: str
    schedule_options: Options
    num_inference_steps: int
    sigmas: tuple[float, ...]  # [num_inference_steps + 1], decreasing, ends in 0
    guidance_scale: float
    guidance_interval: Interval | None  # guided for sigma in (lo, hi]
    epsilon_scaling: EpsilonScaling | None
    engine: str
    precision: str

    def bound_sampler(self) -> Sampler:
        """The sampler with its options bound: (denoise, x, sigmas, noise) -> x."""
        return partial(SAMPLERS[self.sampler], **self.sampler_options)

    def guidance(self) -> Guidance:
        """How the branches become one estimate."""
        return cfg(self.guidance_scale, self.guidance_interval)

    def corrections(self) -> list[Wrapper]:
        """The corrections, innermost first."""
        scaling = self.epsilon_scaling
        return [epsilon_scaling(scaling.scale, scaling.slope, np.array(self.sigmas))] if scaling else []


class Overrides(_Frozen):
    """What a request may set: the fields of ``Recipe``, all optional; null is "not set" unless it can mean "none"."""

    model: Text | None = None
    model_digest: Text | None = None
    preset: Text | None = None
    prompt: Text | None = None
    negative_prompt: Text | None = None
    width: Integer | None = None
    height: Integer | None = None
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**53)] | None = None
    sampler: Text | None = None
    sampler_options: Options | None = None
    schedule: Text | None = None
    schedule_options: Options | None = None
    num_inference_steps: Annotated[int, Strict(), Field(ge=1)] | None = None
    sigmas: tuple[Number, ...] | None = None
    guidance_scale: Annotated[float, Strict(), Field(gt=0, le=100)] | None = None
    guidance_interval: GuidanceInterval | None = None
    epsilon_scaling: EpsilonScaling | None = None
    engine: Text | None = None
    precision: Text | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Untrusted values -> overrides; the first thing that is wrong becomes an InvalidRequest."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _invalid(error) from None

    def given(self) -> dict[str, Any]:
        """The fields that were set."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        return {name: value for name, value in values.items() if value is not None or DEFAULTS.get(name, 0) is None}


class Preset(_Frozen):
    """A row of data with its evidence."""

    name: str
    title: str
    description: str  # what it is for
    evidence: str
    recipe: Overrides


@cache
def load_presets(folder: Path = PRESETS) -> Mapping[str, Preset]:
    """Every preset of a folder by name, the name of its file."""
    files = sorted(folder.glob("*.toml"))
    return {file.stem: Preset(name=file.stem, **tomllib.loads(file.read_text("utf-8"))) for file in files}


def parameterization(model: ModelDescription) -> Parameterization:
    """The parameterization that a model's self-description asks for."""
    return Parameterization(**model.noise_schedule.model_dump())


def resolve(
    overrides: Overrides,
    presets: Mapping[str, Preset],
    models: Mapping[str, ModelDescription],
    engine: str,
    precision: str,
    *,
    max_steps: int = 200,
) -> Recipe:
    """Preset + overrides -> Recipe, pure. The caller draws the seed where the request has none."""
    given = overrides.given()
    model = _model(given, models)
    preset = _known("preset", given.get("preset", model.default_preset), presets)
    for name in ("prompt", "seed"):
        if name not in given:
            raise InvalidRequest(f"{name} is missing", field=name)
    facts = {"model": model.name, "model_digest": model.digest, "engine": engine, "precision": precision}
    for name, fact in facts.items():
        if given.get(name, fact) != fact:
            raise InvalidRequest(f"{name} is {given[name]!r} in the request but {fact!r} here", field=name)
    values = DEFAULTS | merge(preset.recipe.given(), given) | {"preset": preset.name} | facts
    values |= _size(given, model)
    values |= {"sampler_options": _options("sampler", values, SAMPLERS)}
    return Recipe(**(values | _schedule(values, model, max_steps)))


def merge(preset: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The request's fields replace the preset's; what depended on a replaced field goes with it."""
    dependants = {
        "sampler": ("sampler_options",),
        "schedule": ("schedule_options", "sigmas"),
        "num_inference_steps": ("sigmas",),
        "sigmas": ("schedule", "schedule_options", "num_inference_steps"),
    }
    dropped = {name for field, names in dependants.items() if field in given for name in names}
    return {name: value for name, value in preset.items() if name not in dropped} | given


def _model(given: Mapping[str, Any], models: Mapping[str, ModelDescription]) -> ModelDescription:
    name = given.get("model", next(iter(models)) if len(models) == 1 else "")
    if name in models:
        return models[name]
    raise UnknownModel(f"there is no model {name!r}; known: {', '.join(sorted(models))}", field="model")


def _size(given: Mapping[str, Any], model: ModelDescription) -> dict[str, int]:
    width, height = given.get("width", model.sizes[0][0]), given.get("height", model.sizes[0][1])
    if (width, height) in model.sizes:
        return {"width": width, "height": height}
    nearest = min(model.sizes, key=lambda size: abs(size[0] - width) + abs(size[1] - height))
    field = "width" if width != nearest[0] else "height"
    message = f"{model.name} does not serve {width}x{height}; the nearest size it serves is {nearest[0]}x{nearest[1]}"
    raise InvalidRequest(message, field=field)


def _schedule(values: Mapping[str, Any], model: ModelDescription, max_steps: int) -> dict[str, Any]:
    """The schedule with its options, steps and sigmas; what is given of these must agree."""
    given, name = values.get("sigmas"), values.get("schedule", EXPLICIT)
    steps = values.get("num_inference_steps", len(given or ()) - 1)
    if steps > max_steps:
        field = "num_inference_steps" if "num_inference_steps" in values else "sigmas"
        raise InvalidRequest(f"{steps} steps are more than the {max_steps} allowed here", field=field)
    if given is None and name == EXPLICIT:
        raise InvalidRequest("schedule 'explicit' needs sigmas", field="sigmas")
    levels = parameterization(model).noise_levels
    options = _options("schedule", {**values, "schedule": name}, {**SCHEDULES, EXPLICIT: _explicit})
    if name != EXPLICIT:
        with _naming("schedule_options"):
            sigmas = check(SCHEDULES[name](levels, steps, **options), levels)
    if given is not None:
        with _naming("sigmas"):
            listed = check(given, levels)
            if len(listed) != steps + 1 or (name != EXPLICIT and not np.allclose(listed, sigmas, rtol=1e-9, atol=0)):
                raise ValueError(f"not those of schedule {name} at {steps} steps; leave one of them out")
            sigmas = listed  # to the last bit
    resolved = {"schedule": name, "schedule_options": options, "num_inference_steps": steps}
    return resolved | {"sigmas": tuple(sigmas.tolist())}


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """A ValueError inside becomes an InvalidRequest that names the field."""
    try:
        yield
    except ValueError as error:
        raise InvalidRequest(f"{field}: {error}", field=field) from None


def _explicit() -> None:
    """Schedule "explicit" takes no options."""


def _known(field: str, name: str, table: Mapping[str, T]) -> T:
    if name not in table:
        raise InvalidRequest(f"there is no {field} {name!r}; known: {', '.join(sorted(table))}", field=field)
    return table[name]


def _options(field: str, values: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> Options:
    """The options of the named sampler or schedule with its defaults filled in; "not set" defaults stay unset."""
    function = _known(field, values[field], functions)
    try:
        options = _options_model(function).model_validate(values.get(f"{field}_options", {}))
    except ValidationError as error:
        known = ", ".join(_options_model(function).model_fields) or "none"
        raise _invalid(error, f"{field}_options", f"; options of {values[field]}: {known}") from None
    return options.model_dump(exclude_none=True)


@cache
def _options_model(function: Callable[..., Any]) -> type[BaseModel]:
    """The keyword-only parameters of a function as a strict model."""
    parameters = inspect.signature(function).parameters.values()
    fields: dict[str, Any] = {p.name: (p.annotation, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return create_model(function.__name__, __config__=config, **fields)


def _invalid(error: ValidationError, prefix: str = "", hint: str = "") -> InvalidRequest:
    """The first thing that is wrong, as a sentence that names the field."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in ((prefix,) if prefix else ()) + first["loc"][:2])
    return InvalidRequest(f"{field}: {first['msg'].removeprefix('Value error, ')}{hint}", field=field)
