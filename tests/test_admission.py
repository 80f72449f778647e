"""Who is let in: seconds of work, not counts of requests."""

from copy import deepcopy
from dataclasses import dataclass, field
from math import inf
from time import monotonic

import numpy as np
import pytest

from service.admission import GUESS, MARGIN, STALE, Admission, Place, Share
from service.cost import Costs
from service.engines.contract import Ticket
from service.errors import DeadlineExceeded, Overloaded
from service.metrics import Metrics
from tests.orders import recipe
from tests.test_cost import MODEL, everything, taught

STEP, REST = 0.25, 0.5 + 2.0  # of everything(): a call of one row; the text encoder and the decoder


def admission(
    costs: Costs | None = None, *, places: int = 2, concurrency: int = 8, max_wait: float = 10.0
) -> Admission:
    costs = costs or taught(Costs(), *everything())
    return Admission(costs, Metrics(), {}, places=places, concurrency=concurrency, max_wait=max_wait)


def admit(
    house: Admission, steps: int, *, pictures: int = 1, deadline: float | None = None, ticket: Ticket | None = None
) -> list[Share]:
    wanted = [recipe(steps=steps, guidance_scale=1.0)] * pictures
    return house.admit(wanted, MODEL, ticket or Ticket(deadline=deadline))


def test_the_load_is_what_admitted_pictures_still_need() -> None:
    house = admission()
    first, second = admit(house, 10, pictures=2)
    assert house.load() == 2 * (10 * STEP + REST)
    first.evaluated(4)
    assert house.load() == 6 * STEP + 2.0 + 10 * STEP + REST
    house.release(second)
    house.release(first)
    assert house.load() == 0


def test_nobody_is_let_into_a_wait_that_is_too_long() -> None:
    house = admission(places=1, concurrency=1, max_wait=10.0)
    admit(house, 100)  # whatever its price: it waits for nobody
    assert house.load() == 27.5
    with pytest.raises(Overloaded) as refused:
        admit(house, 1)
    assert refused.value.retry_after == 17.5
    assert house.load() == 27.5


def test_a_long_picture_keeps_no_short_one_out() -> None:
    """They share the engine: each waits for no more than as much of the other's work as it has itself."""
    house, own = admission(places=1, max_wait=10.0), STEP + REST
    admit(house, 200)
    short = int(10 / own)
    for _ in range(short):
        admit(house, 1)
    with pytest.raises(Overloaded):
        admit(house, 1)
    assert short == 3


def test_a_deadline_is_refused_exactly_when_the_price_says_so() -> None:
    own = 10 * STEP + REST
    for there, promise, fits in [
        (0, MARGIN * own + 0.5, True),
        (0, MARGIN * own - 0.5, False),
        (2, MARGIN * 1.5 * own + 0.5, True),
        (2, MARGIN * 1.5 * own - 0.5, False),
    ]:
        house = admission(places=2, max_wait=100)
        for _ in range(there):
            admit(house, 10)
        if fits:
            assert admit(house, 10, deadline=monotonic() + promise)
        else:
            with pytest.raises(DeadlineExceeded):
                admit(house, 10, deadline=monotonic() + promise)


def test_pictures_side_by_side_need_the_places_that_there_are() -> None:
    own = 10 * STEP + REST
    assert admit(admission(places=2), 10, pictures=2, deadline=monotonic() + MARGIN * own + 0.5)
    with pytest.raises(DeadlineExceeded):
        admit(admission(places=2), 10, pictures=4, deadline=monotonic() + MARGIN * own + 0.5)


def test_what_is_unknown_is_guessed_for_the_queue_but_holds_against_nobody() -> None:
    house = admission(Costs())
    assert admit(house, 100, deadline=monotonic() + 0.1)
    assert house.load() == GUESS


@dataclass(eq=False)
class Picture:
    """One in the machine below."""

    turn: tuple[float, int]
    left: float
    deadline: float | None
    start: float = inf
    end: float = inf


