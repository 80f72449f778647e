"""The gate: every call of every engine passes here, on its caller's thread.

A call is checked against its ticket, waits for one of ``in_flight`` places, and runs. Tenants share the places
fairly, and so do a tenant's large and small pictures; calls of one size go in order of their deadlines, then of arrival
(with equal parts for all, all would be late together). Work that was cancelled or is late leaves, counted.
When a place becomes free while several calls of equal shape wait, one of their callers runs them as one call of up to
``max_rows`` rows; nothing ever waits for company. Merging pays 7-25 % of throughput on two cores (buckets.py) and
changes no byte. Triton merges by itself, so its gate does not.
"""

import threading
import time
from bisect import insort
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from service.engines.cache import ConditioningCache
from service.engines.contract import Array, Conditioning, Engine, ModelDescription, Surroundings, Ticket
from service.errors import Cancelled, DarkroomError

PATIENCE = 0.1  # seconds between two looks at the ticket while waiting


class Called(NamedTuple):
    """One network call that ended."""

    model: ModelDescription
    network: str
    size: tuple[int, int]  # latent height and width; (0, 0) where there is none
    rows: int
    requests: int  # whose rows shared it
    waited: float  # seconds, the longest of them in the gate
    took: float  # seconds


class Observer(Protocol):
    """Hears what passes the gate; called from many threads, must be quick."""

    def called(self, call: "Called") -> None:
        """A network call ended."""

    def dropped(self, reason: Literal["cancelled", "deadline"]) -> None:
        """A call left before it ran."""

    def text_cache(self, hit: bool) -> None:
        """A prompt was looked up among the encoded ones."""


class Silent:
    """The observer that writes nothing down."""

    def called(self, call: "Called") -> None: ...
    def dropped(self, reason: Literal["cancelled", "deadline"]) -> None: ...
    def text_cache(self, hit: bool) -> None: ...


@dataclass(eq=False)
class _Call:
    """One caller's wish, from its arrival to its outcome."""

    model: str
    network: str
    ticket: Ticket
    run: "Callable[[Sequence[_Call]], Sequence[Any]]"  # serves itself and calls of its kind: one result each
    arguments: tuple[Any, ...] = ()
    rows: int = 1
    size: tuple[int, int] = (0, 0)  # latent height and width
    work: int = 0  # latent elements it moves: what is shared fairly
    kind: Hashable = None  # calls of equal kind may be merged; None never
    start: int = 0  # virtual time
    arrived: float = field(default_factory=time.monotonic)
    turn: threading.Event = field(default_factory=threading.Event)  # to run ``batch``, or to take the outcome
    batch: "list[_Call]" = field(default_factory=list)
    result: Any = None
    error: BaseException | None = None

    @property
    def group(self) -> Hashable:
        """What shares its tenant's part: pictures of one size, or the blocks of larger ones."""
        return self.network == "upsampler", self.size

    def precedes(self, other: "_Call") -> bool:
        """Whether it takes the turn of a call of its tenant and group that came before it, but is due later.

        Pictures without deadlines advance together: the last of a crowd would be made alone, without company to merge.
        """
        mine, theirs = ((call.ticket.tenant, call.group) for call in (self, other))
        urgent = (self.ticket.deadline, other.ticket.deadline) != (None, None)
        return urgent and self.ticket.due < other.ticket.due and mine == theirs


