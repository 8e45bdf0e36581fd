"""Running the commands of a page as a reader would: in a folder of their own, without a network."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.docs.pages import NEVER_RUN, PROGRAMS, ROOT, Command, programs

__all__ = ["SCRIPTS", "Ended", "Page", "lay_out"]

#: The commands of this package: name to ``module:function``.
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]

#: What pages name by its path from the root of a checkout.
_LINKED = ("benchmarks", "calib_data", "engines", "export", "constraints.txt")

#: What running an example leaves in a checkout.
_LEFT = shutil.ignore_patterns("__pycache__", "out", "build", "node_modules")

#: What programs ask where they have no network of their own.
_PROXIES = ("http_proxy", "https_proxy", "HTTPS_PROXY")

_SECONDS = 300


@dataclass(frozen=True)
class Ended:
    """What a command left: exit code, stdout, which pages show, and stderr; code None: it is never run."""

    code: int | None
    output: str = ""
    errors: str = ""


@dataclass(frozen=True)
class Page:
    """A place to run a page's commands in: the folder they are in, home with nothing in it, commands of ours.

    A page's servers are at ports that are free here, whatever the page says.
    A test of its own may have other programs ``allowed``, set ``variables`` and give them a ``network``.
    """

    folder: Path
    home: Path
    kept: Path
    ports: dict[str, str] = field(default_factory=lambda: {shown: _free_port() for shown in ("8000", "8001")})
    servers: list[subprocess.Popen[str]] = field(default_factory=list)
    allowed: frozenset[str] = frozenset()
    variables: Mapping[str, str] = field(default_factory=dict)
    network: bool = False

    def run(self, command: Command) -> Ended:
        """Run one command. What an export of given files writes is kept for other pages."""
        for name, *_ in programs(command.text):
            if name in NEVER_RUN:
                return Ended(None)
            assert name in PROGRAMS or name in SCRIPTS or name in self.allowed, (
                f"{name}: no program that pages may run; see tests/docs/pages.py"
            )
        words = programs(command.text)
        if len(words) > 1 or words[0][:2] != ["repq-export", "demo"] or any(map(Path.is_dir, self._named(words[0]))):
            return self._run(command.text)
        files = [path.read_bytes() for path in self._named(words[0]) if path.is_file()]
        options = [word for word in words[0] if not (self.folder / word).is_file()]
        kept = self.kept / hashlib.sha256(b"\0".join([" ".join(options).encode(), *files])).hexdigest()
        if not kept.exists():
            before = self._files()
            ended = self._run(command.text)
            new = {path for path, changed in self._files().items() if before.get(path) != changed}
            if ended.code == 0 and not new & set(before) and all(path.is_file() for path in new):
                _keep(new, ended.output, kept)
            return ended
        shutil.copytree(kept / "files", self.folder, dirs_exist_ok=True)
        return Ended(0, (kept / "output").read_text(encoding="utf-8"))

    def _named(self, words: list[str]) -> list[Path]:
        """Where each word of a command lies, if it names a file or folder."""
        return [self.folder / word.rpartition("=")[2] for word in words[2:]]

    def _files(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.folder.iterdir()}

    def stop(self) -> None:
        """End the servers, as Ctrl-C does."""
        for server in self.servers:
            server.send_signal(signal.SIGINT)
        for server in self.servers:
            server.communicate(timeout=_SECONDS)
            assert server.returncode == 0, f"{server.args}: ended with {server.returncode}"

    def _run(self, text: str) -> Ended:
        if programs(text)[0][0] == "repq-serve" and text.endswith("&"):
            return self._serve(text.removesuffix("&"))
        for shown, port in self.ports.items():
            text = text.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{port}")
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", text],  # noqa: S607 - whichever a reader has
            **self._place(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def _serve(self, text: str) -> Ended:
        """Start a server, and wait for the line that it is ready."""
        rest, grpc = self.ports.values()
        command = ["bash", "-c", f"exec {text} --port {rest} --grpc-port {grpc}"]
        server = subprocess.Popen(command, **self._place(), stdout=subprocess.PIPE)
        assert server.stdout is not None
        said = server.stdout.readline()
        if not said:
            return Ended(server.wait(_SECONDS), "", "it ended before it was ready")
        self.servers.append(server)
        for shown, port in self.ports.items():
            said = said.replace(port, shown)
        return Ended(0, said)

    def _place(self) -> dict[str, Any]:
        """Where a command runs, as options of ``subprocess``."""
        ours = self.home / "bin"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))},
            "PATH": os.pathsep.join([str(ours), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.home),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "120",
            **({} if self.network else dict.fromkeys(_PROXIES, "http://127.0.0.1:9")),
            "no_proxy": "127.0.0.1",
            **self.variables,
        }
        return {
            "cwd": self.folder,
            "env": environment,
            "stdin": subprocess.DEVNULL,
            "text": True,
            "encoding": "utf-8",
        }


def lay_out(page: Path, root: Path, kept: Path) -> Page:
    """Make in ``root`` what a checkout has for the commands of ``page``; an example's are run in a copy of its folder.

    ``kept``: a folder for what several pages export alike.
    """
    checkout, home = root / "checkout", root / "home"
    checkout.mkdir()
    (home / "bin").mkdir(parents=True)
    for name in _LINKED:
        (checkout / name).symlink_to(ROOT / name)
    if (ROOT / "examples").is_dir():
        shutil.copytree(ROOT / "examples", checkout / "examples", ignore=_LEFT)
    for name, target in SCRIPTS.items():
        module, function = target.split(":")
        script = home / "bin" / name
        script.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n", encoding="utf-8")
        script.chmod(0o755)
    inside = page.relative_to(ROOT)
    return Page(checkout / inside.parent if inside.parts[0] == "examples" else checkout, home, kept)


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return str(found.getsockname()[1])


def _keep(files: set[Path], output: str, place: Path) -> None:
    """Copy ``files`` to ``place``, which is there whole or not at all, whichever process is first."""
    half = place.with_name(f"{place.name}.{os.getpid()}")
    (half / "files").mkdir(parents=True)
    for path in files:
        shutil.copy(path, half / "files")
    (half / "output").write_text(output, encoding="utf-8")
    try:
        half.rename(place)
    except OSError:  # another process was quicker
        shutil.rmtree(half)
