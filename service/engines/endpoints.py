"""Triton servers over gRPC: which one serves a call, and what happens when one does not.

A network call changes nothing on the server, so it is simply repeated: on another endpoint, or on the same one once it
answers again. A Python model whose process died is unloaded and loaded, which Triton does not do by itself. The caller
hears of it when that has been tried for PATIENCE seconds.
"""

import logging
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from service.engines import messages
from service.engines.contract import Array, ModelDescription, Network, Ticket
from service.engines.shelf import Lasting, Shelf
from service.engines.tensors import Inputs
from service.errors import DarkroomError, EngineFailure, Unavailable

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds for which a call looks for an endpoint that serves it
PAUSE = 0.1  # seconds between two attempts of one call
COMEBACK = 2.0  # seconds after which an endpoint that was away is tried again while others answer
LOOK = 0.1  # seconds between two looks at the ticket while a call runs; each costs a tenth of a millisecond
CALL_LIMIT = 300.0  # seconds after which an endpoint that does not answer counts as away; pings find the dead sooner
CONTROL_LIMIT = 3.0  # the same for questions about the server, which are answered at once
LOAD_LIMIT = 60.0

CHANNEL = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # else a ping that is under way holds the next one back for a minute
)


class Away(Unavailable):
    """This endpoint cannot serve the call now; another attempt may succeed."""


class Endpoint:
    """One Triton server. ``promised``: the precision of every model that a server has shown to serve."""

    def __init__(self, url: str, promised: MutableMapping[str, str]) -> None:
        self.url = url
        self.calls = 0  # in flight
        self.away_since: float | None = None
        self.next_try = 0.0
        self._channel = grpc.insecure_channel(url, CHANNEL)
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._promised = promised
        self._verified: set[str] = set()
        self._lives: dict[str, int] = {}  # entry -> times it was loaded again
        self._revivals: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._shelf = Shelf(self._stub)
        self._channel.subscribe(self._connection_changed)

    def infer(
        self, model: ModelDescription, network: Network, inputs: Inputs, lasting: Lasting, ticket: Ticket
    ) -> list[Array]:
        """The outputs of a network; Away when another attempt may succeed."""
        self.verify(model)
        life = self._lives.get(network.entry, 0)
        try:
            with self._shelf.lend(lasting) as places:
                request = messages.request(network, inputs if places else {**inputs, **lasting.make()}, places)
                future = self._stub.ModelInfer.future(request, timeout=_seconds(ticket), metadata=_metadata(ticket))
                answer = _wait(future, ticket)
        except grpc.RpcError as error:
            if _stub_died(error):
                self._revive(network.entry, life)
            self._await_revivals(ticket)
            raise self._problem(error, network.entry, ticket) from error
        return messages.arrays(network, answer)

    def verify(self, model: ModelDescription) -> None:
        """The server must show that it serves these very networks as promised, whenever it was connected."""
        if model.name in self._verified:
            return
        found = set()
        for network in model.networks.values():
            question = pb.ModelConfigRequest(name=network.entry)
            config = self._ask(self._stub.ModelConfig, question, network.entry).config
            if (digest := messages.digest(config)) != network.digest:
                raise Away(
                    f"{network.entry} on Triton at {self.url} has the digest {digest}, in the description of "
                    f"{model.name} it has {network.digest}: both need the same export"
                )
            found.add(messages.precision(config))
        if "auto" in found:
            raise Away(f"Triton at {self.url} does not say what auto means: let it complete configurations")
        precision = "+".join(sorted(found))
        if self._promised.setdefault(model.name, precision) != precision:
            raise Away(
                f"Triton at {self.url} computes {model.name} in {precision}, but its recipes say "
                f"{self._promised[model.name]} since this service started: give all servers one precision"
            )
        self._verified.add(model.name)

    def lost(self, problem: Away) -> None:
        """Remember that it did not answer; it must show again what it serves."""
        self._verified.clear()
        if self.away_since is None:
            log.warning("%s", problem)
            self.away_since = time.monotonic()

    def found(self) -> None:
        """It has answered."""
        if self.away_since is not None:
            log.warning("Triton at %s answers again", self.url)
            self.away_since = None

    def call_back(self, model: ModelDescription) -> None:
        """Ask a server that was away whether it has come back."""
        with suppress(Unavailable):
            self.verify(model)
            self.found()

    def close(self) -> None:
        self._shelf.close()
        self._channel.close()

    def _connection_changed(self, state: grpc.ChannelConnectivity) -> None:
        """Another server may answer at this address from now on."""
        if state is not grpc.ChannelConnectivity.READY:
            self._verified.clear()

    def _ask(self, method: Callable[..., Any], request: Any, entry: str, limit: float = CONTROL_LIMIT) -> Any:
        try:
            return method(request, timeout=limit, wait_for_ready=True)
        except grpc.RpcError as error:
            raise self._problem(error, entry, Ticket()) from error

    def _problem(self, error: grpc.RpcError, entry: str, ticket: Ticket) -> Exception:
        """gRPC's status as an error of ours; what Triton wrote is for the log."""
        code, details = error.code(), error.details() or ""
        log.debug("Triton at %s, %s: %s %s", self.url, entry, code.name, details)
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            ticket.check()
        if "Unable to find shared memory region" in details:  # it was restarted and has lost what we gave it
            self._shelf.clear()
            return Away(f"Triton at {self.url} was restarted")
        if code == grpc.StatusCode.NOT_FOUND:
            return Away(f"{entry} is not loaded on Triton at {self.url}")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
            return Away(f"Triton at {self.url} does not answer")
        if _stub_died(error):
            return Away(f"{entry} on Triton at {self.url} has ended and is being loaded again")
        if "shared memory pool" in details:
            return Unavailable(f"/dev/shm of Triton at {self.url} is too small for {entry}")
        log.error("Triton at %s, %s: %s %s", self.url, entry, code.name, details)
        return EngineFailure(f"{entry} failed on Triton")

    def _revive(self, entry: str, life: int) -> None:
        """Have a model whose process has died loaded again, once per death however many calls notice it."""
        with self._lock:
            if self._lives.get(entry, 0) == life:
                log.warning("the process of %s on Triton at %s has died: loading it again", entry, self.url)
                self._lives[entry] = life + 1
                self._revivals[entry] = threading.Thread(target=self._reload, args=(entry,), daemon=True)
                self._revivals[entry].start()

    def _reload(self, entry: str) -> None:
        unload, load = self._stub.RepositoryModelUnload, self._stub.RepositoryModelLoad
        with suppress(Unavailable, EngineFailure):  # logged; the next call meets what is left
            self._ask(unload, pb.RepositoryModelUnloadRequest(model_name=entry), entry, LOAD_LIMIT)
            self._ask(load, pb.RepositoryModelLoadRequest(model_name=entry), entry, LOAD_LIMIT)

    def _await_revivals(self, ticket: Ticket) -> None:
        """A model that is being loaded is worth waiting for."""
        for thread in list(self._revivals.values()):
            while thread.is_alive():
                ticket.check()
                thread.join(LOOK)


