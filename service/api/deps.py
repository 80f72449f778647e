"""What the composition root hands to the routes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.engines.contract import Engine
from service.metrics import Metrics
from service.recipe import Preset
from service.runner import Runner
from service.settings import Settings


@dataclass(frozen=True)
class Parts:
    """The parts of one running service."""

    settings: Settings
    engine: Engine
    runner: Runner
    metrics: Metrics
    presets: Mapping[str, Preset]


def _parts(request: Request) -> Parts:
    return cast(Parts, request.app.state.parts)


House = Annotated[Parts, Depends(_parts)]
