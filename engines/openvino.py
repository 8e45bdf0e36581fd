"""OpenVINO on x86 CPUs: usually the fastest CPU runtime for an int8 model.

Its "engine" is one uncompressed ZIP file that holds OpenVINO's two files, ``model.xml`` and ``model.bin``: so the two
cannot be parted, appear in one step, and the manifest's hash covers both. ``unzip`` gives the IR to other tools.
https://docs.openvino.ai/2026/documentation/openvino-ir-format.html
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from repq_deploy.engines.batching import THREADS, BatchedRunner, Profile, Runner
from repq_deploy.engines.source import INPUT, OUTPUT
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed

__all__ = ["BACKEND", "OpenVinoBackend", "open_ir", "product_kernels"]

_XML, _BIN = "model.xml", "model.bin"

#: The layers of OpenVINO's CPU plugin that multiply. A fused attention subgraph counts as what its inputs are.
_PRODUCTS = ("FullyConnected", "MatMul", "Convolution")
_INTEGERS = ("i8", "u8")

#: On CPUs with bfloat16 OpenVINO would compute in it around the integers; float32 is what was validated.
_SESSION = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


@dataclass(frozen=True)
class OpenVinoBackend:
    """Builds and opens ``<name>.openvino.engine``."""

    name: str = "openvino"
    precisions: tuple[str, ...] = ("fp32",)
    portable: bool = True

    def is_installed(self) -> bool:
        """Whether the module can be found, without the cost of importing it."""
        return find_spec("openvino") is not None

    def version(self) -> str:
        return str(_openvino().__version__).split("-", 1)[0]

    def target(self, targets: Sequence[str]) -> None:
        """Always None: the file runs on any x86 CPU."""
        if targets:
            raise BadInput(f"--target {','.join(targets)}: backend {self.name} builds for any CPU; leave --target out")

    def session_options(self) -> dict[str, str]:
        return dict(_SESSION)

    def build(
        self,
        model: onnx.ModelProto,
        output: Path,
        *,
        profile: Profile,
        targets: Sequence[str],
        progress: Callable[[float, str], None],
    ) -> None:
        del profile, targets
        ov = _openvino()
        progress(0.0, "converting to OpenVINO's IR")
        converted = _convert(model)
        _number_anew(converted)
        with tempfile.TemporaryDirectory(prefix="repq-openvino-") as folder:
            ov.save_model(converted, Path(folder) / _XML, compress_to_fp16=False)
            with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
                for name in (_XML, _BIN):
                    # A fixed date, ZIP's first: equal models give equal bytes.
                    archive.writestr(zipfile.ZipInfo(name), (Path(folder) / name).read_bytes())

    def run_graph(
        self, model: onnx.ModelProto, inputs: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        """All outputs of a lowered graph, with the engine's kernels."""
        found = _compile_model(_openvino().Core(), _convert(model), self.session_options())(dict(inputs))
        return {output.name: found[output.name] for output in model.graph.output}

    def open(
        self,
        engine: bytes,
        *,
        profile: Profile,
        image_shape: tuple[int, ...],
        session: Mapping[str, str],
    ) -> Runner:
        compiled = _compile(engine, session)

        def run(images: NDArray[np.float32]) -> Any:
            return compiled({INPUT: images})[OUTPUT].copy()

        return BatchedRunner(run, profile, image_shape)


BACKEND = OpenVinoBackend()


def open_ir(
    path: Path, *, threads: int | None
) -> tuple[Callable[[NDArray[np.float32]], Any], tuple[int | None, ...], tuple[int | None, ...]]:
    """Any IR (``.xml`` with its ``.bin`` beside it) of one input: what runs it, and the shapes of its input and of its
    first output, None for a dynamic axis. It computes in float32 around its integers, as our engines do.

    Raises:
        BadInput: it has more inputs than one, or another type than float32.
    """
    core = _openvino().Core()
    options = dict(_SESSION) | ({} if threads is None else {THREADS: str(threads)})
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise BuildFailed(f"model {path}: OpenVINO cannot read it: {_one_line(error)}") from error
    if [one.get_element_type().get_type_name() for one in model.inputs] != ["f32"]:
        found = ", ".join(f"{one.any_name} {one.get_element_type().get_type_name()}" for one in model.inputs)
        raise BadInput(f"model {path}: has the inputs {found}; expected one, images in float32")
    compiled = _compile_model(core, model, options)
    shapes = [
        tuple(None if size.is_dynamic else size.get_length() for size in one.get_partial_shape())
        for one in (model.inputs[0], model.outputs[0])
    ]
    return lambda images: compiled(images)[0].copy(), shapes[0], shapes[1]


def product_kernels(engine: bytes, session: Mapping[str, str]) -> dict[str, int]:
    """How many products this machine runs in which type: ``{"i8": 61, "f32": 12}``, asked of the compiled model."""
    kernels: Counter[str] = Counter()
    for layer in _compile(engine, session).get_runtime_model().get_ordered_ops():
        info = layer.get_rt_info()
        if info["layerType"].astype(str) in _PRODUCTS:
            precision = info["runtimePrecision"].astype(str)
            kernels["i8" if precision in _INTEGERS else precision] += 1
    return dict(kernels)


def _convert(model: onnx.ModelProto) -> Any:
    try:
        return _openvino().Core().read_model(model.SerializeToString(deterministic=True))
    except Exception as error:  # its exceptions are RuntimeError and several of its own
        raise BuildFailed(f"backend openvino: {_one_line(error)}") from error


def _number_anew(model: Any) -> None:
    """OpenVINO names what has no name after a counter of the process; equal models are to give equal bytes."""
    for index, node in enumerate(model.get_ordered_ops()):
        if node.get_friendly_name() == node.get_name():
            node.set_friendly_name(f"{node.get_type_name()}_{index}")


def _compile(engine: bytes, session: Mapping[str, str]) -> Any:
    ov = _openvino()
    core = ov.Core()
    try:
        with zipfile.ZipFile(io.BytesIO(engine)) as archive:
            model = core.read_model(archive.read(_XML), archive.read(_BIN))
    except (zipfile.BadZipFile, KeyError) as error:
        raise BadInput(f"engine: not a ZIP of {_XML} and {_BIN} ({error}); rebuild with repq-build-engine") from error
    return _compile_model(core, model, session)


def _compile_model(core: Any, model: Any, session: Mapping[str, str]) -> Any:
    properties = {"INFERENCE_NUM_THREADS" if name == THREADS else name: value for name, value in session.items()}
    try:
        return core.compile_model(model, "CPU", properties)
    except RuntimeError as error:
        raise BuildFailed(f"backend openvino: refuses the model: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _openvino() -> Any:
    try:
        import openvino  # noqa: PLC0415 (keeps the command's --help fast)
    except (ImportError, OSError) as error:
        raise BackendMissing(
            f"backend openvino: cannot be imported ({error}); run: pip install 'repq-deploy[openvino]'"
        ) from error
    return openvino
