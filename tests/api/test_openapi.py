"""The published schema is true: schemathesis sends what it allows and what it forbids, over a real socket."""

import os
import subprocess
import sys
from pathlib import Path

from service.engines.gaussian import GaussianEngine
from tests.api.harness import Running, eventually, serving

HERE = Path(__file__).parent


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with serving(GaussianEngine(null=True), max_prompt_chars=200, jobs_dir=tmp_path / "jobs") as running:
        command = [Path(sys.executable).parent / "st", "--config-file", HERE / "schemathesis.toml", "run"]
        command.append(f"{running.url}/openapi.json")
        options = ["--max-examples", "8", "--seed", "1", "--no-color", "--generation-database", "none"]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
        run = subprocess.run([*command, *options], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-5000:]
        eventually(lambda: running.parts.runner.idle)
        assert running.value("darkroom_requests_total", api="jobs", preset="balanced", outcome="ok") > 0


def test_the_schema_names_what_this_service_has(running: Running) -> None:
    schemas = running.client.get("/openapi.json").json()["components"]["schemas"]
    properties = schemas["ImageRequest"]["properties"]
    assert properties["model"]["enum"] == ["gaussian", None]
    listed = running.client.get("/v1/presets").json()["data"]
    assert properties["preset"]["enum"] == [*(card["id"] for card in listed), None]
    assert schemas["ImageRequest"]["additionalProperties"] is False
    assert schemas["ImageRequest"]["required"] == ["prompt"]
