"""What the backends for CPUs have in common: their engine is the lowered ONNX file itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from repq_deploy.engines.backends import Backend
from repq_deploy.engines.batching import Profile
from repq_deploy.errors import BadInput
from repq_deploy.export.lowering import Lowering

__all__ = ["CpuBackend"]


@dataclass(frozen=True, kw_only=True)
class CpuBackend(Backend):
    """Builds ``<name>.<backend>.engine`` for CPUs, whose kernels compute in float32 around the integers."""

    on_cpus: bool = True
    portable: bool = True

    def target(self, targets: Sequence[str], lowering: Lowering) -> None:
        """Always None: it is not for GPUs."""
        if targets:
            raise BadInput(f"--target {','.join(targets)}: backend {self.name} builds for CPUs; use --cpu")

    def build(
        self,
        model: onnx.ModelProto,
        output: Path,
        *,
        profile: Profile,
        targets: Sequence[str],
        progress: Callable[[float, str], None],
    ) -> None:
        """Write ``model``; the session that validates it is what shows whether the runtime accepts it."""
        del profile, targets
        progress(0.0, "writing the lowered graph")
        output.write_bytes(model.SerializeToString(deterministic=True))

    def check_single(self, lowering: Lowering) -> None:
        """Raise BadInput where float16 is asked for."""
        if lowering.half:
            raise BadInput(
                f"backend {self.name}: fp16 was asked for, but its CPU kernels compute in fp32; use --precision fp32"
            )
