"""The child process that builds one TensorRT engine: ``python -m repq_deploy.engines.backends.trt.worker REQUEST``.

Its argument names a file with the request, one JSON object. It writes JSON lines to stdout: ``{"fraction", "phase"}``
while it works, ``{"error"}`` if it fails, ``{"errno"}`` if it cannot read or write. Exit status 0 means that the engine
is in the file the request names.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from repq_deploy.engines.backends.trt.build import build_serialized
from repq_deploy.engines.batching import Profile
from repq_deploy.errors import BuildFailed
from repq_deploy.system.children import end_with_parent

__all__ = ["main"]


def main() -> int:
    """Build what the request asks for; the exit status."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # What the native libraries print on their own must not mix with the lines the parent reads.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def reply(**message: Any) -> None:
        try:
            replies.write(json.dumps(message) + "\n")
        except OSError:  # BrokenPipeError; Windows has another
            os._exit(1)  # the parent is gone: nobody waits for this engine

    try:
        engine = build_serialized(
            importlib.import_module(request["module"]),
            Path(request["model"]).read_bytes(),
            profile=Profile(**request["profile"]),
            targets=request["targets"],
            progress=lambda fraction, phase: reply(fraction=fraction, phase=phase),
        )
        Path(request["output"]).write_bytes(engine)
    except BuildFailed as error:
        reply(error=str(error))
        return 1
    except OSError as error:
        reply(errno=error.errno)
        return 1
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
