"""The names in a canonical file: of its input and output, and of what its metadata record."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

INPUT = "images"
OUTPUT = "logits"

#: Every key of ours begins with it.
PREFIX = "repq."
MODEL, SPEC, PREPROCESS, CLASSES = (f"{PREFIX}{key}" for key in ("model", "spec", "preprocess", "classes"))
BITS, PRESET, METHOD, SOFTMAX = (f"{PREFIX}{key}" for key in ("bits", "preset", "method", "softmax"))
DIGEST, DEFAULT_SESSION = f"{PREFIX}quantizers.sha256", f"{PREFIX}default_session"


def recorded(model: onnx.ModelProto) -> dict[str, str]:
    """What we recorded in ``model``; nothing where another tool wrote it."""
    return {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith(PREFIX)}
