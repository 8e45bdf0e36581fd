"""The proof of the export step: the same images give the same integer codes in PyTorch and in ONNX Runtime.

Two float implementations differ in the last bit, and where a value lies on a rounding tie one code flips. One flipped
code moves all codes computed from it, so after a dozen layers two correct implementations share only a part of their
codes. The comparison therefore goes quantizer by quantizer: PyTorch computes everything between two quantizers itself,
but each quantizer then passes on the codes that ONNX Runtime had there. A wrong scale, fold, weight or operator shows
as many unequal codes at the next site; a tie shows as one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from repq_deploy.quantized import QuantizedModel
from repq_deploy.quantizers import Quantizer

__all__ = ["ExportAgreement", "SiteAgreement", "compare_export", "reference_session"]

#: How many codes of a site may differ because of ties: this share, or this many.
TIES_SHARE, TIES_COUNT = 0.001, 4


@dataclass(frozen=True)
class SiteAgreement:
    """One activation quantizer: how many ``codes`` were compared, the share of equal ones, and the levels used."""

    site: str
    codes: int
    equal: float
    levels: int
    bits: int

    @property
    def holds(self) -> bool:
        """At least 99.9 % are equal. The rest is for rounding ties, of which a small tensor may have a few too."""
        return self.codes * (1 - self.equal) <= max(TIES_SHARE * self.codes, TIES_COUNT) + 0.5


@dataclass(frozen=True)
class ExportAgreement:
    """All sites, and the logits: relative error from equal codes and running freely; share of equal top-1 classes."""

    sites: tuple[SiteAgreement, ...]
    relative_error: float
    free_relative_error: float
    top1_equal: float

    @property
    def worst(self) -> SiteAgreement:
        return min(self.sites, key=lambda site: site.equal)

    @property
    def failing(self) -> tuple[SiteAgreement, ...]:
        """The sites where more than ties differs."""
        return tuple(site for site in self.sites if not site.holds)

    @property
    def mean_equal(self) -> float:
        return float(np.mean([site.equal for site in self.sites]))


def reference_session(model: onnx.ModelProto | str) -> onnxruntime.InferenceSession:
    """The reference: ONNX Runtime on the CPU with every graph optimization off: nothing is fused or reordered."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    source = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def compare_export(quantized: QuantizedModel, model: onnx.ModelProto, images: Tensor) -> ExportAgreement:
    """Run ``images`` [N, 3, H, W] through both and compare the codes of every activation site, and the logits."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    produced = {name for node in model.graph.node for name in node.output}
    quantizers = {name: q for name, q in quantized.quantizers().items() if f"{name}/codes" in produced}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=f"{name}/codes") for name in quantizers)
    logits, *codes = reference_session(exposed).run(None, {"images": images.numpy()})
    theirs = dict(zip(quantizers, codes, strict=True))

    sites = []

    def compare(quantizer: Quantizer, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        given = theirs[quantizer.site]
        equal = float(np.mean(quantizer.codes(inputs[0]).numpy() == given))
        sites.append(SiteAgreement(quantizer.site, given.size, equal, len(np.unique(given)), quantizer.bits))
        return quantizer.values(torch.from_numpy(given))

    free = quantized(images).numpy()
    handles = [quantizer.register_forward_hook(compare) for quantizer in quantizers.values()]
    try:
        forced = quantized(images).numpy()
    finally:
        for handle in handles:
            handle.remove()
    return ExportAgreement(
        tuple(sites),
        relative_error=float(np.linalg.norm(logits - forced) / np.linalg.norm(forced)),
        free_relative_error=float(np.linalg.norm(logits - free) / np.linalg.norm(free)),
        top1_equal=float(np.mean(logits.argmax(-1) == free.argmax(-1))),
    )
