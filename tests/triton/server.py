"""The real Triton, from the environment that ``tools/triton_environment.py`` makes, on ports of the loopback."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / ".venv-triton" / "bin" / "tritonserver"
_SECONDS = 60


@dataclass(frozen=True)
class Server:
    http: int
    grpc: int
    log: Path

    def url(self, scheme: str, model: str) -> str:
        return f"{scheme}://127.0.0.1:{self.http if scheme == 'http' else self.grpc}/{model}"


@contextmanager
def serving(repository: Path, log: Path) -> Iterator[Server]:
    """The server over ``repository`` once it is ready; stopped after the block."""
    http, grpc = _free_ports(2)
    where = [f"--{one}-address=127.0.0.1" for one in ("http", "grpc")]
    where += [f"--http-port={http}", f"--grpc-port={grpc}", "--allow-metrics=false"]
    with log.open("wb") as stream:
        process = subprocess.Popen([SCRIPT, f"--model-repository={repository}", *where], stdout=stream, stderr=stream)
        try:
            _wait(process, f"http://127.0.0.1:{http}/v2/health/ready", log)
            yield Server(http, grpc, log)
        finally:
            process.terminate()
            process.wait(_SECONDS)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - the loopback's
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"tritonserver is not ready:\n{log.read_text(errors='replace')[-4000:]}")


def _free_ports(count: int) -> list[int]:
    """Ports that are free now: the server takes no 0."""
    with ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
