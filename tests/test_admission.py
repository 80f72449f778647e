"""Who is let in: seconds of work, not counts of requests."""

from time import monotonic

import pytest

from service.admission import GUESS, MARGIN, Admission, Share
from service.cost import Costs
from service.engines.contract import Ticket
from service.errors import DeadlineExceeded, Overloaded
from service.metrics import Metrics
from tests.orders import recipe
from tests.test_cost import MODEL, everything, taught

STEP, REST = 0.25, 0.5 + 2.0  # of everything(): a call of one row; the text encoder and the decoder


def admission(costs: Costs | None = None, *, places: int = 2, max_wait: float = 10.0) -> Admission:
    return Admission(costs or taught(Costs(), *everything()), Metrics(), {}, places=places, max_wait=max_wait)


def admit(house: Admission, steps: int, *, pictures: int = 1, deadline: float | None = None) -> list[Share]:
    return house.admit([recipe(steps=steps, guidance_scale=1.0)] * pictures, MODEL, Ticket(deadline=deadline))


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
    house = admission(places=2, max_wait=10.0)
    admit(house, 100)  # whatever its price: it waits for nobody
    assert house.load() / 2 == 13.75
    with pytest.raises(Overloaded) as refused:
        admit(house, 1)
    assert refused.value.retry_after == 3.75
    assert house.load() / 2 == 13.75


def test_a_deadline_is_refused_exactly_when_the_price_says_so() -> None:
    own = 10 * STEP + REST
    for wait, promise, fits in [
        (0, MARGIN * own + 0.5, True),
        (0, MARGIN * own - 0.5, False),
        (1, MARGIN * 1.5 * own + 0.5, True),
        (1, MARGIN * own, False),
    ]:
        house = admission(places=2)
        for _ in range(wait):
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
