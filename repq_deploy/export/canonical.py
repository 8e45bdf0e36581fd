"""The canonical ONNX file, which says exactly what was calibrated; every backend's own graph is made from it.

The file holds standard Q/DQ with zero point 0, integer weights, non-uniform quantizers as nodes of the domain ``repq``
with function bodies, and ``repq.*`` metadata. Plain ONNX Runtime runs it exactly without optimizations, and with them
on the CPUs that ``repq.default_session`` names (see ``default_session``). Two runs give identical bytes, as no time,
path or address goes in.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from repq_deploy import __version__
from repq_deploy.export import names
from repq_deploy.export.default_session import exact_by_default
from repq_deploy.export.digest import quantizers_digest
from repq_deploy.export.domain import DOMAIN, DOMAIN_VERSION, functions
from repq_deploy.export.passes.activation_qdq import ActivationQDQ
from repq_deploy.export.passes.base import Pass, run_passes
from repq_deploy.export.passes.bias_tables import BiasTables
from repq_deploy.export.passes.integer_weights import IntegerWeights
from repq_deploy.export.passes.log2_nodes import Log2Nodes
from repq_deploy.export.passes.pixel_input import pixel_passes
from repq_deploy.export.passes.shared_constants import SharedConstants
from repq_deploy.export.passes.table_nodes import TableNodes
from repq_deploy.export.trace import OPSET, trace
from repq_deploy.export.weights_file import write_model
from repq_deploy.inputs import ImageInput
from repq_deploy.quant.model import QuantizedModel

__all__ = ["canonical_onnx", "write_canonical"]

FORMAT = "1"


def canonical_onnx(
    quantized: QuantizedModel, input_shape: tuple[int, int, int], *, form: ImageInput | None = None
) -> onnx.ModelProto:
    """Export ``quantized`` for images float32 [batch, *input_shape] named ``images``; output ``logits`` [batch,
    classes], or those that the model names. ``form``: other images of that size, which the graph normalizes.

    Raises:
        BadInput: images of bytes, and a model whose preprocessing is not known.
    """
    passes: list[Pass] = [IntegerWeights(), ActivationQDQ(), Log2Nodes(), TableNodes(), BiasTables(), SharedConstants()]
    passes += pixel_passes(form, quantized.provenance.preprocess)
    # No name here holds what is traced, which is as large as the float model.
    model, _ = run_passes(_stripped(trace(quantized, input_shape)), passes)
    operators = {(node.domain, node.op_type) for node in model.graph.node}
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    if DOMAIN in {domain for domain, _ in operators}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
        model.functions.extend(f for f in functions(OPSET) if (DOMAIN, f.name) in operators)
    model.graph.name = "repq"
    model.producer_name, model.producer_version = "repq-deploy", __version__
    of_graph = {names.DEFAULT_SESSION: exact_by_default(model), names.DIGEST: quantizers_digest(model)}
    of_graph |= names.outputs_entry(model) | names.input_entry(form)
    onnx.helper.set_model_props(model, _metadata(quantized) | of_graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_canonical(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model`` to ``path``, whole or not at all; see ``weights_file.write_model``."""
    write_model(model, path)


def _metadata(quantized: QuantizedModel) -> dict[str, str]:
    provenance = quantized.provenance
    entries = {
        f"{names.PREFIX}format": FORMAT,
        names.MODEL: quantized.spec.name,
        names.SPEC: json.dumps(quantized.spec.to_dict(), sort_keys=True),
        **({names.PART: quantized.part} if quantized.part else {}),
        names.BITS: str(quantized.bits),
        names.PRESET: quantized.bits.preset,
        names.METHOD: provenance.method,
        names.SOFTMAX: quantized.softmax,
        f"{names.PREFIX}seed": str(provenance.seed),
        names.PREPROCESS: provenance.preprocess,
        **({names.CLASSES: json.dumps(provenance.classes)} if provenance.classes else {}),
        **({names.REFUSED: json.dumps(provenance.refused)} if provenance.refused else {}),
        **({names.ONLINE: quantized.online} if quantized.online else {}),
        **names.task_entry(quantized.task),
        f"{names.PREFIX}calib.images": str(provenance.calibration_images),
        f"{names.PREFIX}calib.sha256": provenance.calibration_sha256,
        f"{names.PREFIX}versions": json.dumps(provenance.versions, sort_keys=True),
        f"{names.PREFIX}version": __version__,
    }
    return dict(sorted(entries.items()))


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` itself without what names this machine: the exporter leaves stack traces with paths in every node."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    model.graph.doc_string = model.doc_string = ""
    return model
