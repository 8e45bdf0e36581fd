"""Calibration: a float model and a few images become a quantized model."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib.metadata

import torch
from torch import Tensor, nn

from repq_deploy import __version__
from repq_deploy.bits import BitWidths
from repq_deploy.calibration.part import inner_sites
from repq_deploy.calibration.resume import WorkFolder
from repq_deploy.calibration.run import Calibration, Report
from repq_deploy.devices import CPU, on_device
from repq_deploy.errors import BadInput
from repq_deploy.methods import Method, find_method
from repq_deploy.models.families import prepare
from repq_deploy.models.legality import refusals
from repq_deploy.models.zoo import ModelSpec
from repq_deploy.quant.model import Provenance, QuantizedModel, wrap
from repq_deploy.quant.quantizers import Quantizer, UniformQuantizer
from repq_deploy.steps.fold import fold_last

__all__ = ["calibrate"]

NOTHING_KNOWN = Provenance()


def calibrate(
    model: nn.Module,
    spec: ModelSpec,
    images: Tensor,
    *,
    bits: BitWidths,
    method: str | Method = "best",
    softmax: str | None = None,
    outputs_only: bool = True,
    seed: int = 0,
    origin: Provenance = NOTHING_KNOWN,
    report: Report = lambda doing, done, total: None,
    work: WorkFolder | None = None,
    device: torch.device = CPU,
) -> QuantizedModel:
    """Quantize ``model``, in place, with the named method.

    Args:
        model: a timm model as ``repq_deploy.models.zoo.create`` gives it.
        spec: what it was created from; it is stored with the result.
        images: normalized calibration images [N, 3, H, W], float32.
        bits: bits of every site.
        method: the name of one in ``repq_deploy.methods``, or one of your own.
        softmax: how attention probabilities are quantized. None: as the method says. "float": both products of
            attention stay in float.
        outputs_only: whether a bigger model that ``model`` is a part of reads nothing but its outputs; otherwise the
            tokens that its blocks give each other stay what they are.
        seed: the seed of torch's generator, for methods that draw random numbers; stored with the result.
        origin: what is known of the images and of the model's outputs; completed and stored with the result.
        report: called with the name of the current task, how much of it is done, and how much there is.
        work: the folder that keeps the state, so that a killed calibration can resume. The caller calls its
            ``finish``.
        device: where to compute. The result is on the CPU, and random numbers are drawn there too, so two devices
            differ by rounding alone.

    Raises:
        BadInput: an unsupported model or method, images that are not finite, an override that matches no site, or steps
            that do not give every quantizer what an engine needs.
    """
    chosen = find_method(method) if isinstance(method, str) else method
    if not torch.isfinite(images).all():
        raise BadInput("calibration images hold NaN or infinite values")
    torch.manual_seed(seed)
    prepare(model)
    reference = copy.deepcopy(model).requires_grad_(False)
    quantized = wrap(model, spec, bits, softmax=softmax or chosen.softmax)
    if not outputs_only:
        quantized.sites = inner_sites(quantized.model, quantized.sites)
    key = _key(quantized, images, chosen, seed)
    with on_device(device, quantized, reference):
        run = Calibration(quantized, reference, images, seed, report, work or WorkFolder(None))
        run.work.open(key, quantized, reference)
        first = run.work.resume()
        for index, step in enumerate(chosen.steps[first:], first):
            run.work.begin(index)
            step(run)
        run.work.complete(len(chosen.steps))
    fold_last(quantized)
    for name, quantizer in quantized.quantizers().items():
        if missing := _missing(name, quantizer):
            raise BadInput(f"method {chosen.name}: its steps leave {name} {missing}")
    quantized.provenance = dataclasses.replace(
        origin,
        method=chosen.name,
        seed=seed,
        calibration_images=len(images),
        refused=refusals(quantized.sites, chosen.rewrites(softmax)),
        versions={"repq_deploy": __version__, "torch": torch.__version__, "timm": importlib.metadata.version("timm")},
    )
    return quantized


def _missing(site: str, quantizer: Quantizer) -> str | None:
    """What a quantizer lacks for an engine, and the step that gives it."""
    if not quantizer.calibrated:
        return "without a scale; list the steps ranges, fold and, unless ranges quantizes weights, weights"
    if not isinstance(quantizer, UniformQuantizer) or site.endswith(".weight"):
        return None
    if quantizer.axis is not None:
        return "with a scale for each channel; list the step fold after ranges"
    if quantizer.bits == 8 and quantizer.zero_point != 128:
        return "with an 8-bit zero point that no engine takes; list the step fold after ranges"
    return None


def _key(quantized: QuantizedModel, images: Tensor, method: Method, seed: int) -> str:
    """Hash of all that decides the result of a calibration."""
    digest = hashlib.sha256()
    for tensor in (*quantized.model.state_dict().values(), images):
        digest.update(tensor.contiguous().numpy().tobytes())
    digest.update(repr((quantized.bits, quantized.softmax, method.steps, seed, __version__)).encode())
    return digest.hexdigest()
