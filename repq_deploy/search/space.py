"""What a bit allocation chooses between: sites, the bit-widths each may have, and what each costs.

Costs are exact counts for one image:

* a linear site of P weights that runs on T tokens (positions, for the patch embedding) does P T multiply-accumulates
  (MACs), each of which reads a weight and an activation;
* an attention's two products do N^2 C MACs each for each window of N tokens and C channels. Each MAC reads two
  activations; there are no weights. Where q and k keep more bits than the choice says (``AttentionSite.qk_bits``),
  half of the MACs count with those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from repq_deploy.bits import FIXED_ACTIVATIONS, MAX_BITS, MIN_BITS, PRESETS, BitWidths, SiteBits
from repq_deploy.errors import BadInput
from repq_deploy.hooks import hooks
from repq_deploy.models.sites import LinearSite, Role, Sites

__all__ = ["SearchSite", "bit_widths", "parse_choices", "search_sites"]

_INT4_BITS = 4


@dataclass(frozen=True)
class SearchSite:
    """A site with its choices, cheapest first; ``macs`` for one image.

    ``layers`` are the linears that have the chosen bits: one, or all that read one layer norm, because a fold into the
    norm gives them one input. Such a site is called after the first of them. An attention has none.
    ``least_qk_bits``: what an attention's q and k keep where the choice says fewer.
    """

    name: str
    role: Role | Literal["attention"]
    choices: tuple[SiteBits, ...]
    parameters: int
    macs: int
    layers: tuple[LinearSite, ...] = ()
    least_qk_bits: int = 0

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """The name and role of everything that has its bits."""
        return tuple((layer.name, layer.role) for layer in self.layers) or ((self.name, self.role),)

    @property
    def norm(self) -> str | None:
        """The layer norm that its layers read, as in ``LinearSite``."""
        return self.layers[0].norm if self.layers else None

    @property
    def activations_are_fixed(self) -> bool:
        """The patch embedding's input has 8 bits under every preset."""
        return self.role in FIXED_ACTIVATIONS

    def weight_bits(self, bits: SiteBits) -> int:
        """Bits of all its weights at the stated width."""
        return self.parameters * bits.weight

    def stored_bytes(self, bits: SiteBits, *, symmetric: bool) -> float:
        """Bytes of its weights in the exported file: INT4 holds symmetric codes of up to 4 bits, INT8 all others.

        Asymmetric codes minus their zero point need up to one bit more: 3-bit codes fit INT4, some 4-bit codes do not.
        """
        fits = bits.weight + (not symmetric) <= _INT4_BITS
        return self.parameters * (0.5 if fits else 1.0)

    def activation_bits(self, bits: SiteBits) -> int:
        """Bits of the activation that each MAC reads; 0 where they are fixed."""
        return 0 if self.activations_are_fixed else self._halves(self.qk_bits(bits.activation), bits.activation)

    def bit_operations(self, bits: SiteBits) -> int:
        """MACs times the bits of both factors."""
        if self.role == "attention":
            return self._halves(self.qk_bits(bits.activation) ** 2, bits.activation**2)
        return self.macs * bits.weight * bits.activation

    def qk_bits(self, bits: int) -> int:
        """The bits of an attention's q and k where ``bits`` are chosen."""
        return max(bits, self.least_qk_bits)

    def _halves(self, first: int, second: int) -> int:
        """The MACs, half of them times ``first``, half times ``second``."""
        return self.macs * (first + second) // 2


def parse_choices(text: str) -> tuple[SiteBits, ...]:
    """Read ``3,4,5,6,8`` (weight and activation alike) or ``w4a4,w4a8,w8a8``.

    Raises:
        BadInput: fewer than two different choices, malformed text, or a width outside 2 to 8.
    """
    choices = []
    for part in text.split(","):
        word = part.strip().lower()
        word = f"w{word}a{word}" if re.fullmatch(r"\d+", word) else word
        choices.append(BitWidths.parse(word).default)
    distinct = tuple(sorted(set(choices), key=lambda bits: (bits.weight * bits.activation, bits.weight)))
    if len(distinct) < 2:
        raise BadInput(f"choices {text!r}: expected at least two of {MIN_BITS} to {MAX_BITS}, for example 3,4,5,6,8")
    return distinct


def search_sites(
    model: nn.Module, sites: Sites, image: Tensor, *, choices: tuple[SiteBits, ...], preset: str
) -> tuple[SearchSite, ...]:
    """The sites of a float model that an allocation decides about, in the order of the forward pass.

    Under ``deploy`` patch embedding and head are not among them: they keep 8 bits. Under ``paper`` they are, the patch
    embedding with its weights only.

    Args:
        image: one normalized image [1, 3, H, W]; it is run to count.
    """
    counted = _count(model, sites, image)
    found = []
    for site in sites.linears:
        if site.role in PRESETS[preset].fixed_roles:
            continue
        layers = (site,) if site.norm is None else sites.readers(site.norm)
        if layers[0] is not site:  # the first stands for all
            continue
        own = choices
        if site.role in FIXED_ACTIVATIONS:
            own = tuple(SiteBits(weight, MAX_BITS) for weight in sorted({bits.weight for bits in choices}))
        parameters = sum(model.get_parameter(f"{layer.name}.weight").numel() for layer in layers)
        macs = sum(counted[layer.name] for layer in layers)
        found.append(SearchSite(site.name, site.role, own, parameters, macs, layers))
    widths = sorted({bits.activation for bits in choices})
    for attention in sites.attentions:
        own = tuple(SiteBits(width, width) for width in widths)
        macs, least = counted[attention.name], attention.qk_bits(0)
        found.append(SearchSite(attention.name, "attention", own, 0, macs, least_qk_bits=least))
    return tuple(sorted(found, key=lambda site: list(counted).index(site.name)))


@torch.no_grad()
def _count(model: nn.Module, sites: Sites, image: Tensor) -> dict[str, int]:
    """MACs of every site for one image, in the order in which the sites finish."""
    macs: dict[str, int] = {}

    def linear(name: str, layer: nn.Module, output: Tensor) -> None:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        macs[name] = weight.numel() * (output.numel() // len(weight))

    def products(name: str, output: Tensor) -> None:
        windows, tokens, width = output.shape  # of qkv: [windows, tokens, 3 channels]
        macs[name] = 2 * windows * tokens * tokens * (width // 3)

    taps = [
        model.get_submodule(site.name).register_forward_hook(lambda m, _, y, name=site.name: linear(name, m, y))
        for site in sites.linears
    ]
    taps += [
        model.get_submodule(site.qkv).register_forward_hook(lambda _m, _, y, name=site.name: products(name, y))
        for site in sites.attentions
    ]
    with hooks(taps):
        model(image)
    return macs


def bit_widths(sites: tuple[SearchSite, ...], chosen: dict[str, SiteBits], *, preset: str) -> BitWidths:
    """``chosen`` as ``BitWidths``: its most common bits are the default, and an override names each site that differs.

    A site whose name is also a role (``head``) comes first, as its override applies to all sites of that role. A
    distilled DeiT's ``head_dist`` is one of them and then needs an override of its own.
    """
    common = [chosen[site.name] for site in sites if not site.activations_are_fixed]
    default = max(sorted(set(common), key=str), key=common.count)
    widths = BitWidths(default, preset=preset)
    for site in sorted(sites, key=lambda site: site.name != site.role):
        wanted = chosen[site.name]
        for name, role in site.named:
            found = widths.of(name, role)
            if found.activation != wanted.activation or (site.parameters and found.weight != wanted.weight):
                widths = replace(widths, overrides=(*widths.overrides, (name, wanted)))
    return widths
