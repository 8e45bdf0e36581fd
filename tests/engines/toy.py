"""A backend in one file: ONNX's own evaluator. ``test_one_file.py`` puts a copy of it among the backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx.reference import ReferenceEvaluator

from repq_deploy.engines.backends import ForeignFormat
from repq_deploy.engines.backends._cpu import CpuBackend
from repq_deploy.engines.batching import BatchedRunner, GraphRunner, Profile, Runner
from repq_deploy.export.lowering import Lowering
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.unpack_int4 import UnpackInt4
from repq_deploy.inputs import ImageInput
from repq_deploy.outputs import joined


@dataclass(frozen=True, kw_only=True)
class ToyBackend(CpuBackend):
    def version(self) -> str:
        return onnx.__version__

    def passes(self, lowering: Lowering) -> list[Pass]:
        self.check_single(lowering)
        return [UnpackInt4(), Log2PlainOps()]

    def oldest_runtime(self, model: onnx.ModelProto) -> str:
        return "1.0"

    def served_graph(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return model

    def load_graph(self, model: onnx.ModelProto) -> GraphRunner:
        evaluator = ReferenceEvaluator(model)
        names = [output.name for output in model.graph.output]
        return lambda inputs: dict(zip(names, evaluator.run(names, dict(inputs)), strict=True))

    def open(
        self,
        engine: bytes | Path,
        *,
        profile: Profile,
        images: ImageInput,
        session: Mapping[str, str],
        outputs: Sequence[str] = ("logits",),
    ) -> Runner:
        data = engine.read_bytes() if isinstance(engine, Path) else engine
        evaluator = ReferenceEvaluator(onnx.load_from_string(data))
        return BatchedRunner(lambda batch: joined(evaluator.run(list(outputs), {"images": batch})), profile, images)


def open_toy(path: Path, *, threads: int | None) -> tuple[Callable[[Any], Any], str, tuple[Any, ...], tuple[Any, ...]]:
    evaluator = ReferenceEvaluator(onnx.load(path, format="protobuf"))
    graph = evaluator.proto_.graph
    shapes = [
        tuple(size.dim_value or size.dim_param for size in one.type.tensor_type.shape.dim)
        for one in (graph.input[0], graph.output[0])
    ]
    return lambda images: evaluator.run(None, {graph.input[0].name: images})[0], "float32", *shapes


BACKEND = ToyBackend(
    name="toy",
    modules=("onnx",),
    foreign=ForeignFormat(".toy", "toy file", open_toy),
    product_kernels=lambda engine, session: {"numpy": 1},
)
