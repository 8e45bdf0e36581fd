"""Running the build worker, and turning whatever becomes of it into an engine file or one clear line."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repq_deploy.engines.batching import Profile
from repq_deploy.errors import BuildFailed
from repq_deploy.system.children import child_process
from repq_deploy.system.leftovers import temporary_folder, writing_temporarily

__all__ = ["build_in_child"]

logger = logging.getLogger(__name__)

#: From here on, what Windows gives as an exit status is the number of a crash, which is looked up in hexadecimal.
_NTSTATUS_ERRORS = 0xC0000000

COMMAND = (sys.executable, "-P", "-m", "repq_deploy.engines.backends.trt.worker")


def build_in_child(
    model: bytes,
    output: Path,
    *,
    backend: str,
    module: str,
    profile: Profile,
    targets: Sequence[str],
    progress: Callable[[float, str], None],
) -> None:
    """Build ``model`` with the TensorRT ``module`` into ``output``.

    Raises:
        BuildFailed: the builder refused the graph, failed, or crashed; what is in ``output`` is then worthless.
        OSError: ``output`` cannot be written.
    """
    with temporary_folder() as folder:
        model_path = folder / "model.onnx"
        with writing_temporarily():
            model_path.write_bytes(model)
        request = {
            "module": module,
            "model": str(model_path),
            "output": str(output.absolute()),
            "profile": dataclasses.asdict(profile),
            "targets": list(targets),
        }
        _run(request, folder, backend=backend, progress=progress)


def _run(request: Mapping[str, object], folder: Path, *, backend: str, progress: Callable[[float, str], None]) -> None:
    request_path = folder / "request.json"
    with writing_temporarily():
        request_path.write_text(json.dumps(request), encoding="utf-8")
    error, errno, phase = "", None, "starting"
    with (folder / "stderr").open("w+", encoding="utf-8", errors="replace") as stderr:
        with child_process([*COMMAND, str(request_path)], stderr=stderr) as child:
            for line in child.stdout or ():
                if not line.endswith("\n"):
                    break  # killed while it wrote
                message = json.loads(line)
                error = message.get("error", error)
                errno = message.get("errno")
                if "phase" in message:
                    phase = message["phase"]
                    progress(message["fraction"], phase)
            status = child.wait()
        stderr.seek(0)
        said = stderr.read().strip()
    if said:
        logger.debug("stderr of the builder:\n%s", said)
    if status == 0:
        return
    if errno is not None:
        raise OSError(errno, os.strerror(errno))
    if error:
        raise BuildFailed(f"backend {backend}: {error}")
    last = f": {said.splitlines()[-1]}" if said else ""
    raise BuildFailed(
        f"backend {backend}: the builder {_ending(status)} in the phase {phase!r}{last}; "
        "try another --backend, --precision or --target, and -v to see all it said"
    )


def _ending(status: int) -> str:
    """How a process with this exit status ended."""
    if status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    if status >= _NTSTATUS_ERRORS:
        return f"crashed ({status:#x})"
    return f"ended with exit status {status}"
