"""The proof of the export step: the same images give the same integer codes in PyTorch and in ONNX Runtime.

Two float implementations differ in the last bit, and where a value lies on a rounding tie one code flips. One flipped
code moves all codes computed from it, so after a dozen layers two correct implementations share only a part of their
codes. The comparison therefore goes quantizer by quantizer: PyTorch computes everything between two quantizers itself,
but each quantizer then passes on the codes that ONNX Runtime had there. A wrong scale, fold, weight or operator shows
as many unequal codes at the next site; a tie shows as one, or as many where many values are the same, as with uniform
attention. So an unequal code counts only where the value is not next to the border of the two codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from repq_deploy.export.measures.measuring import float_bytes, measure_activation, measure_weights
from repq_deploy.export.measures.record import NOTHING_MEASURED, SiteMeasures
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.export.prove_kernels import OTHERS_COUNT, OTHERS_SHARE, TIE
from repq_deploy.hooks import hooks
from repq_deploy.outputs import joined
from repq_deploy.quant.model import QuantizedModel
from repq_deploy.quant.quantizers import Quantizer

__all__ = ["ExportAgreement", "SiteAgreement", "compare_export", "unexplained"]


@dataclass(frozen=True)
class SiteAgreement:
    """The comparison at one activation quantizer: how many ``codes`` were compared, what share is ``equal``, how many
    differ without being on a tie (``unexplained``), and how many ``levels`` occur."""

    site: str
    codes: int
    equal: float
    unexplained: int
    levels: int
    bits: int

    @property
    def holds(self) -> bool:
        """Whether all codes are equal but for ties; one in ten thousand, or four in a small tensor, may differ."""
        return self.unexplained <= max(OTHERS_SHARE * self.codes, OTHERS_COUNT)


@dataclass(frozen=True)
class ExportAgreement:
    """All sites, and the logits: their relative error from equal codes, and with both models running freely, and the
    share of images that both decide alike, where outputs decide anything. ``measures`` is what the file records."""

    sites: tuple[SiteAgreement, ...]
    relative_error: float
    free_relative_error: float
    decisions_equal: float | None
    measures: SiteMeasures = NOTHING_MEASURED

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


def compare_export(
    quantized: QuantizedModel, model: onnx.ModelProto, images: Tensor, *, given: NDArray[Any] | None = None
) -> ExportAgreement:
    """Run ``images`` [N, 3, H, W] through both and compare the codes of every activation site, and the logits.

    ``given`` are the same images as the ONNX ``model`` takes them, where it takes others.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    produced = {name for node in model.graph.node for name in node.output}
    quantizers = {name: q for name, q in quantized.quantizers().items() if f"{name}/codes" in produced}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=f"{name}/codes") for name in quantizers)
    found = reference_session(exposed).run(None, {"images": images.numpy() if given is None else given})
    count = len(model.graph.output)
    logits, theirs = joined(found[:count]), dict(zip(quantizers, found[count:], strict=True))

    sites = []
    measures = measure_weights(quantized)

    def compare(quantizer: Quantizer, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        given = torch.from_numpy(theirs[quantizer.site])
        equal = float((quantizer.codes(inputs[0]) == given).double().mean())
        others, levels = unexplained(quantizer, inputs[0], given), len(given.unique())
        sites.append(SiteAgreement(quantizer.site, given.numel(), equal, others, levels, quantizer.bits))
        values = quantizer.values(given)
        measures[quantizer.site] = measure_activation(quantizer, inputs[0], values)
        return values

    free = _rows(quantized, images)
    with hooks(quantizer.register_forward_hook(compare) for quantizer in quantizers.values()):
        forced = _rows(quantized, images)
    return ExportAgreement(
        tuple(sites),
        relative_error=float(np.linalg.norm(logits - forced) / np.linalg.norm(forced)),
        free_relative_error=float(np.linalg.norm(logits - free) / np.linalg.norm(free)),
        decisions_equal=quantized.task.agreement(logits, free),
        measures=SiteMeasures(
            images=len(images),
            float_bytes=float_bytes(quantized),
            codes=sum(site.codes for site in sites),
            different=sum(round((1 - site.equal) * site.codes) for site in sites),
            unexplained=sum(site.unexplained for site in sites),
            sites={name: measures[name] for name in quantized.quantizers() if name in measures},
        ),
    )


def _rows(quantized: QuantizedModel, images: Tensor) -> NDArray[np.float32]:
    """All outputs, [N, numbers]."""
    outputs: NDArray[np.float32] = joined([joined(quantized(images))]).numpy()
    return outputs


def unexplained(quantizer: Quantizer, x: Tensor, given: Tensor) -> int:
    """How many codes of ``x`` differ from those ``given`` even when x is moved by the error of a float32 product."""
    error = TIE * float(x.abs().max())
    differ = quantizer.codes(x) != given
    x, given = x[differ], given[differ]
    # Probabilities stay positive, for their logarithm.
    below = torch.where(x > 0, (x - error).clamp_min(torch.finfo(x.dtype).tiny), x - error)
    tie = (quantizer.codes(x + error) == given) | (quantizer.codes(below) == given)
    return int((~tie).sum())
