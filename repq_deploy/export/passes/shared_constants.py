"""Equal constants stored once."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass

__all__ = ["SharedConstants"]

#: Elements below which a constant is not worth a comparison; scales and shapes stay with their node.
_LEAST = 1024


class SharedConstants(Pass):
    """Nodes that read float constants of equal shape and values read the first of them.

    The blocks of a model with rotations by position each have the same tables, of a few megabytes at a thousand tokens.
    Exact.
    """

    def call(self, graph: gs.Graph) -> int:
        first: dict[tuple[tuple[int, ...], bytes], gs.Constant] = {}
        seen: dict[int, gs.Constant] = {}
        changed = 0
        for node in graph.nodes:
            for index, tensor in enumerate(node.inputs):
                if not isinstance(tensor, gs.Constant) or tensor.dtype != np.float32 or np.prod(tensor.shape) < _LEAST:
                    continue
                if id(tensor) not in seen:
                    digest = hashlib.sha256(np.asarray(tensor.values).tobytes()).digest()
                    seen[id(tensor)] = first.setdefault((tuple(tensor.shape), digest), tensor)
                kept = seen[id(tensor)]
                if kept is not tensor:
                    node.inputs[index] = kept
                    changed += 1
        return changed
