"""What the OpenAI family of routes reads and writes: OpenAI's own fields, and every field of a recipe beside them."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.api.errors import Problem
from service.engines.contract import Engine
from service.enlargement import Enlargement
from service.errors import InvalidRequest
from service.images import Format
from service.recipe import Overrides, Preset, Recipe, resolve
from service.settings import Settings

SEEDS = 2**53  # every seed is exact in JSON
Deadline = Annotated[int | None, Field(ge=1, le=86_400_000, strict=True)]
SIZE = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"


def default_model(settings: Settings, engine: Engine) -> str:
    """The model of the settings, or the first one where this engine does not have it."""
    name = settings.default_model
    return name if name in engine.models else next(iter(engine.models), name)


class RecipeRequest(Overrides):
    """A recipe as a request may give it: every field may be absent (or null); ``size`` is width and height in one."""

    size: str | None = Field(None, pattern=SIZE, description='"auto" or "WIDTHxHEIGHT"', examples=["256x256"])

    def dimensions(self) -> tuple[int | None, int | None]:
        """Width and height, from whichever field names them."""
        if self.size is None or self.size == "auto":
            return self.width, self.height
        width, height = map(int, self.size.split("x"))
        if (self.width or width, self.height or height) != (width, height):
            raise InvalidRequest(f"size {self.size} contradicts width and height", field="size")
        return width, height

    def resolved(self, settings: Settings, engine: Engine, presets: Mapping[str, Preset]) -> Recipe:
        """The recipe; what the service decides for a request that leaves it open (model, seed) is decided here."""
        for name in ("prompt", "negative_prompt"):
            if len(getattr(self, name) or "") > settings.max_prompt_chars:
                raise InvalidRequest(f"{name} is longer than {settings.max_prompt_chars} characters", field=name)
        given = {name: getattr(self, name) for name in self.model_fields_set & Overrides.model_fields.keys()}
        given["width"], given["height"] = self.dimensions()
        given["prompt"] = self.prompt  # its default counts too
        given["model"] = self.model or default_model(settings, engine)
        given["seed"] = secrets.randbelow(SEEDS) if self.seed is None else self.seed
        overrides = Overrides.model_construct(**given)
        limits = {"max_steps": settings.max_steps, "max_pixels": settings.max_pixels}
        try:
            return resolve(overrides, presets, engine.models, engine.name, engine.precision, **limits)
        except InvalidRequest as error:
            if self.size and error.field in ("width", "height"):
                error.field = "size"
            raise


class ImageRequest(RecipeRequest):
    """OpenAI's body of /v1/images/generations. A value that cannot be honoured is refused, never ignored."""

    prompt: str = Field(
        strict=True, description="what to show; may be empty", examples=["a red sphere on the beach at dusk"]
    )
    n: int | None = Field(None, ge=1, le=10, strict=True, description="pictures, with the seeds seed ... seed + n - 1")
    response_format: Literal["b64_json"] | None = Field(
        None, description="pictures are not stored, so there is no url to give"
    )
    output_format: Format | None = Field(None, description="png unless the Accept header asks for another")
    output_compression: int | None = Field(
        None, ge=0, le=100, strict=True, description="quality of webp and jpeg, 100 if absent"
    )
    user: str | None = Field(None, max_length=256, description="your end user; appears in the service's log")
    background: Literal["auto", "opaque"] | None = Field(None, description="pictures have no transparency")
    quality: Literal["auto"] | None = Field(None, description="take a preset instead")
    style: None = Field(None, description="OpenAI's field; not offered")
    moderation: Literal["auto"] | None = Field(None, description="nothing is moderated, so there is no level")
    stream: bool | None = Field(None, strict=True, description="true: answer with server-sent events; n must be 1")
    partial_images: int | None = Field(None, ge=0, le=3, strict=True, description="previews in the stream")
    deadline_ms: Deadline = Field(None, description="refused at once if it cannot be met, 504 when it passes")


class ExplainRequest(RecipeRequest):
    """Any recipe; the prompt does not matter to the table and may be absent."""

    prompt: str = Field("", strict=True)
    deadline_ms: Deadline = Field(None, description='for preset "auto": what it would choose now')


class Picture(BaseModel):
    """One picture, the recipe that made it, seconds by part."""

    b64_json: str
    recipe: Recipe | Enlargement
    timings: dict[str, float]


class ImageResponse(BaseModel):
    """OpenAI's answer with our recipe and timings in every element of ``data``."""

    created: int
    size: str
    output_format: Format
    background: Literal["opaque"] = "opaque"
    data: list[Picture]


