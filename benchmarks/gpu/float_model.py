"""The float model as an ONNX file that ``repq-build-engine`` takes: the FP16 baseline goes the same way as the rest."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from repq_deploy import models
from repq_deploy.calib_data import Preprocess

__all__ = ["write_float_model"]

_OPSET = 21


def write_float_model(name: str, path: Path, *, checkpoint: Path | None = None, seed: int = 0) -> None:
    """Write timm's ``name`` in float32 to ``path``; without ``checkpoint`` its weights are random."""
    spec = models.resolve(name, checkpoint=checkpoint, pretrained=False)
    network = models.create(spec, checkpoint, seed).eval()
    preprocess = Preprocess.from_model(network)
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, *preprocess.size),),
        dynamo=True,
        opset_version=_OPSET,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None  # noqa: S101 - for the type checker: dynamo always returns a program
    model = program.model_proto
    onnx.helper.set_model_props(
        model, {"repq.model": spec.name, "repq.bits": "", "repq.preprocess": preprocess.to_json()}
    )
    path.write_bytes(model.SerializeToString(deterministic=True))
