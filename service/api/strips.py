"""The file of one picture, sent piece by piece while it is made."""

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import Cancelled, DarkroomError, Unavailable
from service.making import Made, News, Order
from service.runner import Runner

CHUNK = 1 << 18  # bytes


class Strips:
    """The work, and its pieces on their way: on disk, so that a slow client holds neither memory nor a thread."""

    def __init__(self, runner: Runner, order: Order) -> None:
        self._loop, self._changed, self._lock = asyncio.get_running_loop(), asyncio.Event(), threading.Lock()
        self._file, self._written = tempfile.TemporaryFile(buffering=0), 0  # noqa: SIM115  # closed by ``close``
        try:
            self._work = asyncio.ensure_future(runner.finish(runner.start(order, self._tell)))
        except BaseException:
            self._file.close()
            raise
        self._work.add_done_callback(self._over)

    async def begun(self) -> None:
        """Wait for the first piece; what ends the work before it is raised."""
        while not self._written:
            if self._work.done():
                self._work.result()
            await self._change()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file; what ends the work is raised."""
        sent = 0
        while True:
            over = self._work.done()
            while sent < self._written:
                data = await asyncio.to_thread(os.pread, self._file.fileno(), CHUNK, sent)
                sent += len(data)
                yield data
            if over:
                self._work.result()
                return
            await self._change()

    def close(self) -> None:
        """What still runs stops at its next piece or network call."""
        self._work.cancel()
        with self._lock:
            self._file.close()

    async def _change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _over(self, work: "asyncio.Task[list[Made]]") -> None:
        if not work.cancelled():
            work.exception()  # seen, also where nobody waits any more
        self._changed.set()

    def _tell(self, _: int, what: News) -> None:
        """In a worker thread."""
        if isinstance(what, bytes):
            with self._lock:
                if self._file.closed:
                    raise Cancelled("the client left")
                try:
                    self._file.write(what)
                except OSError as error:
                    raise Unavailable(f"the picture cannot be kept on its way: {error.strerror}") from error
            self._loop.call_soon_threadsafe(self._grown, len(what))

    def _grown(self, size: int) -> None:
        self._written += size
        self._changed.set()


class FileStream(StreamingResponse):
    """The file as the answer. Work that fails on the way leaves it incomplete, and the connection ends."""

    def __init__(self, strips: Strips, record: dict[str, Any], seed: int | None) -> None:
        self._strips, self._record = strips, record
        headers = {} if seed is None else {"x-darkroom-seed": str(seed)}
        super().__init__(self._sent(), media_type="image/png", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._record["outcome"] = Cancelled.code  # until the file comes to its end
        try:
            await super().__call__(scope, receive, send)
        except DarkroomError as error:
            self._record["outcome"] = error.code
        finally:
            self._strips.close()

    async def _sent(self) -> AsyncIterator[bytes]:
        async for piece in self._strips.pieces():
            yield piece
        self._record["outcome"] = "ok"