class PartialEvent(BaseModel):
    """The data of event image_generation.partial_image: the picture as it looks after ``step`` of ``steps``."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    b64_json: str
    partial_image_index: int
    step: int
    steps: int
    created_at: int
    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: Format


class CompletedEvent(BaseModel):
    """The data of event image_generation.completed."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    b64_json: str
    recipe: Recipe | Enlargement
    timings: dict[str, float]
    created_at: int
    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: Format


class Cancellation(BaseModel):
    """What was in progress under a request id, and is no more."""

    id: str
    object: Literal["image_generation"] = "image_generation"
    cancelled: Literal[True] = True


class JobPicture(BaseModel):
    """One picture that is done; its recipe is that of the same number."""

    number: int
    url: str
    seed: int | None
    timings: dict[str, float]


class Job(BaseModel):
    """Long work. Times are whole seconds since 1970."""

    id: str
    object: Literal["job"] = "job"
    status: Literal["queued", "in_progress", "succeeded", "failed", "cancelled"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    expires_at: int | None = Field(description="when the job and its pictures are deleted")
    position: int | None = Field(description="pictures that will be started before; while it waits")
    estimated_start_seconds: float | None = Field(description="time until it is started, by what work has cost so far")
    steps: int = Field(description="of all its pictures")
    steps_done: int
    output_format: Format
    recipes: list[Recipe | Enlargement] = Field(description="one for each picture, seeds included")
    pictures: list[JobPicture] = Field(description="those that are done")
    error: Problem | None


class JobEventData(BaseModel):
    """The data of an event of a job; which fields there are depends on ``type``."""

    type: Literal[
        "job.queued",
        "job.in_progress",
        "job.progress",
        "job.partial_image",
        "job.picture",
        "job.succeeded",
        "job.failed",
        "job.cancelled",
    ]
    id: str
    number: int | None = Field(None, description="of the picture")
    step: int | None = Field(None, description="of a preview, whose picture has so many steps")
    steps: int | None = None
    steps_done: int | None = Field(None, description="of all pictures of the job, which have so many steps together")
    partial_image_index: int | None = None
    b64_json: str | None = Field(None, description="a preview")
    output_format: Format | None = None
    url: str | None = Field(None, description="of a picture that is done")
    seed: int | None = None
    timings: dict[str, float] | None = None
    error: Problem | None = None


class JobDeleted(BaseModel):
    """A job that is no more, like its pictures."""

    id: str
    object: Literal["job"] = "job"
    deleted: Literal[True] = True


class ModelCard(BaseModel):
    """OpenAI's model object and what of its description matters to a caller."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "darkroom"
    digest: str
    sizes: list[str]
    default_preset: str
    engine: str
    precision: str
    networks: dict[str, str]


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class PresetCard(BaseModel):
    """A preset and what speaks for it; ``recipe`` holds only what the preset sets."""

    id: str
    object: Literal["preset"] = "preset"
    title: str
    description: str
    evidence: str
    frechet_distance: float | None = Field(description='of its pictures, see evidence; preset "auto" ranks by it')
    models: list[str] = Field(description="the models here that it is for")
    recipe: dict[str, Any]


class Presets(BaseModel):
    """The presets, and the samplers, schedules and guidance methods with their options' defaults."""

    object: Literal["list"] = "list"
    data: list[PresetCard]
    samplers: dict[str, dict[str, float | str | None]]
    schedules: dict[str, dict[str, float | str | None]]
    guidance_methods: dict[str, dict[str, float | str | None]]


class Evaluation(BaseModel):
    """One network call that a recipe would make."""

    step: int = Field(description="the interval of sigmas that it serves, from 0")
    sigma: float = Field(description="0 after the last step")
    timestep: float = Field(description="the network's clock")
    rows: list[str] = Field(description='["cond"] or ["uncond", "cond"]')
    nfe: int = Field(description="network calls so far, this one included")
    network: str = Field(description="its role in the model")


class UpscalePass(BaseModel):
    """The upsampler over a whole picture once; lanczos calls no network."""

    width: int
    height: int
    blocks: int
    evaluations: int = Field(description="of every block")
    calls: int = Field(description="of the network: blocks of one anti-diagonal share one")


class Explanation(BaseModel):
    """A recipe resolved but not run, its network calls as a table, and what the upsampler would do after them."""

    recipe: Recipe
    steps: list[Evaluation]
    upscale: list[UpscalePass]
