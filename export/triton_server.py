"""NVIDIA Triton from its PyPI wheel, on this machine's CPU: for `make run ENGINE=triton`, the tests and the benchmarks.

    python -m export.triton_server COMMAND...

serves the settings' model repository at DARKROOM_TRITON_URL (metrics one port above) while COMMAND runs, then ends.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import DarkroomError, InvalidRequest, Unavailable
from service.settings import ROOT, Settings

VENV = ROOT / ".venv-triton"  # written by setup-triton
SHM = Path("/dev/shm")
LOOPBACK = "127.0.0.1"
START_LIMIT = 180.0  # seconds
STOP_LIMIT = 20.0
RECONNECT = [(f"grpc.{which}_reconnect_backoff_ms", 100) for which in ("initial", "min", "max")]
TAIL = 20  # lines of the log that explain an end
UNLOADED = "failed to load all models"  # its last line; the reasons stand far above
REASON = re.compile("failed to load '.*' version ")


class TritonServer:
    """One server process with all models of a repository: ready when entered, gone without a trace when left."""

    def __init__(
        self,
        repository: Path,
        *,
        grpc_port: int = 0,
        metrics_port: int = 0,
        environment: Path = VENV,
        patience: float = START_LIMIT,
    ) -> None:
        """``environment``: what holds the wheel and runs the Python models; ``patience``: seconds until it is ready."""
        self.repository = repository
        self.environment = environment
        self.patience = patience
        self.grpc_port = grpc_port or free_port()
        self.metrics_port = metrics_port or free_port()
        self.url = f"{LOOPBACK}:{self.grpc_port}"
        self.regions = f"darkroom_triton_{self.grpc_port}_"  # the port's owner owns them

    def __enter__(self) -> "TritonServer":
        for port in (self.grpc_port, self.metrics_port):
            require_free(port)
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triton-")))
            self.log = self._folder / "log"
            self._sweep()  # after a server that was killed
            stack.callback(self._sweep)
            with self.log.open("w") as log:
                self.process = subprocess.Popen(
                    self.command(), env=self._environment(), stdout=log, stderr=log, start_new_session=True
                )
            stack.callback(self.stop)
            self._wait_until_ready()
            self._leave = stack.pop_all().close
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def stop(self) -> int:
        """Let running requests finish, then end with every stub; the exit status."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_LIMIT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # a server that ends while it starts forgets its stubs
        return self.process.wait()

    def obituary(self) -> str:
        """How it ended, and why by its log."""
        return f"Triton has ended with status {self.process.wait()}{self._last_words()}"

    def _last_words(self) -> str:
        """What kept models from being loaded if it was that, else the end of the log."""
        lines = self.log.read_text().splitlines()
        if lines and lines[-1].endswith(UNLOADED):
            reasons = [line.partition("] ")[2].strip('"') for line in lines if REASON.search(line)]
            return "\n".join([":", *(reason.replace("\\n", "\n") for reason in reasons)])
        return "\n".join(["; its log ends:", *lines[-TAIL:]])

    def _wait_until_ready(self) -> None:
        limit = time.monotonic() + self.patience
        with grpc.insecure_channel(self.url, RECONNECT) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while time.monotonic() < limit:
                if self.process.poll() is not None:
                    raise Unavailable(self.obituary())
                with contextlib.suppress(grpc.RpcError, OSError):
                    if stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=1, wait_for_ready=True).ready:
                        return socket.create_connection((LOOPBACK, self.metrics_port), 1).close()  # the last to listen
                time.sleep(0.05)
        raise Unavailable(f"Triton is not ready after {self.patience:.0f} s{self._last_words()}")

    def _sweep(self) -> None:
        """Remove the shared memory that stubs leave behind when they are killed."""
        for region in SHM.glob(f"{self.regions}*"):
            region.unlink(missing_ok=True)

    def command(self) -> list[str | Path]:
        """The server ends when its parent does, even if that is killed."""
        return [
            *("setpriv", "--pdeathsig", "TERM", self._wheel() / "bin" / "tritonserver"),
            f"--model-repository={self.repository}",
            f"--backend-directory={self._backends()}",
            f"--backend-config=python,shm-region-prefix-name={self.regions}",
            "--model-control-mode=explicit",
            "--load-model=*",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={self.metrics_port}",
            "--allow-http=false",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=5",
        ]

    def _backends(self) -> Path:
        """The Python backend with the stub of the environment's Python beside it, as the server wants them."""
        python = self._folder / "backends" / "python"
        python.mkdir(parents=True)
        version = self._site_packages().parent.name.removeprefix("python")
        stub = self._wheel() / "python_backend_stubs" / version / "triton_python_backend_stub"
        for file in (*(self._wheel() / "backends" / "python").iterdir(), stub):
            (python / file.name).symlink_to(file)
        return python.parent

    def _site_packages(self) -> Path:
        for folder in self.environment.glob("lib/python3.*/site-packages"):
            return folder
        raise Unavailable(f"there is no {self.environment}: run export/setup-triton")

    def _wheel(self) -> Path:
        return self._site_packages() / "pytriton" / "tritonserver"

    def _environment(self) -> dict[str, str]:
        """The stub takes its Python from PATH; the server its libraries from the wheel."""
        libraries = sysconfig.get_config_var("LIBDIR")  # of the Python that the environment was made with, too
        folders = [str(self._site_packages() / "nvidia_pytriton.libs"), libraries]
        return {
            **os.environ,
            "PATH": f"{self.environment / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": "",
            "LD_LIBRARY_PATH": ":".join(filter(None, [*folders, os.environ.get("LD_LIBRARY_PATH")])),
        }


def free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def require_free(port: int) -> None:
    """Raise Unavailable if another server has the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            message = f"{LOOPBACK}:{port}: {error.strerror}; DARKROOM_TRITON_URL chooses another port for Triton"
            raise Unavailable(message) from error


def run_beside(server: TritonServer, command: Sequence[str]) -> int:
    """Run a command while the server lives; its exit status. It gets our signals, and ends before the server."""
    child = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: child.send_signal(number))
    while server.process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = child.wait(0.2)
            return 128 - status if status < 0 else status
    child.terminate()
    child.wait()
    raise Unavailable(server.obituary())


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def main(command: tuple[str, ...]) -> None:
    """Serve the model repository by Triton while COMMAND runs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = Settings()
    try:
        port = local_port(settings.triton_url)
        click.echo(f"starting Triton on port {port}")
        with TritonServer(settings.model_repository, grpc_port=port, metrics_port=port + 1) as server:
            click.echo(f"Triton's metrics: http://{LOOPBACK}:{port + 1}/metrics, its log: {server.log}")
            sys.exit(run_beside(server, command))
    except DarkroomError as error:
        raise click.ClickException(error.message) from error


def local_port(url: str) -> int:
    """The port of an address on this machine; InvalidRequest if it is none."""
    host, _, port = url.rpartition(":")
    if host in (LOOPBACK, "localhost") and port.isdecimal():
        return int(port)
    message = f"DARKROOM_TRITON_URL={url} is not on this machine: `darkroom serve --engine triton` needs no server here"
    raise InvalidRequest(message, field="triton_url")


if __name__ == "__main__":
    main(prog_name="python -m export.triton_server")
