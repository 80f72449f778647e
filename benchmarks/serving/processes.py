"""Servers in processes of their own, as they run in earnest."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prometheus_client.parser import text_string_to_metric_families

from service.settings import ROOT

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
COMPILED = Path(tempfile.gettempdir()) / "darkroom-benchmarks"  # networks, kept between runs


@dataclass(frozen=True)
class Server:
    """A process that listens at ``address``."""

    address: str
    process: "subprocess.Popen[str]"

    def stop(self) -> str:
        """End it in order; what it still said."""
        self.process.terminate()
        return self.process.communicate(timeout=60)[0]


@contextmanager
def server(module: str, *arguments: str, **settings: object) -> Iterator[Server]:
    """``python -m module`` until it names its address; settings are the service's own, by environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    given = {"cache_dir": COMPILED, **settings}
    environment = clean | {f"DARKROOM_{name.upper()}": str(value) for name, value in given.items()}
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield Server(_address(process, command, log), process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=60)


def metric(text: str, name: str, **labels: str) -> float:
    """The sum over all series of a metric that have these labels, of a page in Prometheus' text format."""
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def _address(process: "subprocess.Popen[str]", command: list[str], log: IO[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := ADDRESS.search(line):
            return found.group()
    log.seek(0)
    raise RuntimeError(f"{' '.join(command)} ended before it listened:\n{log.read()[-2000:]}")
