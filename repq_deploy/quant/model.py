"""The quantized model: an ordinary module whose layers quantize, the table site -> quantizer, and its file form.

The file is safetensors (it cannot run code); its header carries one JSON text with what rebuilds the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from repq_deploy.bits import BitWidths
from repq_deploy.errors import BadInput
from repq_deploy.models.families import find_family
from repq_deploy.models.sites import LinearSite, Sites
from repq_deploy.models.zoo import ModelSpec, build_architecture
from repq_deploy.quant.curves import CURVES, CurveQuantizer
from repq_deploy.quant.layers import QuantAttention, QuantConv2d, QuantLinear
from repq_deploy.quant.quantizers import Quantizer
from repq_deploy.quant.softmax import check_softmax
from repq_deploy.records import decode, parse_json
from repq_deploy.system.files import atomic_output, existing_file

__all__ = ["Provenance", "QuantizedModel", "assign", "load", "save", "wrap", "write"]

FORMAT = "2"
_METADATA_KEY = "repq"


@dataclass(frozen=True)
class Provenance:
    """How a quantized model was made; equal runs give equal records. ``classes`` names its outputs, where known."""

    method: str = "none"
    seed: int = 0
    calibration_images: int = 0
    calibration_sha256: str = ""
    preprocess: str = ""
    classes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


class QuantizedModel(nn.Module):
    """``model`` with quantized layers. Call it like the float model: images [N, 3, H, W] to logits [N, classes]."""

    def __init__(self, model: nn.Module, spec: ModelSpec, bits: BitWidths, sites: Sites, *, softmax: str) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self.bits = bits
        self.sites = sites
        self.softmax = softmax
        self.provenance = Provenance()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

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

    def attentions(self) -> Iterator[QuantAttention]:
        """The attention modules whose products are quantized: none with a "float" softmax; each has its ``site``."""
        for site in self.sites.attentions:
            attention = self.model.get_submodule(site.name)
            if attention.quantized:
                yield attention  # type: ignore[misc]

    def quantizers(self) -> dict[str, Quantizer]:
        """The table site -> quantizer, in the order of the modules."""
        return {module.site: module for module in self.model.modules() if isinstance(module, Quantizer)}


def wrap(model: nn.Module, spec: ModelSpec, bits: BitWidths, *, softmax: str) -> QuantizedModel:
    """Replace a float model's layers by quantized ones, in place; their quantizers are not calibrated yet.

    Raises:
        BadInput: an unsupported model, or an override in ``bits`` that matches no site.
    """
    family = find_family(model)
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
        layer = kind(original, name=site.name, weight_bits=widths.weight, activation_bits=widths.activation)  # type: ignore[arg-type]
        model.set_submodule(site.name, layer)
    for attention in sites.attentions:
        quantized = QuantAttention(
            attention,
            family.attention(model.get_submodule(attention.name)),
            model.get_submodule(attention.qkv),  # type: ignore[arg-type]
            model.get_submodule(attention.proj),  # type: ignore[arg-type]
            bits=bits.of(attention.name, "attention").activation,
            softmax=softmax,
        )
        model.set_submodule(attention.name, quantized)
    return QuantizedModel(model.eval(), spec, bits, sites, softmax=softmax)


def save(quantized: QuantizedModel, path: Path) -> None:
    """Write ``quantized`` as one safetensors file, in one step."""
    with atomic_output(path) as temporary:
        write(quantized, temporary)


def write(quantized: QuantizedModel, path: Path) -> None:
    """Write ``quantized`` into ``path``, which ``save`` or the caller makes whole."""
    description = {
        "format": FORMAT,
        "spec": quantized.spec.to_dict(),
        "softmax": quantized.softmax,
        "provenance": asdict(quantized.provenance),
        **quantized.bits.to_dict(),
    }
    tensors = {name: tensor.contiguous() for name, tensor in quantized.model.state_dict().items()}
    save_file(tensors, path, metadata={_METADATA_KEY: json.dumps(description, sort_keys=True)})


def load(path: Path, *, model: nn.Module | None = None) -> QuantizedModel:
    """Read what ``save`` wrote.

    Args:
        model: your own float module, with any weights, if the file was made from one that timm cannot build. It is
            wrapped in place. Default: timm builds the model that the file records.

    Raises:
        BadInput: no such file, not a safetensors file, not one of ours, or not of this model.
    """
    try:
        with safe_open(existing_file(path, "quantized model"), framework="pt") as opened:
            text = (opened.metadata() or {}).get(_METADATA_KEY)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise BadInput(f"quantized model {path}: not a readable safetensors file ({error})") from error
    if text is None:
        raise BadInput(f"quantized model {path}: plain weights; expected a file saved by repq-export --save-quantized")
    try:
        header = _read_header(text, of_timm=model is None)
        float_model = build_architecture(header.spec) if model is None else model
        quantized = wrap(float_model, header.spec, header.widths, softmax=header.softmax)
        quantized.provenance = header.provenance
        _check_numbers(tensors)
        assign(quantized.model, quantized.sites, tensors)
    except (ValueError, BadInput) as error:  # BadInput: of bits, of a model that timm cannot build
        raise BadInput(f"quantized model {path}: {error}; save it again with repq-export --save-quantized") from error
    return quantized


@dataclass(frozen=True)
class _Header:
    """The JSON text in the file's header; ``spec`` and ``bits`` as they are checked by their own types."""

    format: str
    spec: ModelSpec
    softmax: str
    provenance: Provenance
    widths: BitWidths


