"""Sensitivity S[l, b] of a model to the bits of site l: the squared error of the logits with only l at b bits.

The logits' mean over the classes is subtracted first, as softmax ignores it. The error is a mean over classes and
images, without labels. The other sites stay in float. A site is quantized as RepQ-ViT does it (channel-wise post-norm
inputs folded into the norm, weights searched after the fold, log-sqrt2 probabilities), because every method here starts
from that. Mix-QViT does not publish its measure; this is our reconstruction. Errors of logits add up over sites, which
is what an allocation assumes. The KL divergence depends on the few images near a border of two classes and does not add
up: allocations by it were no better than the same bits everywhere (ViT-S/14 on CIFAR-10, four bits on average).

All input ranges are searched once, on the first batch of images in a pass of the float model, as the step ``ranges``
does; they travel with its weights, the images and the float logits in one bundle. A measurement then replaces one
site's modules in the float model, runs it, and puts them back. So measurements are independent of each other; each is
kept in a small file of its own as soon as it is known.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from repq_deploy.bits import BitWidths, SiteBits
from repq_deploy.devices import CPU, device_of, on_device
from repq_deploy.hooks import hooks
from repq_deploy.models.families import find_family, prepare, task_of
from repq_deploy.models.sites import AttentionSite, LinearSite
from repq_deploy.models.zoo import ModelSpec, build_architecture
from repq_deploy.outputs import joined
from repq_deploy.quant.layers import QuantAttention, QuantConv2d, QuantLinear
from repq_deploy.quant.quantizers import Parameters, RangeFinder, UniformParameters
from repq_deploy.quant.ranges import log2_finder, operand_finder, percentile_finder, weight_finder
from repq_deploy.rewrites.folds import fold_post_norm
from repq_deploy.search.measurements import BATCH, Measurement, measurement_file, read_measurement, result_folder
from repq_deploy.search.pool import one_thread, spread
from repq_deploy.search.space import SearchSite
from repq_deploy.system.files import write_atomically
from repq_deploy.system.leftovers import temporary_folder

__all__ = ["Sweeper", "bundle", "sensitivities"]

_LOG_SQRT2 = 2  # steps per octave
_OPERANDS = ("q", "k", "v", "p")


def sensitivities(
    model: nn.Module,
    spec: ModelSpec,
    images: Tensor,
    sites: Sequence[SearchSite],
    *,
    preset: str,
    work_dir: Path | None = None,
    workers: int = 1,
    ray: str | None = None,
    on_range: Callable[[int, int], None] = lambda done, total: None,
    on_result: Callable[[int, int], None] = lambda done, total: None,
    device: torch.device = CPU,
) -> dict[tuple[str, SiteBits], float]:
    """Measure every site at each of its choices, but for those that ``work_dir`` already holds.

    The result does not depend on ``workers``, ``ray`` or interruptions, to the last bit on processors of one kind.

    Args:
        model: the float model; left as it was.
        images: normalized [N, 3, H, W].
        work_dir: the folder that keeps results, under a hash of weights, images and settings; None keeps none.
        workers, ray: as for ``spread``.
        on_range, on_result: called with (done, all) while ranges are searched, and after each measurement.
        device: where to compute, the same in each worker.

    Returns:
        (site's name, bits) to S, in squared units of the logits.
    """
    items = [(site, bits) for site in sites for bits in site.choices]
    with temporary_folder() as temporary:
        folder = result_folder(temporary if work_dir is None else work_dir, model, images, preset, device)
        found = {
            item: value for item in items if (value := read_measurement(measurement_file(folder, item))) is not None
        }
        missing = [item for item in items if item not in found]
        on_result(len(found), len(items))
        if missing:
            payload = folder / f"bundle-{_ranges_of(sites)}.safetensors"
            if not _is_whole(payload):
                with on_device(device, model):
                    packed = bundle(model, spec, images, sites, preset=preset, on_site=on_range)
                write_atomically(payload, packed)
            for item, value in spread(Sweeper, payload, missing, workers=workers, ray=ray):
                write_atomically(measurement_file(folder, item), json.dumps({"error": value}).encode())
                found[item] = value
                on_result(len(found), len(items))
            payload.unlink(missing_ok=True)  # another search of the same model may have ended first
    return {(site.name, bits): found[site, bits] for site, bits in items}


@torch.no_grad()
def bundle(
    model: nn.Module,
    spec: ModelSpec,
    images: Tensor,
    sites: Sequence[SearchSite],
    *,
    preset: str,
    on_site: Callable[[int, int], None] = lambda done, total: None,
) -> bytes:
    """Find the input ranges of every site at each of its widths; pack what a ``Sweeper`` needs, as safetensors."""
    found: dict[str, Tensor] = {}
    replaced: dict[str, nn.Module] = {}
    taps: list[Any] = []
    for site in sites:
        widths = sorted({bits.activation for bits in site.choices})
        if site.role == "attention":
            attention = replaced[site.name] = _attention(model, site.name, widths[0])
            for operand in _OPERANDS:
                finders = {
                    f"{site.name}.{operand}.{width}": _operand_finder(operand, width, attention.site)
                    for width in widths
                }
                setattr(attention, f"{operand}_quantizer", _Observer(finders, found))
        else:
            observer = _Observer({f"{site.name}.{width}": _input_finder(site, width) for width in widths}, found)
            layer = model.get_submodule(site.name)
            taps.append(layer.register_forward_pre_hook(observer.before))
    done = iter(range(1, len(sites) + 1))
    taps += [
        replaced.get(site.name, model.get_submodule(site.name)).register_forward_hook(
            lambda *_: on_site(next(done), len(sites))
        )
        for site in sites
    ]
    device = device_of(model)
    first, *others = images.split(BATCH)
    with one_thread():
        with hooks(taps), swapped(model, replaced):
            logits = [joined(model(first.to(device)))]
        logits += [joined(model(batch.to(device))) for batch in others]
    tensors = {f"model/{name}": tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {f"range/{name}": tensor.cpu().contiguous() for name, tensor in found.items()}
    text = json.dumps({"spec": spec.to_dict(), "preset": preset, "device": str(device)})
    description = torch.tensor(list(text.encode()), dtype=torch.uint8)
    tensors |= {"images": images, "logits": torch.cat(logits).cpu(), "description": description}
    return save(tensors)


class Sweeper:
    """Measures one site at a time on the model of a bundle."""

    def __init__(self, payload: bytes) -> None:
        tensors = load(payload)
        description = json.loads(bytes(tensors["description"].tolist()))
        self.preset: str = description["preset"]
        device = self.device = torch.device(description["device"])
        self.images = tensors["images"]
        self.ranges = {name: found.to(device) for name, found in _below("range/", tensors).items()}
        self.model = build_architecture(ModelSpec.from_dict(description["spec"])).requires_grad_(False)
        prepare(self.model)
        self.model.load_state_dict(_below("model/", tensors))
        self.model.to(device)
        self.task = task_of(self.model)
        self.reference = self.task.essence(tensors["logits"].to(device))

    @torch.no_grad()
    def __call__(self, item: Measurement) -> float:
        """S of one site at one width."""
        total = 0.0
        with swapped(self.model, self._quantized(*item)):
            for images, reference in zip(self.images.split(BATCH), self.reference.split(BATCH), strict=True):
                found = self.task.essence(joined(self.model(images.to(self.device))))
                total += float((found - reference).square().mean(dim=1).sum())
        return total / len(self.images)

    def _quantized(self, site: SearchSite, bits: SiteBits) -> dict[str, nn.Module]:
        """The modules that take the site's place."""
        if site.role == "attention":
            attention = _attention(self.model, site.name, bits.activation)
            for operand in _OPERANDS:
                quantizer = attention.get_submodule(f"{operand}_quantizer")
                quantizer.adopt(self._range(f"{site.name}.{operand}.{bits.activation}"))  # type: ignore[operator]
            return {site.name: attention}
        layers = {one.name: self._quantized_layer(one, bits) for one in site.layers}
        for layer in layers.values():
            layer.input_quantizer.adopt(self._range(f"{site.name}.{bits.activation}"))
        replaced: dict[str, nn.Module] = dict(layers)
        if site.norm is not None:
            norm: Any = copy.deepcopy(self.model.get_submodule(site.norm))
            fold_post_norm(norm, *(layer for layer in layers.values() if isinstance(layer, QuantLinear)))
            replaced[site.norm] = norm
        symmetric = BitWidths(bits, preset=self.preset).symmetric_weights(bits.weight)
        for layer in layers.values():
            layer.weight_quantizer.adopt(weight_finder(bits.weight, symmetric=symmetric)(layer.weight))
        return replaced

    def _quantized_layer(self, site: LinearSite, bits: SiteBits) -> QuantLinear | QuantConv2d:
        original: Any = self.model.get_submodule(site.name)
        kind = QuantConv2d if site.is_convolution else QuantLinear
        return kind(
            original,
            name=site.name,
            weight_bits=bits.weight,
            activation_bits=bits.activation,
            padded=site.padded,
        )

    def _range(self, name: str) -> Parameters:
        scale, zero_point = self.ranges[f"{name}.scale"], self.ranges.get(f"{name}.zero_point")
        return scale if zero_point is None else UniformParameters(scale, zero_point)


class _Observer(nn.Module):
    """Stands where a quantizer would: runs range finders on its input and hands it on."""

    def __init__(self, finders: Mapping[str, RangeFinder], found: dict[str, Tensor]) -> None:
        super().__init__()
        self.finders = finders
        self.found = found

    def forward(self, x: Tensor) -> Tensor:
        for name, find in self.finders.items():
            parameters = find(x)
            if isinstance(parameters, UniformParameters):
                self.found[f"{name}.scale"], self.found[f"{name}.zero_point"] = parameters.scale, parameters.zero_point
            elif isinstance(parameters, Tensor):
                self.found[f"{name}.scale"] = parameters
        return x

    def before(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self(inputs[0])


def _input_finder(site: SearchSite, bits: int) -> RangeFinder:
    if site.norm is None:
        return percentile_finder(bits)
    return percentile_finder(bits, axis=-1, spans_zero=False)


def _operand_finder(operand: str, bits: int, site: AttentionSite) -> RangeFinder:
    if operand == "p":
        return log2_finder(bits, _LOG_SQRT2)
    return operand_finder(site.qk_bits(bits) if operand in "qk" else bits)


def _attention(model: nn.Module, name: str, bits: int) -> QuantAttention:
    """The attention ``name`` with its own, float projections and quantizers that are not calibrated."""
    family = find_family(model)
    site = next(site for site in family.sites(model).attentions if site.name == name)
    qkv: Any = model.get_submodule(site.qkv)
    proj: Any = model.get_submodule(site.proj)
    return QuantAttention(site, family.attention(model, name), qkv, proj, bits=bits, softmax="log_sqrt2").eval()


@contextlib.contextmanager
def swapped(model: nn.Module, replacements: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let ``replacements`` take the places of the modules of their names."""
    originals = {name: model.get_submodule(name) for name in replacements}
    for name, module in replacements.items():
        model.set_submodule(name, module)
    try:
        yield
    finally:
        for name, module in originals.items():
            model.set_submodule(name, module)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _is_whole(payload: Path) -> bool:
    """Whether an earlier run, which was killed, left a bundle that can be read."""
    with contextlib.suppress(OSError, SafetensorError), safe_open(payload, framework="pt"):
        return True
    return False


def _ranges_of(sites: Sequence[SearchSite]) -> str:
    """A hash of the ranges that a bundle for ``sites`` holds."""
    held = [(site.name, sorted({bits.activation for bits in site.choices})) for site in sites]
    return hashlib.sha256(repr(held).encode()).hexdigest()[:16]
