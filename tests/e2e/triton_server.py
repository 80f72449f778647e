"""The real Triton from its wheel on loopback: started with a model repository, ready when entered, gone when left.

python -m tests.e2e.triton_server REPOSITORY [--grpc-port 8001]
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "tests" / "e2e" / "setup-triton"
VENV = ROOT / ".venv-triton"
SHM = Path("/dev/shm")
START_LIMIT = 60.0  # seconds


class TritonServer:
    """One server process with all models of a repository loaded."""

    def __init__(self, repository: Path, *, grpc_port: int = 0, shm_megabytes: int = 0) -> None:
        self.repository = repository
        self.grpc_port = grpc_port or free_port()
        self.url = f"127.0.0.1:{self.grpc_port}"
        self.metrics_port = free_port()
        self._shm_megabytes = shm_megabytes  # a /dev/shm of its own; 0: the machine's
        self._prefix = f"darkroom_{os.getpid()}_{self.grpc_port}_"
        self._folder = Path(tempfile.mkdtemp(prefix="triton-"))
        self.log = self._folder / "log"

    def __enter__(self) -> "TritonServer":
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self._command(), env=self._environment(), stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for leftover in SHM.glob(f"{self._prefix}*"):
            leftover.unlink()
        shutil.rmtree(self._folder)

    def stop(self) -> int:
        """Let running requests finish, then end; the exit status."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()

    def stubs(self) -> dict[str, int]:
        """The process of every Python model: {entry: pid}."""
        found = {}
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    words = (process / "cmdline").read_bytes().decode().split("\0")
                except OSError:  # it has ended meanwhile
                    continue
                if words[0].endswith("triton_python_backend_stub") and any(self._prefix in word for word in words):
                    found[Path(words[1]).parents[1].name] = int(process.name)
        return found

    def _command(self) -> list[str | Path]:
        site = VENV / "lib" / python_folder() / "site-packages"
        triton = site / "pytriton" / "tritonserver"
        stub = triton / "python_backend_stubs" / python_folder().removeprefix("python") / "triton_python_backend_stub"
        backend = self._folder / "backends" / "python"
        backend.mkdir(parents=True)
        for file in (*(triton / "backends" / "python").iterdir(), stub):
            (backend / file.name).symlink_to(file)
        addresses = [f"--{protocol}-address=127.0.0.1" for protocol in ("grpc", "metrics")]
        models = sorted(config.parent.name for config in self.repository.glob("*/config.pbtxt"))
        small = f'mount -t tmpfs -o size={self._shm_megabytes}m tmpfs {SHM} && exec "$0" "$@"'
        return [
            *(["unshare", "--map-root-user", "--mount", "sh", "-c", small] if self._shm_megabytes else []),
            triton / "bin" / "tritonserver",
            f"--model-repository={self.repository}",
            f"--backend-directory={backend.parent}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in models),
            *addresses,
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
            "--allow-http=false",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=5",
        ]

    def _environment(self) -> dict[str, str]:
        """The stub takes its Python from PATH; the server its libraries from the wheel."""
        site = VENV / "lib" / python_folder() / "site-packages"
        libraries = subprocess.check_output(
            [VENV / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"], text=True
        )
        return {
            **os.environ,
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{libraries.strip()}",
        }

    def _wait_until_ready(self) -> None:
        limit = time.monotonic() + START_LIMIT
        with grpc.insecure_channel(self.url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while time.monotonic() < limit:
                if self.process.poll() is not None:
                    raise RuntimeError(f"Triton ended at its start:\n{self.log.read_text()}")
                try:
                    if stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=1, wait_for_ready=True).ready:
                        return
                except grpc.RpcError:
                    pass
                time.sleep(0.05)
        raise RuntimeError(f"Triton is not ready after {START_LIMIT} s:\n{self.log.read_text()}")


def python_folder() -> str:
    return next((VENV / "lib").glob("python3.*")).name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    arguments = argparse.ArgumentParser(description="Run Triton from its wheel until it is told to stop.")
    arguments.add_argument("repository", type=Path)
    arguments.add_argument("--grpc-port", type=int, default=8001)
    given = arguments.parse_args()
    subprocess.run([SETUP], check=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TritonServer(given.repository, grpc_port=given.grpc_port) as server:
        print(f"Triton serves {given.repository} on {server.url}", flush=True)
        try:
            server.process.wait()
        except KeyboardInterrupt:
            print("stopping", flush=True)


if __name__ == "__main__":
    main()
