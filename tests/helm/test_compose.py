"""The compose file: what it mounts exists, what it sets is known, what Prometheus scrapes is there."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from service.settings import Settings
from tests.helm.engine import CHART

COMPOSE: dict[str, Any] = yaml.safe_load((CHART / "compose.yaml").read_text())


def test_every_file_that_is_mounted_exists() -> None:
    mounts = [mount for service in COMPOSE["services"].values() for mount in service["volumes"]]
    sources = {re.sub(r"\$\{\w+:-(.*?)\}", r"\1", mount).split(":")[0] for mount in mounts}
    named = {source for source in sources if "/" not in source}
    assert named == set(COMPOSE["volumes"])
    assert [source for source in sources - named if not (CHART / source).exists()] == []


def test_the_environment_is_of_the_settings() -> None:
    variables = COMPOSE["services"]["gateway"]["environment"]
    assert {name.removeprefix("DARKROOM_").lower() for name in variables} <= set(Settings.model_fields)


def test_prometheus_takes_its_configuration_and_finds_the_gateway() -> None:
    file = CHART / "monitoring" / "prometheus.yml"
    run = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = yaml.safe_load(file.read_text())["scrape_configs"]
    hosts = {target.split(":")[0] for job in jobs for one in job["static_configs"] for target in one["targets"]}
    assert hosts <= set(COMPOSE["services"])


def test_a_container_gets_longer_to_stop_than_the_drain_takes() -> None:
    grace = COMPOSE["services"]["gateway"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > Settings.model_fields["drain_seconds"].default


def test_the_dockerfile_is_clean_and_has_what_compose_builds() -> None:
    dockerfile = CHART.parent / "Dockerfile"
    run = subprocess.run([Path(sys.executable).parent / "hadolint", dockerfile], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    stages = set(re.findall(r"^FROM .* AS (\S+)$", dockerfile.read_text(), re.MULTILINE))
    assert COMPOSE["services"]["gateway"]["build"]["target"] in stages
    assert {"gateway", "cpu", "triton"} <= stages
