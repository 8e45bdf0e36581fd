"""How a backend of Triton Inference Server loads an engine: the file's name, the device, and what it must be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from repq_deploy.engines.batching import Profile

__all__ = ["CPU_DELAY_US", "GPU_DELAY_US", "TritonBackend"]

#: How long a request may wait for others to share its batch, in microseconds: a small part of what a run takes there.
CPU_DELAY_US, GPU_DELAY_US = 2000, 500


@dataclass(frozen=True, kw_only=True)
class TritonBackend:
    """A backend of Triton.

    Attributes:
        name: what ``config.pbtxt`` calls it.
        file: what the engine is called in a version's folder.
        default_file: whether the backend looks for ``file`` by itself.
        kind: the device of its instances.
        delay_us: how long a request may wait for others to share its batch.
        parameters: what it must be told so that it computes what was proven, and its threads.
        pads: it runs every batch as one of the largest size, whose time each then takes.
        program: a file of ``repq_deploy.triton`` that goes beside the engine as ``model.py``, and runs it.
    """

    name: str
    file: str
    default_file: bool = True
    kind: str = "KIND_CPU"
    delay_us: int = CPU_DELAY_US
    parameters: Mapping[str, str] = field(default_factory=dict)
    pads: bool = False
    program: str | None = None

    def largest_batch(self, profile: Profile) -> int:
        """``max_batch_size``: the engine's largest; where smaller batches are padded to it, the one it is tuned for."""
        return profile.opt if self.pads else profile.max

    def preferred_batches(self, profile: Profile) -> list[int]:
        """The batch sizes that a batch is sent off at without waiting for more."""
        return sorted({profile.opt, self.largest_batch(profile)})
