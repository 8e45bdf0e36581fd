"""Torch's exporter: a quantized model becomes an ONNX graph whose quantizers are still single nodes of our domain.

``repq.FakeQuantize``, ``repq.FakeQuantizeLog2`` and their like stand for the operators of ``repq_deploy.quant.ops``,
with the site's name as an attribute. They exist only between this file and the passes that replace them.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset
from torch import nn

from repq_deploy.export.domain import DOMAIN
from repq_deploy.export.names import INPUT, OUTPUT
from repq_deploy.quant.model import QuantizedModel

__all__ = ["OPSET", "exported", "trace"]

#: The first opset with INT4 tensors.
OPSET = 21


def trace(quantized: QuantizedModel, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Trace ``quantized`` for images [batch, *input_shape] with a dynamic ``batch``; outputs as it names them."""
    translations = {
        torch.ops.repq.fake_quantize.default: _fake_quantize,
        torch.ops.repq.fake_quantize_log2.default: _fake_quantize_log2,
        torch.ops.repq.fake_quantize_curve.default: _fake_quantize_curve,
    }
    return exported(quantized, input_shape, translations, outputs=quantized.output_names)


def exported(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    translations: dict[Any, Any] | None = None,
    *,
    outputs: Sequence[str] = (OUTPUT,),
) -> onnx.ModelProto:
    """What torch's exporter makes of ``model``; ``translations`` are of operators that it does not know, ``outputs``
    the names of what it gives, in order."""
    images = torch.zeros(2, *input_shape)  # a batch of one would be specialized to a constant
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            custom_translation_table=translations,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - for the type checker: dynamo always returns a program
    return program.model_proto


def _operator(name: str, inputs: tuple[str, ...], attributes: dict[str, OpSchema.AttrType]) -> Op:
    schema = OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter(parameter, "T") for parameter in inputs],
        outputs=[OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[OpSchema.Attribute(key, kind, required=False) for key, kind in attributes.items()],
    )
    return Op(Opset(DOMAIN, 1), name, schema)


_INT, _STRING = OpSchema.AttrType.INT, OpSchema.AttrType.STRING
_FAKE_QUANTIZE = _operator("FakeQuantize", ("x", "scale", "zero_point"), {"bits": _INT, "axis": _INT, "site": _STRING})
_FAKE_QUANTIZE_LOG2 = _operator(
    "FakeQuantizeLog2", ("x", "scale"), {"bits": _INT, "steps_per_octave": _INT, "site": _STRING}
)
_FAKE_QUANTIZE_CURVE = _operator(
    "FakeQuantizeCurve",
    ("x", "divisor", "factor", "table"),
    {"bits": _INT, "function": _STRING, "curve": _STRING, "site": _STRING},
)


def _fake_quantize(x: Any, scale: Any, zero_point: Any, bits: int, axis: int | None, site: str) -> Any:
    attributes = {"bits": bits, "site": site} | ({} if axis is None else {"axis": axis})
    return _FAKE_QUANTIZE(x, scale, zero_point, **attributes)


def _fake_quantize_log2(x: Any, scale: Any, bits: int, steps_per_octave: int, site: str) -> Any:
    return _FAKE_QUANTIZE_LOG2(x, scale, bits=bits, steps_per_octave=steps_per_octave, site=site)


def _fake_quantize_curve(
    x: Any, divisor: Any, factor: Any, table: Any, bits: int, function: str, curve: str, site: str
) -> Any:
    return _FAKE_QUANTIZE_CURVE(x, divisor, factor, table, bits=bits, function=function, curve=curve, site=site)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to its own developers off our users' screens."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
