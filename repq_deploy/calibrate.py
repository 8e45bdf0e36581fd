"""Calibration: a float model and a few images become a quantized model."""

from __future__ import annotations

import copy
import importlib.metadata

import torch
from torch import Tensor, nn

from repq_deploy import __version__
from repq_deploy.bits import BitWidths
from repq_deploy.calibration import Calibration, Report
from repq_deploy.errors import BadInput
from repq_deploy.methods import find_method
from repq_deploy.models import ModelSpec
from repq_deploy.quantized import Provenance, QuantizedModel, wrap
from repq_deploy.rotations import fold_layer_scales
from repq_deploy.softmax import SoftmaxQuantizer

__all__ = ["quantize"]


def quantize(
    model: nn.Module,
    spec: ModelSpec,
    images: Tensor,
    *,
    bits: BitWidths,
    method: str = "repq",
    attention: SoftmaxQuantizer | None = None,
    seed: int = 0,
    preprocess: str = "",
    calibration_sha256: str = "",
    report: Report = lambda doing, done, total: None,
) -> QuantizedModel:
    """Quantize ``model``, in place, with the named method.

    Args:
        model: a timm model as ``repq_deploy.models.create`` gives it.
        spec: what it was created from; it is stored with the result.
        images: normalized calibration images [N, 3, H, W], float32.
        bits: bits of every site.
        method: the name of one in ``repq_deploy.methods``.
        attention: how attention probabilities are quantized, None as the method does it; "float" leaves both products
            of attention in float.
        seed: of torch's generator, for methods that draw; stored with the result.
        preprocess: JSON of the preprocessing that made ``images``; stored with the result.
        calibration_sha256: hash of the images' source; stored with the result.
        report: called with what is being done, how much of it is done, and how much there is.

    Raises:
        BadInput: an unsupported model or method, images that are not finite, or an override that matches no site.
        ValueError: a quantizer was left without a finite scale, which is a defect of the method.
    """
    chosen = find_method(method)
    if not torch.isfinite(images).all():
        raise BadInput("calibration images hold NaN or infinite values")
    torch.manual_seed(seed)
    reference = copy.deepcopy(model).requires_grad_(False)
    quantized = wrap(model, spec, bits, softmax=attention or chosen.softmax)
    # What wrapping multiplies into the weights must be in the reference's too, for the linears' outputs to compare.
    fold_layer_scales(reference, quantized.sites)
    run = Calibration(quantized, reference, images, seed, report)
    for step in chosen.steps:
        step(run)
    quantizers = quantized.quantizers()
    if missing := [name for name, quantizer in quantizers.items() if not quantizer.calibrated]:
        raise ValueError(f"method {method} left {len(missing)} quantizers without a scale, first {missing[0]}")
    quantized.provenance = Provenance(
        method=method,
        seed=seed,
        calibration_images=len(images),
        calibration_sha256=calibration_sha256,
        preprocess=preprocess,
        versions={"repq_deploy": __version__, "torch": torch.__version__, "timm": importlib.metadata.version("timm")},
    )
    return quantized
