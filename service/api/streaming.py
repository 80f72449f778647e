"""Server-sent events of OpenAI's image route: previews while the picture is made, then the picture."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api import accept, schemas
from service.api.errors import body
from service.enlargement import final
from service.errors import Cancelled, DarkroomError
from service.making import News, Order, Preview
from service.runner import Admitted, Runner

KEEP_ALIVE = 10.0  # seconds of silence that proxies are sure to bear
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class EventStream(StreamingResponse):
    """The events of one picture; whatever ends the response ends the work."""

    media_type = accept.EVENTS

    def __init__(self, runner: Runner, order: Order, record: dict[str, Any]) -> None:
        loop, self._previews = asyncio.get_running_loop(), asyncio.Queue[Preview | None]()
        put = self._previews.put_nowait
        self._runner, self._record = runner, record

        def show(_: int, what: News) -> None:
            if isinstance(what, Preview):
                loop.call_soon_threadsafe(put, what)

        self._admitted = runner.start(order, show)
        self._admitted.pictures.add_done_callback(lambda _: put(None))
        super().__init__(self._events(self._admitted), headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._record["outcome"] = Cancelled.code  # until the stream comes to its end
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._admitted.pictures.cancel()

    async def _events(self, admitted: Admitted) -> AsyncIterator[str]:
        finished = asyncio.ensure_future(self._runner.finish(admitted))
        try:
            async for line in self._previewed(admitted):
                yield line
            (made,) = await finished
            done = schemas.CompletedEvent(
                **_common(admitted, made.data, final(made.recipe)), recipe=made.recipe, timings=made.timings
            )
            yield event(done.type, done.model_dump_json())
            self._record["outcome"] = "ok"
        except DarkroomError as error:
            yield event("error", json.dumps(body(error.status, error.message, error.code, error.field)))
            self._record["outcome"] = error.code
        finally:
            finished.cancel()

    async def _previewed(self, admitted: Admitted) -> AsyncIterator[str]:
        """Previews as they come; where none does, a comment with the place in the queue keeps the connection alive."""
        yield f": {admitted.place().ahead} ahead\n\n"
        first = admitted.order.recipes[0]
        steps = self._runner.steps(first)
        while True:
            try:
                preview = await asyncio.wait_for(self._previews.get(), KEEP_ALIVE)
            except TimeoutError:
                yield f": {admitted.place().ahead} ahead\n\n"
                continue
            if preview is None:
                return
            shown = {"partial_image_index": preview.index, "step": preview.step, "steps": steps}
            partial = schemas.PartialEvent(**_common(admitted, preview.data, (first.width, first.height)), **shown)
            yield event(partial.type, partial.model_dump_json())


def _common(admitted: Admitted, data: bytes, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "b64_json": base64.b64encode(data).decode(),
        "created_at": int(time.time()),
        "size": "x".join(map(str, size)),
        "output_format": admitted.order.output_format,
    }


def event(name: str, data: str, number: int | None = None) -> str:
    """One event in the format of WHATWG's HTML standard, 9.2."""
    numbered = "" if number is None else f"id: {number}\n"
    return f"{numbered}event: {name}\ndata: {data}\n\n"