class _Queue:
    """Start-time fair queueing (Goyal, Vin and Cheng 1996): tenants share equally, a tenant's groups share its part."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._clock = 0
        self._served: dict[str, dict[Hashable, int]] = {}  # tenant -> group -> virtual time it was served up to

    def add(self, call: _Call) -> None:
        groups = self._served.setdefault(call.ticket.tenant, {})
        call.start = max(self._clock, groups.get(call.group, 0))
        active = {call.group} | {group for group, served in groups.items() if served > self._clock}
        groups[call.group] = call.start + call.work * len(active)
        insort(self._calls, call, key=lambda other: other.start)
        place = self._calls.index(call)
        for turn in reversed(range(place)):
            if call.precedes(other := self._calls[turn]):
                self._calls[turn], self._calls[place], place = call, other, turn
                call.start, other.start = other.start, call.start

    def discard(self, call: _Call) -> None:
        if call in self._calls:
            self._calls.remove(call)

    def take(self, max_rows: int) -> list[_Call]:
        """The next call and those that go with it; empty when nobody waits."""
        batch, rows = self._calls[:1], sum(call.rows for call in self._calls[:1])
        for call in self._calls[1:]:
            if call.kind is not None and call.kind == batch[0].kind and rows + call.rows <= max_rows:
                batch.append(call)
                rows += call.rows
        for call in batch:
            self._calls.remove(call)
        if self._calls:
            self._clock = batch[0].start
        else:
            self._clock, self._served = 0, {}
        return batch


class Gate:
    """An engine around an engine."""

    def __init__(
        self,
        engine: Engine,
        *,
        in_flight: int,
        max_rows: int = 0,  # 0: no merging
        text_cache: int = 0,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.name = engine.name
        self.models: Mapping[str, ModelDescription] = engine.models
        self._engine = engine
        self._max_rows = max_rows
        self._texts = ConditioningCache(text_cache)
        self._observers = observers
        self.places = in_flight
        self._lock = threading.Lock()
        self._free = in_flight
        self._queue = _Queue()

    @property
    def precision(self) -> str:
        return self._engine.precision

    def tokenize(self, model: str, prompt: str, *, field: str = "prompt") -> list[NDArray[np.int64]]:
        return self._engine.tokenize(model, prompt, field=field)

    def encode_text(self, model: str, tokens: Sequence[NDArray[np.int64]], ticket: Ticket) -> Conditioning:
        key = (model, *(ids.tobytes() for ids in tokens))
        known = self._texts.get(key)
        for observer in self._observers:
            observer.text_cache(known is not None)
        if known is None:
            call = _Call(model, "text_encoder", ticket, lambda _: [self._engine.encode_text(model, tokens, ticket)])
            known = cast(Conditioning, self._pass(call))
            self._texts.put(key, known)
        return known

    def predict(
        self, model: str, network: str, x: Array, timestep: Array, conditioning: Sequence[Conditioning], ticket: Ticket
    ) -> Array:
        kind, size = (model, network, x.shape[1:]), (x.shape[-2], x.shape[-1])
        arguments = x, timestep, conditioning
        call = _Call(model, network, ticket, self._predict, arguments, len(x), size, x.size, kind)
        return cast(Array, self._pass(call))

    def decode(self, model: str, latent: Array, ticket: Ticket) -> Array:
        def run(_: Sequence[_Call]) -> list[Array]:
            return [self._engine.decode(model, latent, ticket)]

        call = _Call(model, "vae_decoder", ticket, run, size=(latent.shape[-2], latent.shape[-1]), work=latent.size)
        return cast(Array, self._pass(call))

    def upsample(
        self, model: str, x: Array, sigma: Array, surroundings: Sequence[Surroundings], ticket: Ticket
    ) -> tuple[Array, Array]:
        kind, size = (model, "upsampler", x.shape[1:]), (x.shape[-2], x.shape[-1])
        call = _Call(model, "upsampler", ticket, self._upsample, (x, sigma, surroundings), len(x), size, x.size, kind)
        return cast(tuple[Array, Array], self._pass(call))

    def health(self) -> None:
        self._engine.health()

    def close(self) -> None:
        self._engine.close()

    def _predict(self, calls: Sequence[_Call]) -> list[Array]:
        first = calls[0]
        output = self._engine.predict(first.model, first.network, *_together(calls), first.ticket)
        return _apart(calls, output)

    def _upsample(self, calls: Sequence[_Call]) -> list[tuple[Array, Array]]:
        first = calls[0]
        outputs = self._engine.upsample(first.model, *_together(calls), first.ticket)
        return list(zip(*(_apart(calls, output) for output in outputs), strict=True))

    def _pass(self, call: _Call) -> Any:
        with call.ticket.trace.span(call.network, rows=call.rows, model=call.model):
            return self._passed(call)

    def _passed(self, call: _Call) -> Any:
        with self._lock:
            self._queue.add(call)
            self._advance()
        self._await_turn(call)
        if call.batch:
            try:
                self._execute(call.batch)
            finally:
                call.batch = []  # no cycle: what the call was given goes with it
                with self._lock:
                    self._free += 1
                    self._advance()
        if call.error is not None:
            raise call.error
        return call.result

    def _advance(self) -> None:
        """Give free places to those next in line; the lock is held."""
        while self._free and (batch := self._queue.take(self._max_rows)):
            wanted = [call for call in batch if self._is_wanted(call)]
            if wanted:
                self._free -= 1
                wanted[0].batch = wanted
                wanted[0].turn.set()

    def _is_wanted(self, call: _Call) -> bool:
        try:
            call.ticket.check()
        except DarkroomError as error:
            self._drop(call, error)
        return not call.turn.is_set()

    def _drop(self, call: _Call, error: DarkroomError) -> None:
        call.error = error
        call.turn.set()
        for observer in self._observers:
            observer.dropped("cancelled" if isinstance(error, Cancelled) else "deadline")

    def _await_turn(self, call: _Call) -> None:
        """Sleep until it is this call's turn or its request must not go on."""
        while not call.turn.wait(PATIENCE):
            with self._lock:
                if not call.turn.is_set() and not self._is_wanted(call):
                    self._queue.discard(call)

    def _execute(self, batch: list[_Call]) -> None:
        """Run a batch; if it fails, every call alone, so that nobody answers for a neighbour."""
        started = time.monotonic()
        try:
            for call, result in zip(batch, batch[0].run(batch), strict=True):
                call.result = result
        except BaseException as error:
            if len(batch) > 1:
                for call in batch:
                    self._execute([call])
                return
            batch[0].error = error
        finally:
            for call in batch:
                call.turn.set()
        waited, took = started - min(call.arrived for call in batch), time.monotonic() - started
        first = batch[0]
        rows = sum(call.rows for call in batch)
        called = Called(self.models[first.model], first.network, first.size, rows, len(batch), waited, took)
        for observer in self._observers:
            observer.called(called)


def _together(calls: Sequence[_Call]) -> tuple[Array, Array, Sequence[Any]]:
    """The rows of all calls at once: x, the noise level of every row, what else goes with it."""
    if len(calls) == 1:
        return cast(tuple[Array, Array, Sequence[Any]], calls[0].arguments)
    x, level = (np.concatenate([call.arguments[i] for call in calls]) for i in (0, 1))
    return x, level, [row for call in calls for row in call.arguments[2]]


def _apart(calls: Sequence[_Call], output: Array) -> list[Array]:
    """To every call its rows."""
    if len(calls) == 1:
        return [output]
    return np.split(output, np.cumsum([call.rows for call in calls])[:-1])
