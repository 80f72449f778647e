"""Metrics, dashboards and alerts: what the operator looks at is there, asked of a real Prometheus that scraped us."""

import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from export.triton_server import TritonServer, free_port
from helm.generate import DASHBOARDS, FOLDER, build
from service.engines.factory import open_engine
from service.settings import Settings
from tests.api.harness import Running, eventually, serving
from tests.helm.engine import CHART

RULES = CHART / "monitoring" / "rules.yaml"
HERE = Path(__file__).parent
SPAN = 8  # seconds of load that the queries look at


@pytest.mark.parametrize("command", [["check", "rules", RULES], ["test", "rules", HERE / "rules.test.yaml"]], ids=str)
def test_promtool_accepts_the_rules_and_every_alert_fires_when_it_should(command: list[Any]) -> None:
    run = subprocess.run(["promtool", *command], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_has_a_runbook_and_a_unit_test() -> None:
    alerts = {
        rule["alert"]
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    tested = yaml.safe_load((HERE / "rules.test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tested for case in test["alert_rule_test"] if case.get("exp_alerts")}
    silent = {case["alertname"] for test in tested for case in test["alert_rule_test"] if not case.get("exp_alerts")}
    sections = set(re.findall(r"^## (\w+)$", (CHART.parent / "docs" / "runbook.md").read_text(), re.MULTILINE))
    assert alerts == fired == silent == sections


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_dashboards_are_those_of_the_code(uid: str) -> None:
    assert (FOLDER / f"{uid}.json").read_text() == build(uid), "run python -m helm.generate"
    assert {file.stem for file in FOLDER.iterdir()} == set(DASHBOARDS)


@contextmanager
def prometheus(folder: Path, *targets: str) -> Iterator[str]:
    """A Prometheus that scrapes these addresses every second; its own address."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "darkroom", "static_configs": [{"targets": list(targets)}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("w") as log:
        command = ["prometheus", *options, f"--web.listen-address={address}"]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        eventually(lambda: process.poll() is None and answers(f"http://{address}/-/ready"))
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def load(running: Running, seconds: float) -> None:
    """Pictures, a deadline that is met, missed and refused, a cancellation, for so many seconds."""
    body = {"prompt": "a red sphere", "seed": 1, "preset": "fast"}
    assert running.post({**body, "deadline_ms": 1}).status_code == 504
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        assert running.post({**body, "deadline_ms": 60_000}).status_code == 200
        running.post({**body, "num_inference_steps": 200, "deadline_ms": 20})
        cancelled(running, {**body, "num_inference_steps": 200})


def cancelled(running: Running, body: dict[str, Any]) -> None:
    """A request that is cancelled as soon as it is in progress."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(running.post, body, headers={"x-request-id": "long"})
        eventually(lambda: running.client.delete("/v1/images/generations/long").status_code == 200)
        assert future.result().status_code == 499


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function that asks a Prometheus which scraped the service and its Triton under load."""
    assert shutil.which("prometheus"), "tests/setup installs it"
    with TritonServer(Settings().model_repository) as triton:
        engine = open_engine(Settings(engine="triton", triton_url=triton.url))
        targets = f"127.0.0.1:{triton.metrics_port}"
        with serving(engine) as running, prometheus(tmp_path_factory.mktemp("tsdb"), running.url[7:], targets) as url:
            load(running, SPAN)

            def ask(query: str) -> list[Any]:
                now = time.time()
                span = {"query": query, "start": now - SPAN, "end": now, "step": 1}
                answer = httpx.get(f"{url}/api/v1/query_range", params=span)
                assert answer.status_code == 200, answer.text
                return list(answer.json()["data"]["result"])

            ask.metrics = running.client.get("/metrics").text  # type: ignore[attr-defined]
            yield ask


@pytest.mark.triton
def test_promtool_finds_the_metrics_clean(asked: Any) -> None:
    run = subprocess.run(["promtool", "check", "metrics"], input=asked.metrics, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def queries() -> dict[str, str]:
    """Every query of every panel."""
    found = {}
    for uid in DASHBOARDS:
        for panel in json.loads(build(uid))["panels"]:
            for target in panel.get("targets", []):
                found[f"{uid}: {panel['title']} {target['refId']}"] = target["expr"]
    return found


@pytest.mark.triton
def test_every_panel_shows_data(asked: Any) -> None:
    empty = []
    for name, query in queries().items():
        series = asked(query.replace("$__rate_interval", "5s"))
        if not any(math.isfinite(float(value)) for one in series for _, value in one["values"]):
            empty.append(name)
    assert empty == []


@pytest.mark.triton
def test_every_metric_of_the_rules_exists(asked: Any) -> None:
    named = set(re.findall(r"\b(?:darkroom_|process_|nv_)\w+", RULES.read_text()))
    assert named
    assert [name for name in sorted(named) if not asked(name)] == []
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    assert [name for name in sorted(recorded) if not asked(name)] == []
