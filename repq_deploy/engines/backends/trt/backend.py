"""What TensorRT and TensorRT-RTX have in common as backends; ``tensorrt.py`` and ``tensorrt_rtx.py`` name the rest."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from repq_deploy.engines.backends.trt.child import build_in_child
from repq_deploy.engines.backends.trt.gpu import gpu_target
from repq_deploy.engines.backends.trt.runner import TrtSession
from repq_deploy.engines.batching import BatchedRunner, GraphRunner, Profile, Runner
from repq_deploy.errors import BackendMissing, BadInput

__all__ = ["TrtBackend"]


@dataclass(frozen=True)
class TrtBackend:
    """Builds and opens ``<name>.<backend>[-sm89].engine``.

    ``modules`` are the import names to try, ``install`` is the pip requirement that brings one of them. With
    ``builds_for_this_gpu`` the builder measures on the GPU that is there and builds for no other; without, it builds
    for ``default_targets`` where it is told none.
    """

    name: str
    modules: tuple[str, ...]
    install: str
    builds_for_this_gpu: bool
    default_targets: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp16", "fp32")
    portable: bool = False

    def is_installed(self) -> bool:
        """Whether a module can be found, without the cost of importing it."""
        return any(find_spec(name) is not None for name in self.modules)

    def version(self) -> str:
        return str(self._module().__version__)

    def target(self, targets: Sequence[str]) -> str | None:
        """The target to record for ``--target``: ``sm80+sm89``, or None for the builder's own default."""
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
        """Whether an engine of its own choice of targets loads on ``gpu``, as in ``sm89``."""
        return self.builds_for_this_gpu or gpu in self.default_targets

    def saturates(self) -> bool:
        """Never: GPUs sum products of bytes in 32 bits."""
        return False

    def session_options(self) -> dict[str, str]:
        return {}

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

    def served_graph(self, model: onnx.ModelProto) -> onnx.ModelProto:
        raise BackendMissing(f"backend {self.name}: shows no graph of its kernels")

    def load_graph(self, model: onnx.ModelProto) -> GraphRunner:
        raise BackendMissing(f"backend {self.name}: runs engines only, on their GPU")

    def open(
        self,
        engine: bytes | Path,
        *,
        profile: Profile,
        image_shape: tuple[int, ...],
        session: Mapping[str, str],
    ) -> Runner:
        del session
        engine = engine.read_bytes() if isinstance(engine, Path) else engine
        return BatchedRunner(TrtSession(self._module(), engine, backend=self.name), profile, image_shape)

    def _module(self) -> Any:
        name = next((name for name in self.modules if find_spec(name) is not None), self.modules[-1])
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: the wheel is here, a library it loads is not
            raise BackendMissing(
                f"backend {self.name}: {name} cannot be imported ({error}); run: pip install '{self.install}'"
            ) from error
