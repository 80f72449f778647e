"""Instruments follow Prometheus' conventions and count what really happened."""

import asyncio
import re

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.engines.contract import Ticket
from service.engines.dispatch import Gate
from service.engines.gaussian import GaussianEngine
from service.errors import Cancelled
from service.metrics import Metrics
from tests.orders import order, running


def test_names_are_prefixed_in_base_units_and_explained() -> None:
    text = generate_latest(Metrics().registry).decode()
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith("darkroom_")]
    assert len(families) > 15
    for family in families:
        assert re.fullmatch(r"darkroom_[a-z_]+", family.name)
        assert not re.search(r"_(ms|milliseconds|minutes|mb|total_total)$", family.name)
        assert family.documentation
        if "duration" in family.name or "time_to" in family.name or "wait_" in family.name:
            assert family.name.endswith("_seconds")
    assert {"process_resident_memory_bytes", "python_info"} <= {
        family.name for family in text_string_to_metric_families(text)
    }


def test_two_services_in_one_process_do_not_share_numbers() -> None:
    mine = CollectorRegistry()
    first, second = Metrics(mine), Metrics()
    first.refusals.labels("queue_full").inc()
    assert mine.get_sample_value("darkroom_refusals_total", {"reason": "queue_full"}) == 1
    assert second.registry.get_sample_value("darkroom_refusals_total", {"reason": "queue_full"}) == 0


def test_parts_steps_calls_rows_and_cache_count_what_happened() -> None:
    metrics = Metrics()
    engine = Gate(GaussianEngine(), in_flight=2, text_cache=8, observers=[metrics])

    def value(name: str, **labels: str) -> float:
        return metrics.registry.get_sample_value(f"darkroom_{name}", labels) or 0.0

    with running(engine, metrics=metrics) as runner:
        for _ in range(2):
            asyncio.run(runner.make(order(steps=5, guidance_scale=3.0, guidance_interval=None)))
    unet = {"model": "gaussian", "network": "unet"}
    assert value("denoise_step_duration_seconds_count") == value("call_rows_count", **unet) == 10
    assert value("call_rows_sum", **unet) == 20  # two rows each: guidance
    assert value("call_requests_sum", **unet) == 10
    assert value("call_duration_seconds_count", **unet) == value("call_wait_seconds_count", **unet) == 10
    assert value("text_cache_lookups_total", result="miss") == 2
    assert value("text_cache_lookups_total", result="hit") == 2
    assert value("time_to_first_step_seconds_count") == 2
    for part in ("queue", "text_encode", "denoise", "decode", "encode"):
        assert value("part_duration_seconds_count", preset="balanced", part=part) == 2
    assert value("gateway_overhead_seconds_count") == 2
    assert (
        0
        < value("gateway_overhead_seconds_sum")
        < value("part_duration_seconds_sum", preset="balanced", part="denoise") * 2
    )
    assert value("pictures_in_progress") == value("pictures_waiting") == 0


def test_rows_that_an_interval_saves_are_those_that_explain_leaves_out() -> None:
    metrics, wanted = Metrics(), order(steps=6, guidance_scale=3.0, guidance_interval=(0.5, 5.0))
    calls = wanted.recipes[0].calls(GaussianEngine().models["gaussian"])
    with running(metrics=metrics) as runner:
        asyncio.run(runner.make(wanted))
    saved = metrics.registry.get_sample_value("darkroom_rows_saved_total")
    assert saved == 2 * len(calls) - sum(len(call.rows) for call in calls) > 0


def test_calls_dropped_in_the_gate_are_counted() -> None:
    metrics, ticket = Metrics(), Ticket()
    engine = Gate(GaussianEngine(), in_flight=1, text_cache=0, observers=[metrics])
    ticket.cancelled.set()
    with pytest.raises(Cancelled):
        engine.decode("gaussian", np.zeros((4, 8, 8)), ticket)
    assert metrics.registry.get_sample_value("darkroom_call_drops_total", {"reason": "cancelled"}) == 1