@dataclass
class Machine:
    """What the service says it is: those in progress share the places, those that wait follow as they are due."""

    places: int
    concurrency: int
    now: float = 0.0
    pictures: list[Picture] = field(default_factory=list)

    def run(self, until: float = inf) -> None:
        while self.now < until:
            there = [one for one in self.pictures if one.end == inf]
            running = [one for one in there if one.start < inf]
            waiting = sorted((one for one in there if one.start == inf), key=lambda one: one.turn)
            for one in waiting[: self.concurrency - len(running)]:
                one.start = self.now
                running.append(one)
            pace = min(1.0, self.places / max(1, len(running)))
            step = min([one.left / pace for one in running], default=inf)
            if self.now + step >= until:
                step = until - self.now
            self.now += step
            for one in running:
                one.left -= pace * step
                one.end = self.now if one.left < 1e-9 else inf

    def late(self) -> set[tuple[float, int]]:
        """Who is, in the end."""
        self.run()
        return {one.turn for one in self.pictures if one.deadline is not None and one.end > one.deadline}


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 8), (3, 2)])
@pytest.mark.parametrize("deadlines", [1.0, 0.7, 0.0])
def test_exactly_those_are_refused_who_would_be_late_or_make_others_late(
    size: tuple[int, int], deadlines: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random arrivals at a machine whose prices are exact, so that no margin is needed."""
    rng, machine, refused = np.random.default_rng([*size, int(10 * deadlines)]), Machine(*size), 0
    house, shares = admission(places=size[0], concurrency=size[1], max_wait=1e9), dict[Picture, Share]()
    monkeypatch.setattr("service.admission.MARGIN", 1.0)
    monkeypatch.setattr("service.admission.monotonic", lambda: machine.now)
    for number in range(120):
        machine.run(machine.now + rng.exponential(4.0 / size[0]))
        for one, share in shares.items():
            share.left, share.started = one.left, one.start < inf
            if one.end < inf:
                house.release(share)
        steps = int(rng.integers(1, 20))
        own = steps * STEP + REST
        deadline = machine.now + own * rng.uniform(0.9, 6) if rng.random() < deadlines else None
        ticket = Ticket(deadline=deadline, patience=40.0, arrived=machine.now)
        new = Picture((ticket.due, number), own, deadline)
        alone, tried = deepcopy(machine), deepcopy(machine)
        tried.pictures.append(expected := deepcopy(new))
        made_late = tried.late() - alone.late()
        if deadline is not None and made_late:
            refused += 1
            reason = "promised to others" if made_late - {new.turn} else "more than the deadline leaves"
            with pytest.raises(DeadlineExceeded, match=reason):
                admit(house, steps, ticket=ticket)
            continue
        (share,) = admit(house, steps, ticket=ticket)
        machine.pictures.append(new)
        shares[new] = share
        assert house.place(share).seconds == pytest.approx(expected.start - machine.now, abs=1e-6)
    assert not machine.late() or deadlines < 1.0
    assert (12 < refused < 108) == (deadlines > 0)


def test_who_has_no_deadline_is_due_when_patience_ends() -> None:
    house, now = admission(places=1, concurrency=1, max_wait=1e9), monotonic()
    tickets = [
        Ticket(deadline=now + 500),
        Ticket(arrived=now, patience=400),
        Ticket(deadline=now + 450),
        Ticket(arrived=now + 20, patience=400),
        Ticket(deadline=now + 300),
    ]
    (running,) = admit(house, 10)
    running.started = True
    shares = [admit(house, 10, ticket=ticket)[0] for ticket in tickets]
    own = 10 * STEP + REST
    assert [house.place(share) for share in shares] == [Place(n, (n + 1) * own) for n in (4, 1, 3, 2, 0)]
    assert house.place(running) == Place(0, 0.0)
    house.release(shares[4])
    assert house.place(shares[4]) == Place(0, 0.0)
    assert house.place(shares[1]) == Place(0, own)


class Starting(Share):
    """A worker takes it as soon as somebody has seen it wait."""

    looked = False

    @property
    def started(self) -> bool:  # type: ignore[override]
        before, self.looked = self.looked, True
        return before

    @started.setter
    def started(self, _: bool) -> None:
        pass


def test_a_picture_that_is_started_meanwhile_is_counted_once() -> None:
    house, wanted = admission(places=1), recipe(steps=10, guidance_scale=1.0)
    calls = wanted.calls(MODEL)
    starting = Starting(house.costs.price(wanted, MODEL, calls), calls, number=-1)
    (share,) = admit(house, 10)
    assert [stay.end for stay in house._forecast([starting, share]).values()] == [2 * (10 * STEP + REST)] * 2


def test_prices_after_a_slow_spell_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is refused at these prices: one request every so often shows whether they still hold."""
    now = monotonic()
    monkeypatch.setattr("service.admission.monotonic", lambda: now)
    house, wanted = admission(), recipe(steps=10)
    for _ in range(2):
        now += STALE
        with pytest.raises(DeadlineExceeded):
            admit(house, 10, deadline=now + 1)
        now += 1
        assert house.needed(wanted, MODEL, Ticket()) is None
        (probe,) = admit(house, 10, deadline=now + 1)
        assert house.needed(wanted, MODEL, Ticket()) is not None
        with pytest.raises(DeadlineExceeded):
            admit(house, 10, deadline=now + 1)
        now += 2 * STALE
        house.release(probe)
