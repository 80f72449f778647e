"""A wish made explicit, and its work counted before it is done: the counts are those of the run."""

from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest

from service.admission import Share
from service.cost import PIXELS, Costs
from service.diffusion.samplers import SAMPLERS
from service.engines.contract import Ticket
from service.engines.dispatch import Called, Gate, Silent
from service.engines.gaussian import GaussianEngine
from service.enlargement import WIDEST, Enlargement, evaluations, final, settled, work
from service.errors import Cancelled, InvalidRequest
from service.fields import parsed
from service.recipe import Overrides, Preset, Recipe, load_presets, resolve
from service.upscale import enlarged
from service.upscaling.options import MAX_STEPS, Solver, Upscaling

MODEL = next(iter(GaussianEngine().models.values()))
WITHOUT = MODEL.model_copy(update={"upsampler": None})
BODY = {"prompt": "x", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 2}


def resolved(model: Any = MODEL, **fields: Any) -> Recipe:
    presets = fields.pop("presets", load_presets())
    return resolve(Overrides.parse(BODY | fields), presets, {model.name: model}, "gaussian", "fp32")


def own(height: int, width: int, **wish: Any) -> Enlargement:
    how = settled(Upscaling(**wish), MODEL, width, height, 2**25)
    facts = {"model": MODEL.name, "model_digest": MODEL.digest, "engine": "gaussian", "precision": "fp32"}
    return Enlargement(**facts, width=width, height=height, seed=3, upscale=how)


def test_the_method_is_the_network_where_there_is_one() -> None:
    how = resolved(upscale={"factor": 4}).upscale
    assert how is not None
    assert (how.method, how.sampler) == ("network", "euler")
    assert MODEL.upsampler is not None
    assert how.sigmas == MODEL.upsampler.sigmas
    plain = resolved(WITHOUT, upscale={"factor": 16}).upscale
    assert plain == Upscaling(factor=16, method="lanczos")


@pytest.mark.parametrize("wish", [{"factor": 4}, {"factor": 16, "method": "lanczos"}, None])
def test_a_resolved_recipe_resolves_to_itself(wish: Any) -> None:
    recipe = resolved(upscale=wish)
    again = resolve(
        Overrides.parse(recipe.model_dump(mode="json")), load_presets(), {MODEL.name: MODEL}, "gaussian", "fp32"
    )
    assert again == recipe
    factor = 1 if wish is None else wish["factor"]
    assert final(recipe) == (64 * factor, 64 * factor)


