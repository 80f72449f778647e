"""The service as an operator runs it, what it holds, and how a process of Triton dies."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from export.triton_server import SHM, free_port
from service.settings import ROOT

PATIENCE = 120.0  # seconds for what a service must do in the end
STUB = "triton_python_backend_stub"


class Service:
    """The service at one port, which it keeps when it is restarted."""

    def __init__(self, folder: Path, **settings: object) -> None:
        port = free_port()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
        folders = {"cache_dir": folder / "cache", "jobs_dir": folder / "jobs"}
        given = {"port": port, "drain_seconds": 2, "max_concurrency": 4, **folders, **settings}
        self._environment = clean | {f"DARKROOM_{name.upper()}": str(value) for name, value in given.items()}
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> "Service":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGTERM)

    def start(self) -> None:
        """Returns when pictures can be asked for."""
        command = [sys.executable, "-m", "service", "serve"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout
        if not self.process.stdout.readline():
            raise RuntimeError("the service does not start")

    def stop(self, sent: signal.Signals) -> None:
        """Returns when it is gone."""
        self.process.send_signal(sent)
        self.process.wait(PATIENCE)
        assert self.process.stdout
        self.process.stdout.close()

    def holds(self) -> dict[str, float]:
        """Megabytes, and counts of what may leak."""
        home = Path(f"/proc/{self.process.pid}")
        pages = int((home / "statm").read_text().split()[1])
        return {
            "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            "descriptors": len(os.listdir(home / "fd")),
            "threads": len(os.listdir(home / "task")),
            "regions of shared memory": len(list(SHM.glob("darkroom.*"))),
        }


def kill_stub(triton: int) -> None:
    """Kill the process of one of the Python models of this server, the last one that it started."""
    children = [int(pid) for task in Path(f"/proc/{triton}/task").iterdir() for pid in _words(task / "children")]
    stubs = [pid for pid in children if any(STUB in word for word in _words(Path(f"/proc/{pid}/cmdline"), "\0"))]
    os.kill(max(stubs), signal.SIGKILL)


def _words(file: Path, separator: str | None = None) -> list[str]:
    return file.read_text(errors="replace").split(separator)
