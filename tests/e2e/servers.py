"""Triton servers and networks in unusual states."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from export.triton_server import LOOPBACK, SHM, TritonServer


class Cramped(TritonServer):
    """A server with a small /dev/shm of its own, so that it shares none with us."""

    def __init__(self, repository: Path, megabytes: int) -> None:
        super().__init__(repository)
        self._mount = f'mount -t tmpfs -o size={megabytes}m tmpfs {SHM} && exec "$0" "$@"'

    def command(self) -> list[str | Path]:
        return ["unshare", "--map-root-user", "--mount", "sh", "-c", self._mount, *super().command()]


def stubs(server: TritonServer) -> dict[str, int]:
    """The process of every Python model: {entry: pid}."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:  # it has ended meanwhile
                continue
            if words[0].endswith("triton_python_backend_stub") and any(server.regions in word for word in words):
                found[Path(words[1]).parents[1].name] = int(process.name)
    return found


class Wire:
    """The network between us and a server, as a port that forwards to the server's."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._passing = threading.Event()
        self._passing.set()
        self._sockets: list[socket.socket] = []
        self._port = 0
        self._listen()
        self.url = f"{LOOPBACK}:{self._port}"

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Nothing passes, nothing is lost."""
        self._passing.clear()
        yield
        self._passing.set()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Connections are reset, new ones refused."""
        self.close()
        yield
        self._listen()

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets.clear()

    def _listen(self) -> None:
        listener = socket.create_server((LOOPBACK, self._port))
        self._port = listener.getsockname()[1]
        self._sockets.append(listener)
        threading.Thread(target=self._accept, args=(listener,)).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((LOOPBACK, self._target))
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._passing.wait()
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