class Endpoints:
    """All servers that may serve a call."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._promised: dict[str, str] = {}
        self._endpoints = [Endpoint(url, self._promised) for url in urls]
        self._lock = threading.Lock()

    def infer(
        self, model: ModelDescription, network: Network, inputs: Inputs, ticket: Ticket, lasting: Lasting
    ) -> list[Array]:
        """The outputs of a network from whoever can."""
        limit = time.monotonic() + PATIENCE
        while True:
            ticket.check()
            last_attempt = time.monotonic() > limit or self._all_away()
            endpoint = self._choose(model)
            try:
                outputs = endpoint.infer(model, network, inputs, lasting, ticket)
            except Away as problem:
                endpoint.lost(problem)
                if last_attempt:
                    raise
                ticket.cancelled.wait(PAUSE)
            else:
                endpoint.found()
                return outputs
            finally:
                with self._lock:
                    endpoint.calls -= 1

    def greet(self, model: ModelDescription) -> None:
        """Ask every server what it serves; one that is away is asked again when it is needed."""
        for endpoint in self._endpoints:
            endpoint.call_back(model)

    def precision(self, model: str) -> str:
        """What every server computes the model in; "unknown" until one was heard."""
        return self._promised.get(model, "unknown")

    def close(self) -> None:
        for endpoint in self._endpoints:
            endpoint.close()

    def _choose(self, model: ModelDescription) -> Endpoint:
        """The least busy that answers, else the one not tried for longest; who is away is asked beside the calls."""
        now = time.monotonic()
        with self._lock:
            here = [each for each in self._endpoints if each.away_since is None]
            due = [each for each in self._endpoints if each.away_since is not None and each.next_try <= now]
            chosen = min(here or self._endpoints, key=lambda each: each.calls if here else each.next_try)
            chosen.calls += 1
            for each in {chosen, *due}:
                each.next_try = now + COMEBACK
        for each in due if here else ():
            threading.Thread(target=each.call_back, args=(model,), daemon=True).start()
        return chosen

    def _all_away(self) -> bool:
        now = time.monotonic()
        return all(each.away_since and now - each.away_since > PATIENCE for each in self._endpoints)


def _stub_died(error: grpc.RpcError) -> bool:
    return error.code() == grpc.StatusCode.INTERNAL and "Stub process" in (error.details() or "")


def _seconds(ticket: Ticket) -> float:
    """How long a call may take; a little longer than its ticket, so that no server is blamed for a late request."""
    return CALL_LIMIT if ticket.deadline is None else min(CALL_LIMIT, ticket.deadline - time.monotonic() + 2 * LOOK)


def _metadata(ticket: Ticket) -> Sequence[tuple[str, str]]:
    """W3C trace context, which Triton's own traces go on with."""
    return [("traceparent", ticket.trace.traceparent)] if ticket.trace.traceparent else []


def _wait(future: Any, ticket: Ticket) -> pb.ModelInferResponse:
    """The answer; if the request must not go on, the call is cancelled on the server too."""
    while True:
        try:
            return future.result(timeout=LOOK)
        except grpc.FutureTimeoutError:
            try:
                ticket.check()
            except DarkroomError:
                future.cancel()
                raise
