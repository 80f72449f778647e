"""What of the chart follows from code, written by python -m helm.generate: dashboards, and the settings in the schema.

Every query here is run against a live Prometheus that scraped the service in tests/helm/test_monitoring.py.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

from service.settings import Settings

HERE = Path(__file__).parent
FOLDER = HERE / "monitoring" / "dashboards"
SCHEMA = HERE / "values.schema.json"
CHART_SETS = {"host", "port", "engine", "cache_dir", "model_repository", "triton_url", "jobs_dir"}
RULES = ("type", "anyOf", "enum", "minimum", "maximum", "exclusiveMinimum", "description")
SOURCE = "${datasource}"


class Panel(NamedTuple):
    """A graph: what it shows, its unit in Grafana's words, its queries by legend."""

    title: str
    unit: str
    queries: dict[str, str]
    description: str = ""


def grouped(by: tuple[str, ...]) -> tuple[str, str]:
    """PromQL's list of labels, Grafana's legend of them."""
    return ", ".join(by), " ".join(f"{{{{{name}}}}}" for name in by)


def quantile(q: float, metric: str, by: tuple[str, ...] = (), where: str = "") -> str:
    rate = f"rate({metric}_bucket{where}[$__rate_interval])"
    return f"histogram_quantile({q}, sum by ({grouped(('le', *by))[0]}) ({rate}))"


def quantiles(metric: str) -> dict[str, str]:
    """Median, 95th and 99th percentile of a histogram."""
    return {f"p{round(100 * q)}": quantile(q, metric) for q in (0.5, 0.95, 0.99)}


def p95(metric: str, *by: str) -> dict[str, str]:
    return {grouped(by)[1]: quantile(0.95, metric, by)}


def mean(metric: str, *by: str) -> dict[str, str]:
    labels, legend = grouped(by)
    return {
        legend: " / ".join(f"sum by ({labels}) (rate({metric}_{part}[$__rate_interval]))" for part in ("sum", "count"))
    }


def per_second(metric: str, *by: str) -> dict[str, str]:
    labels, legend = grouped(by)
    return {legend or metric: f"sum by ({labels}) (rate({metric}[$__rate_interval]))"}


