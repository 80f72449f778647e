"""The fields of a recipe: a request's, a preset's, and the resolved recipe's own with the functions they name."""

import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from itertools import pairwise
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
    model_validator,
)

from service.diffusion.compose import Parts
from service.diffusion.conditioning import cads
from service.diffusion.corrections import epsilon_scaling, time_shift
from service.diffusion.explain import Evaluation, explain
from service.diffusion.guidance import GUIDANCE, Interval
from service.diffusion.names import sampler_fields, schedule_fields
from service.diffusion.networks import finish, start
from service.diffusion.options import Cads, EpsilonScaling, TimeShift, bound
from service.diffusion.parameterization import Parameterization
from service.diffusion.samplers import SAMPLERS
from service.engines.contract import ModelDescription
from service.errors import InvalidRequest
from service.upscaling.options import Upscaling

PRESETS = Path(__file__).parent / "presets"
EXPLICIT = "explicit"  # the schedule of a request that lists its own sigmas
AUTO = "auto"  # the preset of a request that leaves the choice to the service
DEFAULTS: dict[str, Any] = {
    "preset_auto": False,
    "negative_prompt": "",
    "initial_network": None,
    "residual_network": None,
    "zero_terminal_snr": False,
    "guidance_method": "cfg",
    "guidance_scale": 1.0,
    "guidance_interval": None,
    "epsilon_scaling": None,
    "time_shift": None,
    "cads": None,
    "upscale": None,
}
OF_REQUESTS = {"prompt", "seed", "model", "model_digest", "engine", "precision", "width", "height"}
OF_REQUESTS |= {"preset", "preset_auto"}


def _ascending(interval: Interval) -> Interval:
    if not 0 <= interval[0] < interval[1]:
        raise ValueError("must be [lo, hi] with 0 <= lo < hi: guidance acts for lo < sigma <= hi")
    return interval


def _descending(levels: tuple[float, ...]) -> tuple[float, ...]:
    if len(levels) == 1 or not all(a > b > 0 for a, b in pairwise(levels)):
        raise ValueError("must be at least two positive numbers that decrease")
    return levels


