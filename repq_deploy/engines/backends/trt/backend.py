"""What TensorRT and TensorRT-RTX have in common as backends; ``tensorrt.py`` and ``tensorrt_rtx.py`` name the rest."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from repq_deploy.engines.backends import Backend
from repq_deploy.engines.backends.trt.child import build_in_child
from repq_deploy.engines.backends.trt.gpu import gpu_target
from repq_deploy.engines.backends.trt.runner import TrtSession
from repq_deploy.engines.batching import BatchedRunner, Profile, Runner
from repq_deploy.engines.compute import COMPUTES
from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.export.lowering import Lowering
from repq_deploy.export.names import OUTPUT
from repq_deploy.export.passes.attention_scale import AttentionScale
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.float_activations import FloatActivations
from repq_deploy.export.passes.fp8_products import FP8Products
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.quantize_before_moves import QuantizeBeforeMoves
from repq_deploy.export.passes.table_plain_ops import TablePlainOps
from repq_deploy.export.passes.to_half import ToHalf
from repq_deploy.export.passes.unpack_int4 import UnpackInt4
from repq_deploy.inputs import ImageInput

__all__ = ["TrtBackend", "check_fp8"]

#: Ada is the first generation with FP8.
_FP8_SINCE = 89


@dataclass(frozen=True, kw_only=True)
class TrtBackend(Backend):
    """Builds and opens ``<name>.<backend>[-sm89].engine``.

    ``install`` is the pip requirement that brings one of the ``modules``. A builder that is not for the GPU that is
    there builds for ``default_targets`` where it is told none.
    """

    install: str
    default_targets: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp16", "fp32")
    computes: tuple[str, ...] = COMPUTES

    def version(self) -> str:
        return str(self._module().__version__)

    def passes(self, lowering: Lowering) -> list[Pass]:
        """Only fp16 products keep weights packed: INT4 by INT8 has no kernel."""
        passes: list[Pass] = [AttentionScale()]
        if lowering.compute == "fp16":
            passes += [FloatActivations()]
        else:
            passes += [QuantizeBeforeMoves(("Reshape", "Transpose"))]
            if lowering.compute != "int8":
                mixed = lowering.compute == "fp8+int8"
                passes += [FP8Products(mixed=mixed, allow_rounding=lowering.allow_rounding)]
            passes += [UnpackInt4()]
        passes += [TablePlainOps(), Log2PlainOps()]
        if lowering.half:
            passes.append(ToHalf())
        return passes

    def target(self, targets: Sequence[str], lowering: Lowering) -> str | None:
        found = self._target(targets)
        if "fp8" in lowering.compute:
            check_fp8(self.name, lowering.compute, found)
        return found

    def _target(self, targets: Sequence[str]) -> str | None:
        trt = self._module()
        if self.builds_for_this_gpu:
            here = gpu_target()
            if here is None:
                raise BackendMissing(f"backend {self.name}: builds on the GPU it is for, and there is none here")
            if targets and list(targets) != [here]:
                raise BadInput(
                    f"--target {','.join(targets)}: backend {self.name} builds for the GPU here only: {here}"
                )
            return here
        known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
        for target in targets:
            if target not in known:
                raise BadInput(
                    f"--target {target}: expected one of {', '.join(known)} for {self.name} {self.version()}"
                )
        return "+".join(targets) or None

    def builds_for(self, gpu: str) -> bool:
        return self.builds_for_this_gpu or gpu in self.default_targets

    def build(
        self,
        model: onnx.ModelProto,
        output: Path,
        *,
        profile: Profile,
        targets: Sequence[str],
        progress: Callable[[float, str], None],
    ) -> None:
        build_in_child(
            model.SerializeToString(deterministic=True),
            output,
            backend=self.name,
            module=self._module().__name__,
            profile=profile,
            targets=() if self.builds_for_this_gpu else targets,
            progress=progress,
        )

    def open(
        self,
        engine: bytes | Path,
        *,
        profile: Profile,
        images: ImageInput,
        session: Mapping[str, str],
        outputs: Sequence[str] = (OUTPUT,),
    ) -> Runner:
        del session
        engine = engine.read_bytes() if isinstance(engine, Path) else engine
        loaded = TrtSession(self._module(), engine, backend=self.name, outputs=outputs)
        return BatchedRunner(loaded, profile, images)

    def _module(self) -> Any:
        name = next((name for name in self.modules if find_spec(name) is not None), self.modules[-1])
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: the wheel is here, a library it loads is not
            raise BackendMissing(
                f"backend {self.name}: {name} cannot be imported ({error}); run: pip install '{self.install}'"
            ) from error


def check_fp8(backend: str, compute: str, target: str | None) -> None:
    """Refuse a target of GPUs without FP8; None, the builder's own choice, has such GPUs.

    Raises:
        BadInput: it names them.
    """
    if target is None:
        raise BadInput(
            f"--compute {compute}: FP8 exists since sm{_FP8_SINCE}, and {backend}'s default targets are older too; "
            f"name yours, as in --target sm{_FP8_SINCE}"
        )
    old = [name for name in target.split("+") if int(re.sub(r"\D", "", name)) < _FP8_SINCE]
    if old:
        raise BadInput(
            f"--compute {compute}: {', '.join(old)} has no FP8, which exists since sm{_FP8_SINCE}; use --compute int8"
        )
