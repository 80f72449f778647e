"""Block by block is the whole picture: in any order, by any number of rows, interrupted or not, in bounded memory."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from service.diffusion.samplers import SAMPLERS
from service.diffusion.types import Denoised
from service.engines.contract import Array, Engine, Surroundings, Ticket
from service.engines.dispatch import Gate
from service.engines.embedded import EmbeddedEngine
from service.errors import Cancelled, InvalidRequest
from service.upscale import Upscale, enlargement, upscale
from service.upscaling import blocks, lanczos, sampling
from service.upscaling.blocks import Grid, Pixels, Place
from service.upscaling.colours import corrected
from tests.engines.tiny import NAME
from tests.upscaling import oracle
from tests.upscaling.conftest import HOW
from training.upsampler import Upsampler

BLOCK, SIDE = 16, 4
TICKET = Ticket()
SIZES = [(9, 13), (4, 4), (3, 21), (18, 5), (1, 1)]
OpenEngine = Callable[[str], EmbeddedEngine]


def picture(height: int, width: int) -> Pixels:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def block_major(engine: Engine, lowres: Pixels, how: Upscale = HOW) -> tuple[dict[Place, Array], Pixels]:
    """Every block and the file's pixels."""
    steps = list(enlargement(engine, how, lowres, TICKET))
    assert [step.done for step in steps] == list(np.cumsum([len(step.blocks) for step in steps]))
    assert {step.total for step in steps} == {steps[-1].done}
    sampled = {place: block for step in steps for place, block in step.blocks.items()}
    return sampled, np.concatenate([step.rows for step in steps])