def _option(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value in (inf, -inf) or value != value:
        raise ValueError("must be a finite number or a string")
    return value


def _unicode(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair, which is no character")
    return text


Schema = TypeVar("Schema", bound=BaseModel)
Text = Annotated[str, Strict(), AfterValidator(_unicode)]
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Options = dict[str, Annotated[int | float | str, BeforeValidator(_option)]]
Levels = Annotated[tuple[Number, ...], AfterValidator(_descending)]
GuidanceInterval = Annotated[tuple[Number, Number], AfterValidator(_ascending)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Recipe(_Frozen):
    """Every number of one picture."""

    model: str
    model_digest: str
    preset: str  # gave what the request left open
    preset_auto: bool  # chosen by the service, for the deadline
    prompt: str
    negative_prompt: str
    width: int
    height: int
    seed: int
    network: str  # role of the one that the sampler calls
    initial_network: str | None  # predicts x0 from pure noise, where the sampler starts (SingDiffusion)
    residual_network: str | None  # adds to the sampled latent what it lacks
    sampler: str
    sampler_options: Options
    schedule: str
    schedule_options: Options
    num_inference_steps: int
    sigmas: tuple[float, ...]  # [num_inference_steps + 1], decreasing, ends in 0
    zero_terminal_snr: bool
    guidance_method: str
    guidance_options: Options
    guidance_scale: float
    guidance_interval: Interval | None  # guided for sigma in (lo, hi]
    epsilon_scaling: EpsilonScaling | None
    time_shift: TimeShift | None
    cads: Cads | None
    upscale: Upscaling | None
    engine: str
    precision: str

    def parts(self, model: ModelDescription) -> Parts:
        """The functions that this recipe names, ready to be composed; one set per run (APG and CADS have a state)."""
        sigmas, process = np.array(self.sigmas), parameterization(model, self.zero_terminal_snr)
        facts = {"sigmas": sigmas, "parameterization": process}
        guidance = bound(GUIDANCE[self.guidance_method], self.guidance_options, facts)
        corrections, transforms = [], []
        if self.time_shift is not None:
            corrections.append(time_shift(process, sigmas, **self.time_shift.model_dump()))
        if self.epsilon_scaling is not None:
            corrections.append(epsilon_scaling(sigmas, **self.epsilon_scaling.model_dump()))
        if self.cads is not None:  # a stream of its own, so that CADS leaves the sampler's noise alone
            transforms.append(cads(np.random.default_rng([self.seed, 1]), **self.cads.model_dump()))
        return Parts(
            process,
            self.network,
            start(self.initial_network, process, self.sigmas[0], self.guidance_scale, self.guidance_interval),
            bound(SAMPLERS[self.sampler], self.sampler_options, {"parameterization": process}),
            finish(self.residual_network),
            guidance(self.guidance_scale, self.guidance_interval),
            corrections,
            transforms,
        )

    def calls(self, model: ModelDescription) -> Sequence[Evaluation]:
        """Every network call that this recipe will make, found without making any."""
        return _calls(model, self.model_copy(update={"prompt": "", "negative_prompt": "", "seed": 0}).model_dump_json())


@lru_cache(maxsize=512)
def _calls(model: ModelDescription, recipe: str) -> Sequence[Evaluation]:
    """Pictures of one recipe differ in prompts and seed only, which change no call."""
    settled = Recipe.model_validate_json(recipe)
    return tuple(explain(settled.parts(model), settled.sigmas))


def parsed(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """Untrusted values by a schema; the first thing that is wrong becomes an InvalidRequest."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"][:2])
        raise InvalidRequest(f"{field}: {first['msg'].removeprefix('Value error, ')}", field=field) from None


class Overrides(_Frozen):
    """What a request may set: the fields of ``Recipe``, all optional; null is "not set" unless it can mean "none"."""

    model: Text | None = None
    model_digest: Text | None = None
    preset: Text | None = None
    preset_auto: Annotated[bool, Strict()] | None = None
    prompt: Text | None = None
    negative_prompt: Text | None = None
    width: Integer | None = None
    height: Integer | None = None
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**53)] | None = None
    network: Text | None = None
    initial_network: Text | None = None
    residual_network: Text | None = None
    sampler: Text | None = None
    sampler_options: Options | None = None
    schedule: Text | None = None
    schedule_options: Options | None = None
    num_inference_steps: Annotated[int, Strict(), Field(ge=1)] | None = None
    sigmas: tuple[Number, ...] | None = None
    zero_terminal_snr: Annotated[bool, Strict()] | None = None
    guidance_method: Text | None = None
    guidance_options: Options | None = None
    guidance_scale: Annotated[float, Strict(), Field(gt=0, le=100)] | None = None
    guidance_interval: GuidanceInterval | None = None
    epsilon_scaling: EpsilonScaling | None = None
    time_shift: TimeShift | None = None
    cads: Cads | None = None
    upscale: Upscaling | None = None
    engine: Text | None = None
    precision: Text | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Untrusted values -> overrides; the first thing that is wrong becomes an InvalidRequest."""
        return parsed(cls, values)

    def given(self) -> dict[str, Any]:
        """The fields that were set, labels of other programs translated."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        given = {name: value for name, value in values.items() if value is not None or DEFAULTS.get(name, 0) is None}
        if "schedule" in given and given["schedule"] != EXPLICIT:
            given |= schedule_fields(given["schedule"])
        for name, value in sampler_fields(given["sampler"]).items() if "sampler" in given else ():
            if name != "sampler" and given.get(name, value) != value:
                message = f"sampler {given['sampler']!r} means {name} {value!r}; give one of them"
                raise InvalidRequest(message, field=name)
            given[name] = value
        return given


class Preset(_Frozen):
    """A row of data with its evidence."""

    name: str
    title: str
    description: str  # what it is for
    evidence: str
    frechet_distance: Annotated[float, Field(allow_inf_nan=False)] | None = None  # of its pictures; "auto" ranks by it
    families: tuple[str, ...] = ()  # of models it is for; none listed: every family
    models: tuple[str, ...] = ("*",)  # patterns of the names of the models it is for
    fixed: bool = False  # for a network trained on these very steps: schedule and count cannot be changed
    levels: Levels = ()  # noise levels of a schedule of its own, instead of a named one; other counts log-linear in it
    recipe: Overrides

    @model_validator(mode="after")
    def _leaves_the_request_alone(self) -> Self:
        if taken := sorted(self.recipe.model_fields_set & OF_REQUESTS):
            raise ValueError(f"recipe sets {', '.join(taken)}, which only a request can")
        if self.levels and (self.fixed or self.recipe.given().keys() & {"schedule", "schedule_options", "sigmas"}):
            raise ValueError("levels are a schedule for any count of steps: not fixed, and no other beside it")
        return self

    def suits(self, model: ModelDescription) -> bool:
        """Whether this preset is offered for the model, which has the networks that it names."""
        named = any(fnmatchcase(model.name.lower(), pattern) for pattern in self.models)
        has = all(getattr(self.recipe, field) in (None, *roles) for field, roles in model.choices.items())
        return named and has and (not self.families or model.family in self.families)


@cache
def load_presets(own: Path | None = None) -> Mapping[str, Preset]:
    """The built-in presets and those of an operator's folder, by name: the name of the file. Raises InvalidRequest."""
    if own is not None and not own.is_dir():
        raise InvalidRequest(f"presets_dir: there is no folder {own}", field="presets_dir")
    found: dict[str, Preset] = {}
    for file in [*sorted(PRESETS.glob("*.toml")), *(sorted(own.glob("*.toml")) if own else [])]:
        if file.stem in (*found, AUTO):
            raise InvalidRequest(f"presets_dir: {file} has the name of a built-in preset", field="presets_dir")
        found[file.stem] = _preset(file)
    return found


def _preset(file: Path) -> Preset:
    try:
        return Preset(name=file.stem, **tomllib.loads(file.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    except (TypeError, ValueError) as error:  # a name of its own; not TOML, not UTF-8
        why = str(error)
    raise InvalidRequest(f"preset {file}: {why}", field="presets_dir")


@lru_cache(maxsize=64)
def parameterization(model: ModelDescription, zero_terminal_snr: bool = False) -> Parameterization:
    """The parameterization that a model's self-description asks for."""
    return Parameterization(**model.noise_schedule.model_dump(), zero_terminal_snr=zero_terminal_snr)
