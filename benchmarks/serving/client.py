"""A load generator that leaves the cores to what it measures: HTTP/1.1 by httptools on kept connections."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from httptools import HttpResponseParser

PREVIEW = b"event: image_generation.partial_image"
GONE = 0  # status of a request whose connection broke or whose caller lost patience


class Reply(NamedTuple):
    """An answer; times on the perf_counter clock."""

    status: int
    first: float | None  # when the first preview of a stream was here
    end: float
    body: bytes


class _Connection(asyncio.Protocol):
    """One request at a time; the methods in on_... are httptools' callbacks."""

    transport: asyncio.Transport
    reply: "asyncio.Future[Reply]"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes) -> "asyncio.Future[Reply]":
        self.reply = asyncio.get_running_loop().create_future()
        self._parser, self._chunks = HttpResponseParser(self), list[bytes]()
        self._first: float | None = None
        self.transport.write(request)
        return self.reply

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, chunk: bytes) -> None:
        if self._first is None and chunk.startswith(PREVIEW):
            self._first = time.perf_counter()
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        if not self.reply.done():
            status = self._parser.get_status_code()
            self.reply.set_result(Reply(status, self._first, time.perf_counter(), b"".join(self._chunks)))

    def connection_lost(self, _: Exception | None) -> None:
        if not self.reply.done():
            self.reply.set_result(Reply(GONE, None, time.perf_counter(), b""))


class Client:
    """Connections to one server at ``http://host:port``, opened as needed."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("http://").split(":")
        self._host, self._port, self._idle = host, int(port), list[_Connection]()

    async def ask(self, request: bytes, patience: float | None = None) -> Reply:
        """Send one request; after ``patience`` seconds hang up."""
        self._idle = [one for one in self._idle if not one.transport.is_closing()]  # servers close what stays idle
        connection = self._idle.pop() if self._idle else await self._connect()
        reply = connection.send(request)
        try:
            answered = await asyncio.wait_for(reply, patience)
        except TimeoutError:
            connection.transport.abort()
            return Reply(GONE, None, time.perf_counter(), b"")
        if answered.status != GONE:
            self._idle.append(connection)
        return answered

    async def get(self, path: str) -> str:
        """The body of a GET."""
        return (await self.ask(f"GET {path} HTTP/1.1\r\nhost: {self._host}\r\n\r\n".encode())).body.decode()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.transport.abort()
        await asyncio.sleep(0)

    async def _connect(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        return connection


def post(path: str, body: Mapping[str, Any]) -> bytes:
    """A POST of JSON, ready to be sent."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data
