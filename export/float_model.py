"""The float model as ONNX: what a user would otherwise run, to compare with."""

from __future__ import annotations

import onnx
import torch
from torch import nn

from repq_deploy.export.trace import OPSET, quiet

__all__ = ["float_onnx"]


def float_onnx(model: nn.Module, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Export a timm model as it is: input ``images`` [batch, *input_shape], output ``logits`` [batch, classes]."""
    with quiet():
        program = torch.onnx.export(
            model.eval(),
            (torch.zeros(2, *input_shape),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None  # noqa: S101 - for the type checker: dynamo always returns a program
    return program.model_proto
