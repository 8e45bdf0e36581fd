"""The names in a canonical file: of its input and output, and of what its metadata record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from repq_deploy.records import decode, parse_json
from repq_deploy.tasks import CLASSIFICATION, TASKS, Task

if TYPE_CHECKING:
    import onnx

INPUT = "images"
OUTPUT = "logits"

#: Every key of ours begins with it.
PREFIX = "repq."
MODEL, SPEC, PREPROCESS, CLASSES, TASK = (
    f"{PREFIX}{key}" for key in ("model", "spec", "preprocess", "classes", "task")
)
BITS, PRESET, METHOD, SOFTMAX = (f"{PREFIX}{key}" for key in ("bits", "preset", "method", "softmax"))
DIGEST, DEFAULT_SESSION = f"{PREFIX}quantizers.sha256", f"{PREFIX}default_session"
#: The rewrites of its method that the model's architecture does not allow, a JSON list of lines.
REFUSED = f"{PREFIX}refused"
#: What export measured of each quantizer (``measures.record``).
SITES = f"{PREFIX}sites"
#: Of a float twin: the bits of the canonical file that it was made from.
FLOAT_OF = f"{PREFIX}float_of"


def task_entry(task: Task) -> dict[str, str]:
    """What a file records of its task; one that records none is a classifier."""
    return {} if task is CLASSIFICATION else {TASK: task.name}


def recorded_task(metadata: Mapping[str, str]) -> Task:
    """The inverse of ``task_entry``.

    Raises:
        ValueError: another task than those we have.
    """
    name = metadata.get(TASK, CLASSIFICATION.name)
    if name not in TASKS:
        raise ValueError(f"{TASK} is {name[:40]!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]


def recorded_refusals(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The rewrites of its method that the model's architecture does not allow, a line each.

    Raises:
        ValueError: the record is damaged.
    """
    found: tuple[str, ...] = decode(tuple[str, ...], parse_json(metadata.get(REFUSED, "[]")), REFUSED)
    return found


def recorded(model: onnx.ModelProto) -> dict[str, str]:
    """What we recorded in ``model``; nothing where another tool wrote it."""
    return {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith(PREFIX)}
