"""Who may come in: work is priced in seconds of the engine, and nobody is let into a wait that is too long."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic

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


class Share:
    """One admitted picture: what is left of its price, and the rows that its guidance interval saves it."""

    def __init__(self, price: Price | None, calls: Sequence[Evaluation]) -> None:
        self._price, self.left = price, price.left(0) if price else GUESS
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
    """The work in the house, and the decision about more. ``places``: network calls that run at once."""

    def __init__(
        self, costs: Costs, metrics: Metrics, budgets: Mapping[str, Budget], *, places: int, max_wait: float
    ) -> None:
        self.costs, self._metrics = costs, metrics
        self._places, self._max_wait, self._budgets = places, max_wait, budgets
        self._lock = threading.Lock()
        self._shares: set[Share] = set()
        metrics.queued.set_function(self.load)

    def load(self) -> float:
        """Seconds of the engine that admitted work still needs."""
        with self._lock:
            return sum(share.left for share in self._shares)

    def seconds(self, shares: Iterable[Share]) -> float:
        """How long what is left of these keeps the engine busy."""
        return sum(share.left for share in shares) / self._places

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
        calls = recipes[0].calls(model)
        price = self.costs.price(recipes[0], model, calls)
        shares = [Share(price, calls) for _ in recipes]
        if not accepted:
            self._ask(shares, price, ticket)
        with self._lock:
            self._shares.update(shares)
        return shares

    def needed(self, recipe: Recipe, model: ModelDescription, pictures: int = 1) -> float | None:
        """The deadline that so many pictures of this recipe need, in seconds; None while a network has never run."""
        price = self.costs.price(recipe, model, recipe.calls(model))
        return None if price is None else MARGIN * (self.load() / self._places + self._seconds(price, pictures))

    def _ask(self, shares: Sequence[Share], price: Price | None, ticket: Ticket) -> None:
        """Raise unless there is room for these now."""
        wait = self.load() / self._places
        if wait > self._max_wait:
            message = f"about {wait:.0f} s of work are waiting, more than the {self._max_wait:.0f} s allowed"
            raise self.refused("queue_full", Overloaded(message, retry_after=max(1.0, wait - self._max_wait)))
        if ticket.deadline is not None:
            self._check(MARGIN * (wait + self._seconds(price, len(shares))), ticket.deadline)
        if ticket.tenant in self._budgets:
            self._spend(self._budgets[ticket.tenant], sum(share.left for share in shares))

    def release(self, share: Share) -> None:
        """This picture is done, or given up."""
        with self._lock:
            self._shares.discard(share)

    def refused(self, reason: str, error: Exception) -> Exception:
        """The error, counted."""
        self._metrics.refusals.labels(reason).inc()
        return error

    def _spend(self, budget: Budget, seconds: float) -> None:
        try:
            budget.spend(seconds)
        except Overloaded as error:
            raise self.refused("budget", error) from None

    def _seconds(self, price: Price | None, pictures: int) -> float:
        """How long they take by themselves, side by side as far as there are places. What is unknown takes nothing."""
        return price.left(0) * max(1.0, pictures / self._places) if price else 0.0

    def _check(self, needed: float, deadline: float) -> None:
        if needed > deadline - monotonic():
            self._metrics.deadlines.labels("refused").inc()
            message = f"about {needed * 1000:.0f} ms are needed now, more than the deadline leaves"
            raise self.refused("deadline", DeadlineExceeded(message, field="deadline_ms"))
