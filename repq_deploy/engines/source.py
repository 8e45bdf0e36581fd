"""Reading a canonical ONNX file: what ``repq-export`` wrote, and nothing else.

The file has one input ``images`` float32 [batch, 3, H, W], or bytes as its metadata say, and one output ``logits``
float32 [batch, classes], or those that its metadata name; ``batch`` is dynamic, the rest is fixed. Its
``metadata_props`` under ``repq.*`` say what was calibrated and how.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from repq_deploy.bits import BitWidths
from repq_deploy.errors import BadInput, one_line
from repq_deploy.export import names
from repq_deploy.export.digest import bad_scale, quantizers_digest
from repq_deploy.export.measures.record import recorded_measures
from repq_deploy.export.names import INPUT, OUTPUT
from repq_deploy.inputs import ImageInput
from repq_deploy.outputs import Outputs
from repq_deploy.records import parse_json
from repq_deploy.system.files import existing_file, sha256_of
from repq_deploy.tasks import Task

__all__ = ["INPUT", "OUTPUT", "SourceModel", "read_source"]

#: What tensors may be given and give.
_TYPE_NAMES: dict[int, str] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}
#: Types of less than a byte.
_PACKED: dict[int, int] = dict.fromkeys((onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1), 4)


@dataclass(frozen=True)
class SourceModel:
    """A canonical ONNX file in memory. ``input`` says what images it takes.

    A float model over 2 GiB has the bytes of its weights in a second file, ``weights``; ``model`` and ``data`` do not
    hold them. ``sha256`` is the hash of both files. ``named`` are the outputs, which make ``outputs`` numbers.
    """

    path: Path
    model: onnx.ModelProto
    data: bytes
    weights: Path | None
    sha256: str
    metadata: dict[str, str]
    input: ImageInput
    named: Outputs

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image: (3, H, W), or (H, W, 3) of bytes in that layout."""
        return self.input.shape

    @property
    def outputs(self) -> int:
        """How many numbers the model gives for an image."""
        return self.named.numbers

    @property
    def bits(self) -> str:
        """Bit-widths as ``repq-export`` took them, for example ``w4a4,head=w8a8``."""
        return self.metadata.get(names.BITS, "")

    @property
    def task(self) -> Task:
        """What the model's outputs are for."""
        return names.recorded_task(self.metadata)

    def check_one_file(self) -> None:
        """Raise BadInput where weights are in a second file: rewrites and engine builds take a single file."""
        if self.weights is not None:
            raise BadInput(
                f"model {self.path}: keeps its weights in {self.weights.name}, as it is over 2 GiB; repq-eval and "
                "repq-bench take it as it is, an engine needs one file: export with --bits"
            )


def read_source(path: Path) -> SourceModel:
    """Read and check ``path``.

    Raises:
        BadInput: no such file, not an ONNX file, not made by ``repq-export``, or with other inputs and outputs.
    """
    existing_file(path, "model")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"model {path}: cannot be read: {error.strerror or error}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has no public base across its implementations
        raise BadInput(f"model {path}: not an ONNX file; write one with repq-export") from error
    metadata = names.recorded(model)
    if not model.HasField("graph") or names.MODEL not in metadata:
        raise BadInput(
            f"model {path}: not made by repq-export (no {names.MODEL} in its metadata); write it with repq-export"
        )
    weights = _weights_file(path, model)
    _check_metadata(path, metadata)
    images = _images(path, model, metadata)
    named = _outputs(path, model, metadata)
    _check_graph(path, model)
    _check_quantizers(path, model, metadata)
    sha256 = hashlib.sha256(data).hexdigest()
    if weights is not None:
        sha256 = hashlib.sha256(f"{sha256} {sha256_of(weights)}".encode()).hexdigest()
    return SourceModel(path, model, data, weights, sha256, metadata, images, named)


