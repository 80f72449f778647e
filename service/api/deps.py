"""What the composition root hands to the routes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.background import Background
from service.engines.contract import Engine
from service.keys import Key, Keys
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
    keys: Keys
    presets: Mapping[str, Preset]
    jobs: Background | None


async def _parts(request: Request) -> Parts:  # async: FastAPI hands plain functions to a thread
    return cast(Parts, request.app.state.parts)


House = Annotated[Parts, Depends(_parts)]


async def caller(request: Request, house: House) -> Key | None:
    """Whose key the request carries, noted for the log; None where keys are not asked for."""
    key = house.keys.of(request.headers.get("authorization", ""))
    if key:
        request.state.record["key"] = key.name
    return key


Caller = Annotated[Key | None, Depends(caller)]