def _read_header(text: str, *, of_timm: bool) -> _Header:
    """``of_timm``: the model is to be built from its record, which therefore has to be one of timm's own."""
    data = parse_json(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise ValueError(f"format {str(found)[:20]}, this version reads {FORMAT}")
    if missing := {"spec", "softmax", "provenance", "bits", "preset"} - data.keys():
        raise ValueError(f"its record lacks {', '.join(sorted(missing))}")
    return _Header(
        FORMAT,
        ModelSpec.from_dict(data["spec"]) if of_timm else decode(ModelSpec, data["spec"], "model record"),
        check_softmax(decode(str, data["softmax"], "softmax")),
        decode(Provenance, data["provenance"], "provenance"),
        BitWidths.parse(decode(str, data["bits"], "bits"), preset=decode(str, data["preset"], "preset")),
    )


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what no calibration leaves behind: numbers that are not finite, and scales that are not positive."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"NaN or infinity in {name[:80]}")
        if name.endswith("_quantizer.scale") and not (tensor > 0).all():
            raise ValueError(f"a scale that is not positive in {name[:80]}")


def assign(model: nn.Module, sites: Sites, tensors: Mapping[str, Tensor]) -> None:
    """Set all parameters and buffers of a model, whatever was there.

    Folds create biases and shifts, and scales change shape; a LayerScale without a tensor was folded away, an input
    quantizer with a table is logarithmic.

    Raises:
        ValueError: a tensor that the model has no place for.
    """
    for site in sites.linears:
        if f"{site.name}.input_quantizer.table" in tensors:
            layer: QuantLinear = model.get_submodule(site.name)  # type: ignore[assignment]
            of_input = layer.input_quantizer
            layer.input_quantizer = CurveQuantizer(of_input.site, of_input.bits, CURVES["adalog"])
        if site.layer_scale is not None and f"{site.layer_scale}.gamma" not in tensors:
            model.set_submodule(site.layer_scale, nn.Identity())
    modules = dict(model.named_modules())
    for name, tensor in tensors.items():
        parent, _, leaf = name.rpartition(".")
        module = modules.get(parent)
        own = module is not None and (leaf in module._buffers or leaf in module._parameters)
        # A fold gives a bias to a layer that has none.
        if module is None or not (own or (leaf == "bias" and isinstance(module, QuantLinear | QuantConv2d))):
            raise ValueError(f"the model has no place for the tensor {name[:80]!r}")
        if leaf in module._buffers:
            setattr(module, leaf, tensor)
        else:
            setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