def test_a_preset_may_enlarge_and_a_request_may_decline() -> None:
    fields = {"sampler": "euler", "schedule": "karras", "num_inference_steps": 2, "upscale": {"factor": 4}}
    preset = Preset(name="large", title="x", description="x", evidence="x", recipe=Overrides.parse(fields))
    presets = {**load_presets(), "large": preset}
    recipe = resolved(presets=presets, preset="large")
    assert recipe.upscale is not None
    assert recipe.upscale.method == "network"
    assert resolved(presets=presets, preset="large", upscale=None).upscale is None


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({}, "upscale.factor"),
        ({"factor": 8}, "upscale.factor"),
        ({"factor": "4"}, "upscale.factor"),
        ({"factor": 4, "strength": 1}, "upscale.strength"),
        ({"factor": 4, "method": "esrgan"}, "upscale.method"),
        ({"factor": 4, "sampler": "euler_ancestral"}, "upscale.sampler"),
        ({"factor": 4, "sigmas": [1.0, 0.5]}, "upscale.sigmas"),
        ({"factor": 4, "sigmas": [0.5, 1.0, 0.0]}, "upscale.sigmas"),
        ({"factor": 4, "sigmas": [0.0]}, "upscale.sigmas"),
        ({"factor": 4, "sigmas": [2.1, 0.0]}, "upscale.sigmas"),
        ({"factor": 4, "sigmas": [1.0, 0.001, 0.0]}, "upscale.sigmas"),
        ({"factor": 4, "sigmas": [*np.linspace(2, 0, MAX_STEPS + 2)]}, "upscale.sigmas"),
        ({"factor": 4, "method": "lanczos", "sampler": "euler"}, "upscale.sampler"),
        ({"factor": 4, "method": "lanczos", "sigmas": [1.0, 0.0]}, "upscale.sigmas"),
        (4, "upscale"),
        ([], "upscale"),
    ],
)
def test_what_cannot_be_is_refused_by_name(wish: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        resolved(upscale=wish)
    assert error.value.field == field


def test_a_model_without_upsampler_says_what_to_take() -> None:
    with pytest.raises(InvalidRequest, match="lanczos") as error:
        resolved(WITHOUT, upscale={"factor": 4, "method": "network"})
    assert error.value.field == "upscale.method"


@pytest.mark.parametrize(("width", "height"), [(WIDEST // 16 + 1, 1), (512, 513), (1, 2**20)])
def test_files_that_are_too_large_are_refused(width: int, height: int) -> None:
    with pytest.raises(InvalidRequest, match="more than") as error:
        settled(Upscaling(factor=16), MODEL, width, height, 2**26)
    assert error.value.field == "upscale.factor"


def test_the_samplers_offered_are_those_that_need_nothing_but_a_denoiser() -> None:
    def alone(name: str) -> bool:
        try:
            return evaluations(name, (2.0, 0.5, 0.1, 0.0)) > 0
        except (InvalidRequest, TypeError):  # draws noise; wants to know the model
            return False

    otherwise = {"ddim", "flash"}  # which is euler; which takes its start for pure noise
    assert set(filter(alone, SAMPLERS)) == set(get_args(Solver)) | otherwise


class Ledger(Silent):
    def __init__(self) -> None:
        self.rows: Counter[int] = Counter()

    def called(self, call: Called) -> None:
        assert call.network == "upsampler"
        self.rows[call.rows] += 1


@pytest.mark.parametrize("sampler", get_args(Solver))
@pytest.mark.parametrize(("size", "factor"), [((9, 30), 4), ((64, 7), 4), ((5, 11), 16)])
def test_the_work_counted_is_the_work_done(sampler: str, size: tuple[int, int], factor: int) -> None:
    recipe, ledger = own(*size, factor=factor, sampler=sampler), Ledger()
    gate = Gate(GaussianEngine(), in_flight=1, observers=[ledger])
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    steps = list(enlarged(gate, recipe, pixels, Ticket()))
    counted = work(recipe, MODEL)
    assert counted.calls == ledger.rows
    assert counted.steps == steps[-1].total == steps[-1].done
    assert sum(each.calls for each in counted.passes) == ledger.rows.total()
    rows = sum(each.blocks * each.evaluations for each in counted.passes)
    assert rows == sum(rows * calls for rows, calls in ledger.rows.items())


def test_lanczos_calls_no_network() -> None:
    recipe = own(33, 5, factor=16, method="lanczos")
    steps = list(enlarged(GaussianEngine(), recipe, np.zeros((33, 5, 3), np.uint8), Ticket()))
    counted = work(recipe, MODEL)
    assert (counted.steps, counted.passes, counted.calls) == (steps[-1].done, (), Counter())


def test_a_cancelled_enlargement_stops_at_the_next_strip() -> None:
    ticket = Ticket()
    steps = enlarged(GaussianEngine(), own(99, 5, factor=4, method="lanczos"), np.zeros((99, 5, 3), np.uint8), ticket)
    next(steps)
    ticket.cancelled.set()
    with pytest.raises(Cancelled):
        next(steps)


def test_a_price_is_the_sum_of_the_calls_and_falls_as_they_are_made() -> None:
    recipe, costs = own(16, 24, factor=4), Costs()
    pixels = 96 * 64 / PIXELS
    assert costs.price(recipe, MODEL, ()) is None
    for rows in (1, 2):
        costs.called(Called(MODEL, "upsampler", (32, 32), rows, 1, 0.0, 0.5 * rows))
    price, counted = costs.price(recipe, MODEL, ()), work(recipe, MODEL)
    assert price is not None
    assert price.left(0) == pytest.approx(pixels + 0.5 * sum(rows * calls for rows, calls in counted.calls.items()))
    share = Share(price, ())
    share.enlarged(0.25)
    assert share.left == pytest.approx(price.left(0) * 0.75)
    plain = costs.price(own(16, 24, factor=4, method="lanczos"), MODEL, ())
    assert plain is not None
    assert plain.left(0) == pytest.approx(pixels)


def test_untrusted_values_name_their_field() -> None:
    with pytest.raises(InvalidRequest) as error:
        parsed(Upscaling, {"factor": 4, "sigmas": ["1", 0]})
    assert error.value.field == "sigmas.0"