LATENCY = {
    "Requests": [
        Panel("Requests by outcome", "reqps", per_second("darkroom_requests_total", "outcome")),
        Panel("Requests by preset", "reqps", per_second("darkroom_requests_total", "preset")),
        Panel("Duration", "s", quantiles("darkroom_request_duration_seconds")),
        Panel("Duration by preset, p95", "s", p95("darkroom_request_duration_seconds", "preset")),
    ],
    "Where the time goes": [
        Panel("Mean seconds of a picture by part", "s", mean("darkroom_part_duration_seconds", "part")),
        Panel("Denoising by preset, p95", "s", {
            "{{preset}}": quantile(0.95, "darkroom_part_duration_seconds", ("preset",), '{part="denoise"}')
        }),
        Panel("Time to first step", "s", quantiles("darkroom_time_to_first_step_seconds")),
        Panel("One evaluation of the denoiser", "s", quantiles("darkroom_denoise_step_duration_seconds")),
        Panel("Gateway overhead of a picture", "s", quantiles("darkroom_gateway_overhead_seconds"),
              "Time outside the queue and outside network calls: sampler mathematics, image encoding."),
    ],
}  # fmt: skip
LOAD = {
    "Load": [
        Panel("Work admitted", "s", {"{{pod}}": "darkroom_queued_compute_seconds"},
              "Seconds of network calls that admitted pictures still need: what autoscaling looks at."),
        Panel("Pictures", "short", {
            "in progress": "sum(darkroom_pictures_in_progress)", "waiting": "sum(darkroom_pictures_waiting)",
        }),
        Panel("Jobs", "short", {"{{state}}": "sum by (state) (darkroom_jobs)"}),
        Panel("Jobs on disk", "bytes", {"jobs": "sum(darkroom_jobs_stored_bytes)"}),
        Panel("Wait for a start, p95", "s", {
            "queue": quantile(0.95, "darkroom_part_duration_seconds", where='{part="queue"}')
        }),
    ],
    "What did not become a picture": [
        Panel("Refusals by reason", "reqps", per_second("darkroom_refusals_total", "reason")),
        Panel("Cancellations by stage", "ops", per_second("darkroom_cancellations_total", "stage")),
        Panel("Deadlines", "ops", per_second("darkroom_deadlines_total", "outcome")),
        Panel("Calls dropped in the gate", "ops", per_second("darkroom_call_drops_total", "reason")),
    ],
    "Process": [
        Panel("Memory", "bytes", {"{{pod}}": "process_resident_memory_bytes"}),
        Panel("CPU", "short", {"{{pod}}": "rate(process_cpu_seconds_total[$__rate_interval])"}),
        Panel("Open files", "short", {"{{pod}}": "process_open_fds"}),
    ],
}  # fmt: skip
ENGINE = {
    "Network calls": [
        Panel("Calls", "ops", per_second("darkroom_call_duration_seconds_count", "model", "network")),
        Panel("Duration, p95", "s", p95("darkroom_call_duration_seconds", "model", "network")),
        Panel("Wait in the gate, p95", "s", p95("darkroom_call_wait_seconds", "model", "network")),
        Panel("Rows of a call, mean", "short", mean("darkroom_call_rows", "model", "network")),
        Panel("Pictures that share a call, mean", "short", mean("darkroom_call_requests", "model", "network")),
        Panel("Rows saved by guidance intervals", "ops", per_second("darkroom_rows_saved_total")),
        Panel("Encoded prompts found in the cache", "percentunit", {
            "hits": 'sum(rate(darkroom_text_cache_lookups_total{result="hit"}[$__rate_interval]))'
            " / sum(rate(darkroom_text_cache_lookups_total[$__rate_interval]))"
        }),
    ],
    "Triton": [
        Panel("Executions", "ops", per_second("nv_inference_exec_count", "model")),
        Panel("Rows of an execution, mean", "short", {
            "{{model}}": "sum by (model) (rate(nv_inference_count[$__rate_interval]))"
            " / sum by (model) (rate(nv_inference_exec_count[$__rate_interval]))"
        }),
        Panel("Pending requests", "short", {"{{model}}": "sum by (model) (nv_inference_pending_request_count)"}),
        Panel("Queue of a request, mean", "µs", {
            "{{model}}": "sum by (model) (rate(nv_inference_queue_duration_us[$__rate_interval]))"
            " / sum by (model) (rate(nv_inference_request_success[$__rate_interval]))"
        }),
        Panel("Failures", "ops", per_second("nv_inference_request_failure", "model")),
    ],
}  # fmt: skip
DASHBOARDS = {
    "darkroom-latency": ("Darkroom: latency by preset and stage", LATENCY),
    "darkroom-load": ("Darkroom: load and admission", LOAD),
    "darkroom-engine": ("Darkroom: engine and batches beside Triton", ENGINE),
}


def panel(wanted: Panel) -> Any:
    source = DataSourceRef("prometheus", SOURCE)
    graph = timeseries.Panel().title(wanted.title).unit(wanted.unit).description(wanted.description)
    graph = graph.datasource(source).height(8).span(8).min(0).fill_opacity(8)
    graph = graph.legend(common.VizLegendOptions().show_legend(True))
    for number, (legend, query) in enumerate(wanted.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + number))
        graph = graph.with_target(target)
    return graph


def build(uid: str) -> str:
    """One dashboard as JSON."""
    title, rows = DASHBOARDS[uid]
    board = dashboard.Dashboard(title).uid(uid).tags(["darkroom"]).refresh("30s").time("now-1h", "now")
    board = board.tooltip(DashboardCursorSync.CROSSHAIR)
    board = board.with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Prometheus"))
    for name, panels in rows.items():
        board = board.with_row(dashboard.Row(name))
        for wanted in panels:
            board = board.with_panel(panel(wanted))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def schema() -> str:
    """values.schema.json with the fields of Settings that the chart leaves to the user."""
    document = json.loads(SCHEMA.read_text())
    fields = Settings.model_json_schema()["properties"]
    document["properties"]["gateway"]["properties"]["settings"]["properties"] = {
        name: {rule: field[rule] for rule in RULES if rule in field}
        for name, field in fields.items()
        if name not in CHART_SETS
    }
    return json.dumps(document, indent=2) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    SCHEMA.write_text(schema())
    for uid in DASHBOARDS:
        (FOLDER / f"{uid}.json").write_text(build(uid))


if __name__ == "__main__":
    main()
