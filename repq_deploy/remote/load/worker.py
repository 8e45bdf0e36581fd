"""The process that loads a server: ``python -m repq_deploy.remote.load.worker REQUEST`` with a JSON request.

It prints one JSON object a line: for each batch size and loop, in order, every request that was sent; or an error. It
is nicer than other processes by ``nice``, as it may share its machine with the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.errors import BadInput, RepqError
from repq_deploy.remote.load.connections import open_connections
from repq_deploy.remote.load.loops import ClosedLoop, Loop, OpenLoop, Sent
from repq_deploy.remote.model import RemoteModel, open_remote
from repq_deploy.system.children import end_with_parent

__all__ = ["images_for", "main"]

_KINDS: dict[str, type[ClosedLoop] | type[OpenLoop]] = {"closed": ClosedLoop, "open": OpenLoop}

#: Images of all the requests that are made, in number: different ones, so that answers to one can be told from
#: answers to another.
_IMAGES = 8


def main(argv: list[str]) -> int:
    """Load as ``argv[0]`` says; exit status 1 after an error line."""
    request = json.loads(argv[0])
    if request["nice"] and hasattr(os, "nice"):
        os.nice(request["nice"])
    try:
        with open_remote(request["url"], timeout=request["timeout"]) as model:
            for batch in request["batches"]:
                images = images_for(model, batch)
                for kind, options in request["loops"]:
                    loop = _KINDS[kind](**options)
                    _say(**asyncio.run(_load(model, images, loop, request)))
    except RepqError as error:
        _say(error=str(error), exit_code=error.exit_code)
        return 1
    return 0


def images_for(model: RemoteModel, batch: int) -> list[NDArray[Any]]:
    """Batches of noise [``batch``, ...] of the type and shape that ``model`` takes: two at least, all unlike.

    Raises:
        BadInput: it takes something else than images, or not so many.
    """
    first = model.inputs[0]
    shape = first.shape[1:]
    if len(shape) != 3 or min(shape) < 1 or first.datatype not in ("FP32", "UINT8") or len(model.inputs) > 1:
        raise BadInput(f"{model.address}: takes {first.datatype} {list(first.shape)}; only images can be sent")
    if model.largest_batch is not None and batch > model.largest_batch:
        raise BadInput(f"{model.address}: takes {model.largest_batch} images at most; use --batch 1")
    rng, count = np.random.default_rng(0), max(2, _IMAGES // batch)
    if first.datatype == "UINT8":
        return [rng.integers(0, 256, (batch, *shape), dtype=np.uint8) for _ in range(count)]
    return [rng.standard_normal((batch, *shape), dtype=np.float32) for _ in range(count)]


async def _load(model: RemoteModel, images: list[NDArray[Any]], loop: Loop, request: dict[str, Any]) -> dict[str, Any]:
    options = {key: request[key] for key in ("warmup", "seconds", "timeout")}
    connections = open_connections(model, images)
    try:
        busy, began = time.process_time(), time.perf_counter()
        sent = await loop.run(connections.send, **options)
        cpu = (time.process_time() - busy) / (time.perf_counter() - began)
    finally:
        await connections.close()
    return {"sent": [_row(one) for one in sent], "different": connections.different, "cpu": cpu}


def _row(one: Sent) -> tuple[float, float, float, str]:
    return round(one.due, 6), round(one.begun, 6), round(one.ended, 6), one.outcome


def _say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1:]))
