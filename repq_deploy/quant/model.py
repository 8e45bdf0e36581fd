"""The quantized model: an ordinary module whose layers quantize, and how a float model becomes one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from repq_deploy.bits import BitWidths
from repq_deploy.errors import BadInput
from repq_deploy.models.families import prepare, task_of
from repq_deploy.models.sites import LinearSite, Sites
from repq_deploy.models.taps import output_names
from repq_deploy.models.zoo import ModelSpec
from repq_deploy.quant.layers import QuantAttention, QuantConv2d, QuantLinear
from repq_deploy.quant.quantizers import Quantizer
from repq_deploy.tasks import Task

__all__ = ["Provenance", "QuantizedModel", "wrap"]


@dataclass(frozen=True)
class Provenance:
    """How a quantized model was made; equal runs give equal records.

    ``classes`` names its outputs, where known; ``refused`` says which rewrites of the method its architecture does not
    allow, a line each.
    """

    method: str = "none"
    seed: int = 0
    calibration_images: int = 0
    calibration_sha256: str = ""
    preprocess: str = ""
    classes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


class QuantizedModel(nn.Module):
    """``model`` with quantized layers. Call it like the float model: images [N, 3, H, W] to logits [N, classes], or to
    a list of features (``models.taps``).

    Attributes:
        output_names: what the outputs are called in files, in order.
        task: what they are for.
        part: the path of what is quantized in a bigger model (``quant.whole``); empty where all of it is.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, bits: BitWidths, sites: Sites, *, softmax: str) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self.bits = bits
        self.sites = sites
        self.softmax = softmax
        self.provenance = Provenance()
        self.part = ""

    def forward(self, images: Tensor) -> Any:
        return self.model(images)

    @property
    def output_names(self) -> tuple[str, ...]:
        return output_names(self.model)

    @property
    def task(self) -> Task:
        return task_of(self.model)

    @property
    def online(self) -> str:
        """What is rotated while the model runs (``rewrites.online``), in words; empty where nothing is."""
        attentions = sum(one.rotated_online for one in self.attentions())
        layers = sum(layer.rotation is not None for layer in self.behind_gates())
        counted = ((attentions, f"q and k of {attentions} attentions"), (layers, f"the inputs of {layers} fc2"))
        return ", ".join(words for count, words in counted if count)

    @property
    def preprocess_json(self) -> str:
        return self.provenance.preprocess

    def linears(self) -> Iterator[tuple[LinearSite, QuantLinear | QuantConv2d, nn.LayerNorm | None]]:
        """Each linear site with its layer, and the layer norm that can be folded with it, where there is one."""
        for site in self.sites.linears:
            layer = self.model.get_submodule(site.name)
            norm = None if site.norm is None else self.model.get_submodule(site.norm)
            yield site, layer, norm  # type: ignore[misc]

    def readers(self) -> Iterator[tuple[nn.LayerNorm | None, list[QuantLinear | QuantConv2d]]]:
        """Each layer norm that can be folded, with the layers that read it; every other layer by itself, with None."""
        seen: set[str] = set()
        for site, layer, norm in self.linears():
            if site.norm is None:
                yield None, [layer]
            elif site.norm not in seen:
                seen.add(site.norm)
                yield norm, [self.model.get_submodule(one.name) for one in self.sites.readers(site.norm)]  # type: ignore[misc]

    def beside(self, site: LinearSite) -> list[QuantLinear]:
        """The layers that read the layer norm of ``site``, its own among them; they share one input."""
        assert site.norm is not None  # noqa: S101 - only what reads a norm is asked for
        return [self.model.get_submodule(one.name) for one in self.sites.readers(site.norm)]  # type: ignore[misc]

    def attentions(self) -> Iterator[QuantAttention]:
        """The attention modules whose products are quantized: none with a "float" softmax; each has its ``site``."""
        for site in self.sites.attentions:
            attention = self.model.get_submodule(site.name)
            if attention.quantized:
                yield attention  # type: ignore[misc]

    def behind_gates(self) -> Iterator[QuantLinear]:
        """The layers that read the product of a gated MLP."""
        for site in self.sites.linears:
            if site.up is not None:
                yield self.model.get_submodule(site.name)  # type: ignore[misc]

    def quantizers(self) -> dict[str, Quantizer]:
        """The table site -> quantizer, in the order of the modules."""
        return {module.site: module for module in self.model.modules() if isinstance(module, Quantizer)}


def wrap(model: nn.Module, spec: ModelSpec, bits: BitWidths, *, softmax: str) -> QuantizedModel:
    """Replace a float model's layers by quantized ones, in place; their quantizers are not calibrated yet.

    Raises:
        BadInput: an unsupported model, or an override in ``bits`` that matches no site.
    """
    family = prepare(model)
    sites = family.sites(model)
    named = [(site.name, site.role) for site in sites.linears] + [(s.name, "attention") for s in sites.attentions]
    if unmatched := bits.unmatched(named):
        roles = sorted({role for _, role in named})
        raise BadInput(f"bits override {unmatched[0]!r} matches no site; roles are {', '.join(roles)}")
    model.requires_grad_(False)
    for site in sites.linears:
        widths = bits.of(site.name, site.role)
        kind = QuantConv2d if site.is_convolution else QuantLinear
        original = model.get_submodule(site.name)
        layer = kind(
            original,  # type: ignore[arg-type]
            name=site.name,
            weight_bits=widths.weight,
            activation_bits=widths.activation,
            padded=site.padded,
        )
        model.set_submodule(site.name, layer)
    for attention in sites.attentions:
        quantized = QuantAttention(
            attention,
            family.attention(model, attention.name),
            model.get_submodule(attention.qkv),  # type: ignore[arg-type]
            model.get_submodule(attention.proj),  # type: ignore[arg-type]
            bits=bits.of(attention.name, "attention").activation,
            softmax=softmax,
        )
        model.set_submodule(attention.name, quantized)
    return QuantizedModel(model.eval(), spec, bits, sites, softmax=softmax)
