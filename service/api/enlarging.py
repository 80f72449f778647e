"""What /v1/images/upscale reads, and the command line beside it."""

import secrets
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from service.api.schemas import SEEDS, default_model
from service.engines.contract import Engine
from service.enlargement import Enlargement, settled
from service.errors import InvalidRequest, UnknownModel
from service.fields import parsed
from service.settings import Settings
from service.upscaling.options import Upscaling


class UpscaleRequest(Upscaling):
    """How a caller's own picture is to be enlarged: the query of /v1/images/upscale."""

    model: str | None = Field(None, description="whose upsampler; the service's default if absent")
    seed: int | None = Field(None, ge=0, lt=SEEDS, strict=True, description="of the network's noise; drawn if absent")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Untrusted values."""
        return parsed(cls, values)

    def resolved(self, settings: Settings, engine: Engine, width: int, height: int) -> Enlargement:
        """Every number, for a picture of this size."""
        name = self.model or default_model(settings, engine)
        if name not in engine.models:
            raise UnknownModel(f"there is no model {name[:100]!r}; known: {', '.join(engine.models)}", field="model")
        model, wish = engine.models[name], Upscaling(**self.model_dump(include=set(Upscaling.model_fields)))
        try:
            how = settled(wish, model, width, height, settings.max_pixels)
        except InvalidRequest as error:
            error.field = (error.field or "").removeprefix("upscale.")
            raise
        if how.method == "lanczos" and self.seed is not None:
            raise InvalidRequest("lanczos draws no noise; leave seed out", field="seed")
        seed = None if how.method == "lanczos" else secrets.randbelow(SEEDS) if self.seed is None else self.seed
        facts = {"model": name, "model_digest": model.digest, "engine": engine.name, "precision": engine.precision}
        return Enlargement(**facts, width=width, height=height, seed=seed, upscale=how)