def step_major(engine: Engine, lowres: Pixels, how: Upscale = HOW) -> dict[Place, Array]:
    """All blocks at every evaluation of one sampler, one row a call, in raster order."""
    full = blocks.padded(lowres, SIDE)
    grid = Grid(len(full) // SIDE, full.shape[1] // SIDE)
    places = [(row, column) for row in range(grid.rows) for column in range(grid.columns)]
    enlarged = blocks.scaled(np.concatenate([step.rows for step in lanczos.enlarge(full, 4)]))
    small = blocks.scaled(lanczos.thumbnail(lowres, 8))
    base = np.stack([enlarged[:, r * BLOCK : (r + 1) * BLOCK, c * BLOCK : (c + 1) * BLOCK] for r, c in places])

    def denoise(x: Array, sigma: float) -> Denoised:
        caches: dict[Place | None, Array] = {}
        x0 = np.empty_like(x)
        for index, place in enumerate(places):
            seen = tuple(caches.get(other) for other in grid.neighbours(place))
            around = Surroundings(base[index], blocks.window(full, place, SIDE), small, seen)
            one = slice(index, index + 1)
            x0[one], made = engine.upsample(NAME, x[one], np.full(1, sigma, np.float32), [around], TICKET)
            caches[place] = made[0]
        return Denoised(x0, (x - x0) / sigma)

    noise = np.stack([blocks.noise(how.seed, place, BLOCK) for place in places])
    sigmas = np.array(how.sigmas)
    x = SAMPLERS[how.sampler](denoise, base + float(sigmas[0]) * noise, sigmas, None)
    return dict(zip(places, x, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("size", SIZES)
def test_block_major_is_step_major(
    open_engine: OpenEngine, size: tuple[int, int], sampler: str, precision: str
) -> None:
    engine, lowres, how = open_engine(precision), picture(*size), replace(HOW, sampler=sampler)
    sampled, pixels = block_major(engine, lowres, how)
    expected = step_major(engine, lowres, how)
    assert sampled.keys() == expected.keys()
    for place, block in expected.items():
        np.testing.assert_array_equal(sampled[place], block)
    assert pixels.shape == (4 * size[0], 4 * size[1], 3)


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_the_whole_picture_of_torch(
    open_engine: OpenEngine, network: Upsampler, size: tuple[int, int]
) -> None:
    lowres = picture(*size)
    sampled, pixels = block_major(open_engine("fp32"), lowres)
    whole = oracle.sampled(network, lowres, tuple(HOW.sigmas), HOW.seed)
    for (row, column), block in sampled.items():
        expected = whole[:, row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
        np.testing.assert_allclose(block, expected, atol=1e-5)
    height, width = 4 * size[0], 4 * size[1]
    x, base = (
        whole[:, :height, :width],
        np.concatenate([step.rows for step in lanczos.enlarge(blocks.padded(lowres, 4), 4)]),
    )
    expected, _ = corrected(None, x.transpose(1, 2, 0), base[:height, :width] / 127.5 - 1, last=True)
    np.testing.assert_allclose(pixels, np.clip((expected + 1) * 127.5, 0, 255), atol=0.51)


class Shuffled:
    """An engine that is asked for the rows of a call one by one, the last one first."""

    def __init__(self, engine: Engine) -> None:
        self.models, self._engine = engine.models, engine

    def upsample(
        self, model: str, x: Array, sigma: Array, rows: list[Surroundings], ticket: Ticket
    ) -> tuple[Array, Array]:
        answers = [
            self._engine.upsample(model, x[i : i + 1], sigma[i : i + 1], rows[i : i + 1], ticket)
            for i in reversed(range(len(x)))
        ]
        return tuple(np.concatenate(parts[::-1]) for parts in zip(*answers, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("in_flight", [1, 2, 3, 8])
def test_rows_in_flight_and_their_order_change_no_byte(
    open_engine: OpenEngine, in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowres = picture(23, 14)
    expected = block_major(open_engine("auto"), lowres)[1]
    monkeypatch.setattr("service.upscale.IN_FLIGHT", in_flight)
    np.testing.assert_array_equal(block_major(open_engine("auto"), lowres)[1], expected)
    np.testing.assert_array_equal(block_major(Shuffled(open_engine("auto")), lowres)[1], expected)  # type: ignore[arg-type]


def fake(in_flight: int, height: int, width: int) -> tuple[sampling.Enlargement, dict[str, int]]:
    """An enlargement of 3 evaluations that counts, at every one, what is kept."""
    peak = {"caches": 0, "strips": 0, "carry": 0}

    def network(x: Array, _: float, views: list[sampling.View]) -> tuple[Array, Array]:
        cursor = made.cursor
        kept = [cache for caches in cursor.caches.values() for cache in caches]
        assert all(cache.flags.owndata for cache in kept)
        assert all(len(view.caches) == 3 for view in views)
        begun = 3 * len(x)
        peak["caches"] = max(peak["caches"], len(kept) + begun)
        peak["strips"] = max(peak["strips"], len(cursor.strips))
        peak["carry"] = max(peak["carry"], len(cursor.carry.x) if cursor.carry else 0)
        return x / 2, np.zeros((len(x), 5), np.float16)

    def solve(evaluate: sampling.Evaluate, base: Array, noise: Array) -> Array:
        return evaluate(evaluate(evaluate(base + noise, 3), 2), 1)

    layout = sampling.Layout(BLOCK, 4, 8)
    made = sampling.Enlargement(picture(height, width), layout, network, solve, seed=1, in_flight=in_flight)
    return made, peak


@pytest.mark.parametrize("in_flight", [1, 2, 5])
@pytest.mark.parametrize("columns", [1, 4, 11])
def test_memory_is_bounded_by_the_width(in_flight: int, columns: int) -> None:
    peaks = []
    for rows in (12, 36):
        made, peak = fake(in_flight, rows * SIDE, columns * SIDE - 1)
        assert sum(len(step.rows) for step in made) == rows * BLOCK
        assert peak["caches"] <= 3 * (columns + 2 * in_flight)
        assert peak["strips"] <= in_flight
        assert peak["carry"] <= 31
        assert not made.cursor.caches
        assert not made.cursor.strips
        peaks.append(peak)
    assert peaks[0] == peaks[1], "three times the height, the same memory"


@pytest.mark.parametrize("stop", [1, 4, 9, 13])
def test_a_cursor_goes_on_elsewhere_to_the_same_bytes(
    open_engine: OpenEngine, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, lowres = open_engine("fp32"), picture(22, 15)
    expected = block_major(engine, lowres)[1]
    first = enlargement(engine, HOW, lowres, TICKET)
    before = [step.rows for step in islice(first, stop)]
    saved = pickle.dumps(first.cursor)
    monkeypatch.setattr("service.upscale.IN_FLIGHT", 2)
    after = [step.rows for step in enlargement(engine, HOW, lowres, TICKET, pickle.loads(saved))]
    np.testing.assert_array_equal(np.concatenate(before + after), expected)


def test_sixteen_times_is_four_times_twice(open_engine: OpenEngine) -> None:
    engine, lowres = open_engine("auto"), picture(5, 3)
    steps = list(upscale(engine, replace(HOW, factor=16), lowres, TICKET))
    once = block_major(engine, lowres)[1]
    np.testing.assert_array_equal(
        np.concatenate([step.rows for step in steps if len(step.rows)]), block_major(engine, once)[1]
    )
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert {step.total for step in steps} == {done[-1]}


def test_a_cancelled_picture_stops_at_the_next_call(open_engine: OpenEngine) -> None:
    ticket = Ticket()
    steps = iter(upscale(Gate(open_engine("fp32"), in_flight=1), HOW, picture(9, 9), ticket))
    next(steps)
    ticket.cancelled.set()
    with pytest.raises(Cancelled):
        next(steps)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sampler": "euler_ancestral"}, "upscale.sampler"),
        ({"factor": 8}, "upscale.factor"),
        ({"factor": 1}, "upscale.factor"),
    ],
)
def test_what_cannot_be_is_refused(open_engine: OpenEngine, change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        list(upscale(open_engine("fp32"), replace(HOW, **change), picture(4, 4), TICKET))  # type: ignore[arg-type]
    assert error.value.field == field
