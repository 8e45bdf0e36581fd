"""The float model as ONNX: what a user would otherwise run, to compare with.

Its metadata are those of a canonical file without bits, so that it is built, evaluated and measured the same way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import onnx
from torch import nn

from repq_deploy.export import names
from repq_deploy.export.passes.base import run_passes
from repq_deploy.export.passes.pixel_input import pixel_passes
from repq_deploy.export.trace import exported
from repq_deploy.inputs import ImageInput
from repq_deploy.models.families import task_of
from repq_deploy.models.taps import output_names

__all__ = ["float_onnx"]


def float_onnx(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    form: ImageInput | None = None,
    name: str = "float",
    preprocess: str = "",
    classes: Sequence[str] = (),
) -> onnx.ModelProto:
    """Export a timm model as it is: input ``images`` [batch, *input_shape], output ``logits`` [batch, classes], or one
    for each of its features.

    ``form``: other images of that size, which the graph normalizes. ``name``, ``preprocess`` (``Preprocess.to_json``)
    and the names of ``classes`` are recorded.
    """
    found = exported(model, input_shape, outputs=output_names(model))
    if passes := pixel_passes(form, preprocess):
        found, _ = run_passes(found, passes)
    recorded = {names.MODEL: name, names.BITS: "", names.PREPROCESS: preprocess, **names.task_entry(task_of(model))}
    recorded |= names.outputs_entry(found) | names.input_entry(form)
    onnx.helper.set_model_props(found, recorded | ({names.CLASSES: json.dumps(classes)} if classes else {}))
    return found
