"""What Kubernetes and Prometheus ask for."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from service.api.deps import House
from service.api.errors import documented

router = APIRouter(tags=["operations"])


class Status(BaseModel):
    status: str


@router.get("/health/live", responses=documented())
async def live() -> Status:
    """The event loop answers."""
    return Status(status="live")


@router.get("/health/ready", responses=documented(503))
async def ready(house: House) -> Status:
    """A real network call succeeded recently; an idle engine is asked for one now."""
    await house.runner.ready()
    return Status(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **documented()})
async def metrics(house: House) -> Response:
    """Every instrument, in Prometheus' text format."""
    return Response(generate_latest(house.metrics.registry), media_type=CONTENT_TYPE_LATEST)
