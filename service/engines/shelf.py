"""Conditioning in shared memory: sent once to a server on this host, so that a step carries only its latent.

Conditioning outweighs the latent several times, and a request sends the same one in every step. What was seen twice is
written to a file in /dev/shm, mapped by the server, and unlinked at once: nothing is left behind however we end. A
server on another host cannot map it and gets everything by value, as it gets what is seen only once.
"""

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from tritonclient.grpc import service_pb2 as pb

from service.engines.tensors import Inputs

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
PREFIX = f"darkroom.{secrets.token_hex(4)}"  # one name per process, also where processes share a number
CAPACITY = 32 * 2**20  # bytes mapped by one server
SMALLEST = 16 * 2**10  # below this, by value costs nothing
SEEN = 1024  # keys remembered
LIMIT = 1.0  # seconds for a question to the server
IN_USE = 5.0  # seconds for which a region that a call still reads is tried to unmap,
AGAIN = 0.01  # and between two attempts
REST = 30.0  # seconds after an abandoned call in which the server may still read
NUMBERS = count()


class Place(NamedTuple):
    """Where an array of this shape begins, and how many bytes it has."""

    region: str
    offset: int
    size: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Lasting:
    """Inputs that are the same in many calls; those of equal keys are equal, those without one travel by value."""

    make: Callable[[], Inputs]
    key: Hashable = None


NOTHING = Lasting(dict)


@dataclass
class _Book:
    """One tuple of conditionings in one region."""

    region: str
    places: Mapping[str, Place]
    size: int
    users: int = 0
    rests_until: float = 0.0


class Shelf:
    """What one server has mapped."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._books: OrderedDict[Hashable, _Book] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._in_the_making: set[Hashable] = set()
        self._unwanted: set[str] = set()  # regions that the server may still have
        self._lock = threading.Lock()
        self._reachable = SHARED_MEMORY.is_dir()

    @contextmanager
    def lend(self, lasting: Lasting) -> Iterator[Mapping[str, Place]]:
        """Where the server finds these inputs while a call lasts; empty if they must travel by value."""
        book = self._borrow(lasting.key, lasting.make)
        try:
            yield book.places if book else {}
        except BaseException:
            if book:
                book.rests_until = time.monotonic() + REST
            raise
        finally:
            if book:
                with self._lock:
                    book.users -= 1

    def clear(self) -> None:
        """The server has lost its regions."""
        with self._lock:
            self._books.clear()
            self._unwanted.clear()

    def close(self) -> None:
        """Let the server forget what it has mapped for us."""
        with self._lock:
            books = list(self._books.values())
            self._books.clear()
        self._unmap(books)

    def _borrow(self, key: Hashable, make: Callable[[], Inputs]) -> _Book | None:
        if key is None or not self._reachable:
            return None
        with self._lock:
            book = self._books.get(key)
            if book:
                self._books.move_to_end(key)
                book.users += 1
                return book
            if self._is_new(key) or key in self._in_the_making:
                return None
            self._in_the_making.add(key)
        book = None
        try:
            book = self._add(make())
        finally:
            with self._lock:
                self._in_the_making.remove(key)
                if book:
                    self._books[key] = book
        return book

    def _add(self, arrays: Inputs) -> _Book | None:
        """A new book, if it is worth one."""
        size = sum(array.nbytes for array in arrays.values())
        if not SMALLEST <= size <= CAPACITY:
            return None
        with self._lock:
            removed = self._make_room(size)
        self._unmap(removed)
        return self._map(arrays, size)

    def _is_new(self, key: Hashable) -> bool:
        """Transformed conditioning is another one in every step and not worth a region."""
        new = key not in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        return new

    def _make_room(self, size: int) -> list[_Book]:
        """Take away the books lent least recently, except those that a call may still read."""
        now, removed = time.monotonic(), []
        excess = sum(book.size for book in self._books.values()) + size - CAPACITY
        for key, book in list(self._books.items()):
            if excess > 0 and not book.users and book.rests_until < now:
                removed.append(self._books.pop(key))
                excess -= book.size
        return removed

    def _map(self, arrays: Inputs, size: int) -> _Book | None:
        region = f"{PREFIX}.{next(NUMBERS)}"
        file = SHARED_MEMORY / region
        try:
            file.write_bytes(b"".join(array.tobytes() for array in arrays.values()))
            question = pb.SystemSharedMemoryRegisterRequest(name=region, key=f"/{region}", byte_size=size)
            self._stub.SystemSharedMemoryRegister(question, timeout=LIMIT)
        except OSError as error:
            log.warning("conditioning travels by value: %s", error)
            return None
        except grpc.RpcError as error:
            log.info("conditioning travels by value: %s", error.details())
            self._reachable = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if self._reachable:  # it may have mapped it all the same
                with self._lock:
                    self._unwanted.add(region)
            return None
        finally:
            file.unlink(missing_ok=True)
        places, offset = {}, 0
        for name, array in arrays.items():
            places[name] = Place(region, offset, array.nbytes, array.shape)
            offset += array.nbytes
        return _Book(region, places, size, users=1)

    def _unmap(self, books: Iterable[_Book]) -> None:
        """Triton refuses while a call reads a region, and for a moment after its answer."""
        with self._lock:
            names, self._unwanted = self._unwanted | {book.region for book in books}, set()
        limit = time.monotonic() + IN_USE
        with suppress(grpc.RpcError):  # who does not answer is told with the next ones, if it has not forgotten by then
            while names and time.monotonic() < limit:
                names = {name for name in names if self._in_use(name)}
                time.sleep(AGAIN if names else 0)
        with self._lock:
            self._unwanted |= names

    def _in_use(self, region: str) -> bool:
        """Unmap it unless the server still needs it."""
        try:
            question = pb.SystemSharedMemoryUnregisterRequest(name=region)
            self._stub.SystemSharedMemoryUnregister(question, timeout=LIMIT)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.INTERNAL:
                raise
            return True
        return False
