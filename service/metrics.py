"""Prometheus instruments: base units, bounded labels, the registry injected. Never a prompt, never a free text."""

from collections.abc import Mapping
from functools import cache, partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.engines.dispatch import Called

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series and nothing reads them

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 180.0)
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Metrics:
    """Every instrument of the service, in one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        seconds = partial(Histogram, registry=self.registry, buckets=SECONDS)
        rows = partial(Histogram, registry=self.registry, buckets=ROWS)
        call = ["model", "network"]
        outcome = "Requests by API family, preset and outcome"
        self.requests = counter("darkroom_requests", outcome, ["api", "preset", "outcome"])
        self.duration = seconds("darkroom_request_duration_seconds", "Whole requests", ["api", "preset", "outcome"])
        part = "Parts of one picture: queue, text_encode, denoise, decode, upscale, encode"
        self.parts = seconds("darkroom_part_duration_seconds", part, ["preset", "part"])
        overhead = "Time of one picture outside the queue and outside network calls"
        self.overhead = seconds("darkroom_gateway_overhead_seconds", overhead)
        self.step = seconds("darkroom_denoise_step_duration_seconds", "One evaluation of the denoiser")
        first = "Admission to the end of the first evaluation"
        self.first_step = seconds("darkroom_time_to_first_step_seconds", first)
        self.rows = rows("darkroom_call_rows", "Rows of one network call", call)
        self.callers = rows("darkroom_call_requests", "Pictures whose rows shared one network call", call)
        self.call = seconds("darkroom_call_duration_seconds", "Network calls", call)
        self.call_wait = seconds("darkroom_call_wait_seconds", "Longest wait of a call's rows in the gate", call)
        of_call = self.rows, self.callers, self.call_wait, self.call
        self._of_call = cache(lambda *labels: [each.labels(*labels) for each in of_call])
        saved = "Unconditional rows that guidance intervals made unnecessary"
        self.saved_rows = counter("darkroom_rows_saved", saved)
        self.drops = counter("darkroom_call_drops", "Calls dropped before dispatch", ["reason"])
        self.in_progress = gauge("darkroom_pictures_in_progress", "Pictures being made")
        self.waiting = gauge("darkroom_pictures_waiting", "Pictures admitted and waiting")
        queued = "Seconds of network calls that admitted pictures still need"
        self.queued = gauge("darkroom_queued_compute_seconds", queued)
        self.refusals = counter("darkroom_refusals", "Requests refused, by reason", ["reason"])
        stage = "Pictures cancelled, by the stage they were in"
        self.cancellations = counter("darkroom_cancellations", stage, ["stage"])
        self.deadlines = counter("darkroom_deadlines", "Requests with a deadline: met, missed, refused", ["outcome"])
        self.text_lookups = counter("darkroom_text_cache_lookups", "Encoded-prompt cache", ["result"])
        self.jobs = gauge("darkroom_jobs", "Long work on disk, by state", ["state"])
        self.jobs_bytes = gauge("darkroom_jobs_stored_bytes", "What jobs take on disk, or may come to need")
        self.jobs_are({})
        for counted, values in self._known().items():
            for value in values:  # a rate can only be taken of what was once 0
                counted.labels(value)
        served = ["model", "digest", "engine", "precision"]
        self.model = gauge("darkroom_model_info", "Models served: always 1", served)

    def _known(self) -> dict[Counter, tuple[str, ...]]:
        """The label values that are known before they occur."""
        return {
            self.drops: ("cancelled", "deadline"),
            self.refusals: ("queue_full", "deadline", "draining", "budget", "storage"),
            self.cancellations: ("queue", "text_encode", "denoise", "decode", "upscale"),
            self.deadlines: ("met", "missed", "refused"),
            self.text_lookups: ("hit", "miss"),
        }

    def jobs_are(self, states: Mapping[str, tuple[int, int]]) -> None:
        """How many jobs are in each state, and their bytes."""
        for state in ("queued", "in_progress", "succeeded", "failed", "cancelled"):
            self.jobs.labels(state).set(states.get(state, (0, 0))[0])
        self.jobs_bytes.set(sum(size for _, size in states.values()))

    def called(self, call: Called) -> None:
        """One network call, as the dispatch gate reports it."""
        seen = call.rows, call.requests, call.waited, call.took
        for histogram, value in zip(self._of_call(call.model.name, call.network), seen, strict=True):
            histogram.observe(value)

    def dropped(self, reason: str) -> None:
        """A network call that was cancelled or too late before it was dispatched."""
        self.drops.labels(reason).inc()

    def text_cache(self, hit: bool) -> None:
        """One look-up of an encoded prompt."""
        self.text_lookups.labels("hit" if hit else "miss").inc()
