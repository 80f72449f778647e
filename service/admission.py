"""Who may come in: work is priced in seconds of the engine, and nobody is let into a wait that is too long.

Pictures in progress share the engine, those that wait follow in the order in which they are due. A request with a
deadline is refused if it would be late, or would make one late that was let in.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from time import monotonic
from typing import NamedTuple

from service.cost import Costs, Price
from service.diffusion.explain import Evaluation
from service.engines.contract import ModelDescription, Ticket
from service.enlargement import Enlargement
from service.errors import DeadlineExceeded, Overloaded
from service.keys import Budget
from service.metrics import Metrics
from service.recipe import Recipe

MARGIN = 1.25  # estimates are means: admitted to the brim, half of it would be late
GUESS = 5.0  # seconds for a picture of which nothing is known yet
STALE = 30.0  # seconds of an empty house after which its prices refuse nobody: who is refused teaches it nothing
NOBODY = Ticket()


class Stay(NamedTuple):
    """Seconds from now until a picture is started and until it is done."""

    start: float
    end: float


class Place(NamedTuple):
    """Where an order stands: pictures that will be started before its first, seconds until that is started."""

    ahead: int
    seconds: float


class Share:
    """One admitted picture: what is left of its price, and the rows that its guidance interval saves it."""

    def __init__(
        self, price: Price | None, calls: Sequence[Evaluation], ticket: Ticket = NOBODY, number: int = 0
    ) -> None:
        self._price, self.left = price, price.left(0) if price else GUESS
        self.turn = ticket.due, number  # the smallest of those that wait is started next
        self.deadline, self.started = ticket.deadline, False
        self.samples = bool(calls)  # rather than being enlarged
        self.saved_rows = sum(max(len(call.rows) for call in calls) - len(call.rows) for call in calls)

    def evaluated(self, evaluations: int) -> None:
        """So many of its evaluations are done."""
        if self._price:
            self.left = self._price.left(evaluations)

    def enlarged(self, share: float) -> None:
        """So much of its enlargement is done."""
        self.samples = False
        if self._price:
            self.left = self._price.upscale * (1 - share)


class Admission:
    """The work in the house, and the decision about more.

    ``places``: network calls that run at once; ``concurrency``: pictures in progress at once.
    """

    def __init__(
        self,
        costs: Costs,
        metrics: Metrics,
        budgets: Mapping[str, Budget],
        *,
        places: int,
        concurrency: int,
        max_wait: float,
    ) -> None:
        self.costs, self._metrics = costs, metrics
        self._places, self._concurrency = places, concurrency
        self._max_wait, self._budgets, self._numbers = max_wait, budgets, count()
        self._lock = threading.Lock()
        self._shares: set[Share] = set()
        self._emptied = monotonic()
        metrics.queued.set_function(self.load)

    def load(self) -> float:
        """Seconds of the engine that admitted work still needs."""
        with self._lock:
            return sum(share.left for share in self._shares)

    def place(self, share: Share) -> Place:
        """Where this picture stands in the queue."""
        shares = self._admitted()
        if share.started or share not in shares:
            return Place(0, 0.0)
        ahead = sum(not other.started and other.turn < share.turn for other in shares)
        return Place(ahead, self._forecast(shares)[share].start)

    def admit(
        self,
        recipes: Sequence[Recipe | Enlargement],
        model: ModelDescription,
        ticket: Ticket,
        *,
        accepted: bool = False,
    ) -> list[Share]:
        """One share for each of these, which differ in the seed; Overloaded or DeadlineExceeded if not now.

        What was accepted earlier is let in again: it was paid for, and its deadline ends it when it passes.
        """
        price, shares = self._shared(recipes[0], model, ticket, len(recipes))
        if not accepted:
            self._ask(shares, price, ticket)
        with self._lock:
            self._shares.update(shares)
        return shares

    def needed(self, recipe: Recipe, model: ModelDescription, ticket: Ticket, pictures: int = 1) -> float | None:
        """The deadline that so many pictures of this recipe need, in seconds; None while that is not known.

        Infinite where they would make others late.
        """
        price, shares = self._shared(recipe, model, ticket, pictures)
        return None if price is None or self._stale() else self._needed(shares)

    def _ask(self, shares: Sequence[Share], price: Price | None, ticket: Ticket) -> None:
        """Raise unless there is room for these now."""
        wait = self._wait(shares)
        if wait > self._max_wait:
            message = f"about {wait:.0f} s would be waited for others, more than the {self._max_wait:.0f} s allowed"
            raise self.refused("queue_full", Overloaded(message, retry_after=max(1.0, wait - self._max_wait)))
        if price and ticket.deadline is not None and not self._stale():
            self._check(self._needed(shares), ticket.deadline)
        if ticket.tenant in self._budgets:
            self._spend(self._budgets[ticket.tenant], sum(share.left for share in shares))

    def release(self, share: Share) -> None:
        """This picture is done, or given up."""
        with self._lock:
            self._shares.discard(share)
            if not self._shares:
                self._emptied = monotonic()

    def refused(self, reason: str, error: Exception) -> Exception:
        """The error, counted."""
        self._metrics.refusals.labels(reason).inc()
        return error

    def _spend(self, budget: Budget, seconds: float) -> None:
        try:
            budget.spend(seconds)
        except Overloaded as error:
            raise self.refused("budget", error) from None

    def _shared(
        self, recipe: Recipe | Enlargement, model: ModelDescription, ticket: Ticket, pictures: int
    ) -> tuple[Price | None, list[Share]]:
        """What each of so many pictures costs; their shares, admitted or not."""
        calls = recipe.calls(model)
        price = self.costs.price(recipe, model, calls)
        return price, [Share(price, calls, ticket, next(self._numbers)) for _ in range(pictures)]

    def _wait(self, shares: Sequence[Share]) -> float:
        """Seconds by which those already there delay these: a long picture in progress beside them, by little."""
        alone, together = (self._forecast(those) for those in (shares, [*self._admitted(), *shares]))
        return max(together[share].end for share in shares) - max(stay.end for stay in alone.values())

    def _needed(self, shares: Sequence[Share]) -> float:
        """Seconds until these are done; infinite if they would make others late."""
        there, now = self._admitted(), monotonic()
        alone, together = (self._forecast(those) for those in (there, [*there, *shares]))
        late, made_late = (
            {s for s in there if s.deadline is not None and MARGIN * stays[s].end > s.deadline - now}
            for stays in (alone, together)
        )
        return inf if made_late - late else MARGIN * max(together[share].end for share in shares)

    def _forecast(self, shares: Iterable[Share]) -> dict[Share, Stay]:
        """What becomes of these if nothing else comes."""
        started = {share: share.started for share in shares}  # looked at once: worker threads change it
        waiting = deque(sorted((share for share in started if not started[share]), key=lambda share: share.turn))
        stays = {share: Stay(0.0, 0.0) for share in started if started[share]}
        running = [(share.left, share.turn, share) for share in stays]
        heapify(running)
        now = served = 0.0  # seconds from now; seconds of the engine that each in progress has had
        while running or waiting:
            while waiting and len(running) < self._concurrency:
                share = waiting.popleft()
                stays[share] = Stay(now, now)
                heappush(running, (served + share.left, share.turn, share))
            sharing = max(1.0, len(running) / self._places)
            end, _, share = heappop(running)
            now, served = now + (end - served) * sharing, end
            stays[share] = stays[share]._replace(end=now)
        return stays

    def _stale(self) -> bool:
        """Nothing has run for so long that it is time to see what things cost now."""
        return not self._shares and monotonic() - self._emptied > STALE

    def _admitted(self) -> set[Share]:
        with self._lock:
            return set(self._shares)

    def _check(self, needed: float, deadline: float) -> None:
        if needed > deadline - monotonic():
            self._metrics.deadlines.labels("refused").inc()
            message = f"about {needed * 1000:.0f} ms are needed now, more than the deadline leaves"
            if needed == inf:
                message = "until the deadline the engine is promised to others"
            raise self.refused("deadline", DeadlineExceeded(message, field="deadline_ms"))