def _check_graph(path: Path, model: onnx.ModelProto) -> None:
    """Refuse what is no valid graph, before anything is computed from it."""
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > onnx.defs.onnx_opset_version():
            raise BadInput(
                f"model {path}: opset {opset.version}; the installed onnx knows up to {onnx.defs.onnx_opset_version()}"
            )
    tensors = list(model.graph.initializer)
    tensors += [attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t")]
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx", "repq"})
    if foreign:
        raise BadInput(
            f"model {path}: operators of {foreign[0][:60]}, which a run-time's optimizer writes; build from the file "
            "that repq-export wrote"
        )
    known = {(function.domain, function.name) for function in model.functions}
    try:
        for node in model.graph.node:
            if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in known:
                raise ValueError(f"no function {node.domain}.{node.op_type}"[:120])
        for tensor in tensors:
            if tensor.HasField("raw_data") and len(tensor.raw_data) != _stored_bytes(tensor):
                raise ValueError(f"{tensor.name[:60]} has {len(tensor.raw_data)} bytes, its shape says another number")
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker's own, and whatever a wrong type or number trips on its way there
        said = one_line(error, 200) or type(error).__name__
        raise BadInput(f"model {path}: damaged, not a valid ONNX graph ({said}); export it again") from error


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    bits = _PACKED.get(tensor.data_type, 8 * kind.itemsize)
    return (math.prod(tensor.dims) * bits + 7) // 8


def _check_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Refuse records that no export writes: an engine would carry them on."""
    try:
        if metadata.get(names.BITS):
            BitWidths.parse(metadata[names.BITS], preset=metadata.get(names.PRESET, "deploy"))
        names.recorded_classes(metadata)
        for key in (names.PREPROCESS, names.SPEC):
            if metadata.get(key):
                parse_json(metadata[key])
        names.recorded_task(metadata)
        names.recorded_refusals(metadata)
        names.recorded_outputs(metadata)
        recorded_measures(metadata)
    except (BadInput, ValueError) as error:
        raise BadInput(f"model {path}: damaged metadata: {error}; export it again") from error


def _check_quantizers(path: Path, model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Refuse a file whose quantizers are not those that were exported."""
    if (found := bad_scale(model)) is not None:
        raise BadInput(f"model {path}: the scale of {found}; expected a positive number; export it again")
    expected = metadata.get(names.DIGEST)
    if expected is not None and quantizers_digest(model) != expected:
        raise BadInput(
            f"model {path}: its scales, zero points or weights are not those that repq-export wrote: damaged, or "
            "altered by another tool; export it again"
        )


def _weights_file(path: Path, model: onnx.ModelProto) -> Path | None:
    """The file with the weights, ``path`` + ``.data``, if ``model`` names one; it must hold all that is looked for."""
    external = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if not external:
        return None
    weights = path.with_name(f"{path.name}.data")
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in external]
    if any(entry.get("location") != weights.name for entry in entries):
        raise BadInput(f"model {path}: keeps weights in other files than {weights.name}; write it with repq-export")
    existing_file(weights, f"weights of {path.name}")
    expected = max(int(entry.get("offset", 0)) + int(entry.get("length", 0)) for entry in entries)
    found = weights.stat().st_size
    if found < expected:
        raise BadInput(
            f"weights {weights}: {found} bytes, {path.name} needs {expected}: truncated or another model's; copy both "
            "again, or write them with repq-export"
        )
    return weights


def _images(path: Path, model: onnx.ModelProto, metadata: dict[str, str]) -> ImageInput:
    """What the input is, which must be as the metadata say."""
    kind = onnx.TensorProto.UINT8 if names.INPUT_FORM in metadata else onnx.TensorProto.FLOAT
    (shape,) = _fixed_dimensions(path, model.graph.input, [INPUT], rank=4, kind=kind)
    try:
        return names.recorded_input(metadata, shape)
    except (BadInput, ValueError) as error:
        raise BadInput(f"model {path}: {error}; write it with repq-export") from error


def _outputs(path: Path, model: onnx.ModelProto, metadata: dict[str, str]) -> Outputs:
    recorded = names.recorded_outputs(metadata)
    if recorded is None:
        return Outputs({OUTPUT: _fixed_dimensions(path, model.graph.output, [OUTPUT], rank=2)[0]})
    found = _fixed_dimensions(path, model.graph.output, recorded.names)
    if found != list(recorded.shapes.values()):
        raise BadInput(f"model {path}: its outputs have other shapes than {names.OUTPUTS} says; export it again")
    return recorded


def _fixed_dimensions(
    path: Path,
    values: Sequence[onnx.ValueInfoProto],
    expected: Sequence[str],
    *,
    rank: int | None = None,
    kind: int = onnx.TensorProto.FLOAT,
) -> list[tuple[int, ...]]:
    """The dimensions of each tensor in ``values``, which have the names ``expected``, after the dynamic batch."""
    if [value.name for value in values] != list(expected):
        found = ", ".join(value.name for value in values) or "none"
        what = f"the one tensor {expected[0]!r}" if len(expected) == 1 else f"the tensors {', '.join(expected)}"
        raise BadInput(f"model {path}: expected {what}, found {found}; write it with repq-export")
    return [_fixed(path, value, rank, kind) for value in values]


def _fixed(path: Path, value: onnx.ValueInfoProto, rank: int | None, kind: int) -> tuple[int, ...]:
    tensor = value.type.tensor_type
    batch, *rest = tensor.shape.dim or [onnx.TensorShapeProto.Dimension()]
    fixed = tuple(dimension.dim_value for dimension in rest)
    fits = len(fixed) == rank - 1 if rank is not None else bool(fixed)
    if tensor.elem_type != kind or not fits or min(fixed) <= 0 or batch.dim_value > 0:
        of_rank = "" if rank is None else f" of rank {rank}"
        raise BadInput(
            f"model {path}: {value.name!r} must be {_TYPE_NAMES[kind]}{of_rank} with a dynamic batch and fixed other "
            "dimensions; write it with repq-export"
        )
    return fixed
