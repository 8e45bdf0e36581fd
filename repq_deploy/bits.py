"""Bit-widths: what ``w4a4,head=w8a8`` and a preset say about every site of a model."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import Any

from repq_deploy.errors import BadInput

__all__ = ["FIXED_ACTIVATIONS", "MAX_BITS", "PRESETS", "BitWidths", "Preset", "SiteBits", "smallest_activation_bits"]

MIN_BITS, MAX_BITS = 2, 8
_PATTERN = re.compile(r"w([0-9]{1,3})a([0-9]{1,3})")


@dataclass(frozen=True)
class Preset:
    """The sites of ``fixed_roles`` have 8 bits; ``symmetric`` says whether weights below 8 bits are."""

    fixed_roles: tuple[str, ...]
    symmetric: bool


#: ``deploy`` keeps patch embedding and head at 8 bit and weights symmetric (they fit INT4 and INT8 containers).
#: ``paper`` is what the papers quantize: everything at the stated bits but the patch embedding's input (8 bit),
#: weights asymmetric. Eight-bit weights are symmetric in both: the 256 codes must fit INT8 with zero point 0.
PRESETS = {"deploy": Preset(("patch_embed", "head"), symmetric=True), "paper": Preset((), symmetric=False)}

#: The roles whose input has 8 bits under every preset.
FIXED_ACTIVATIONS = ("patch_embed",)


@dataclass(frozen=True)
class SiteBits:
    """Bits of one site's weight and of its input."""

    weight: int
    activation: int

    def __str__(self) -> str:
        return f"w{self.weight}a{self.activation}"


@dataclass(frozen=True)
class BitWidths:
    """The bits of every site of a model: of each layer with weights, and of each attention.

    ``overrides`` holds (pattern, bits) pairs; a pattern is a site's role (``head``) or a shell pattern for its name
    (``blocks.0.*``). The last override that matches a site wins, also over the preset.
    """

    default: SiteBits
    overrides: tuple[tuple[str, SiteBits], ...] = ()
    preset: str = "deploy"

    @classmethod
    def parse(cls, text: str, *, preset: str = "deploy") -> BitWidths:
        """Read ``w6a6`` or ``w4a4,head=w8a8,blocks.0.*=w8a8``. Widths are 2 to 8.

        Raises:
            BadInput: malformed text, a width outside 2..8, or an unknown preset.
        """
        if preset not in PRESETS:
            raise BadInput(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
        first, *rest = (part.strip() for part in text.split(","))
        overrides = []
        for part in rest:
            pattern, equals, bits = part.partition("=")
            if not equals or not pattern:
                raise BadInput(f"bits {text!r}: {part!r} is not PATTERN=wXaY, for example head=w8a8")
            overrides.append((pattern, _site_bits(bits, text)))
        return cls(_site_bits(first, text), tuple(overrides), preset)

    def of(self, name: str, role: str) -> SiteBits:
        """Bits of the site ``name``, for example ``blocks.3.mlp.fc1``, that plays ``role``."""
        bits = self.default
        if role in PRESETS[self.preset].fixed_roles:
            bits = SiteBits(MAX_BITS, MAX_BITS)
        elif role in FIXED_ACTIVATIONS:
            bits = SiteBits(bits.weight, MAX_BITS)
        for pattern, override in self.overrides:
            if pattern == role or fnmatch.fnmatchcase(name, pattern):
                bits = override
        return bits

    def symmetric_weights(self, bits: int) -> bool:
        """Whether a weight of ``bits`` bits is quantized symmetrically."""
        return PRESETS[self.preset].symmetric or bits == MAX_BITS

    @property
    def narrowest_weight(self) -> int:
        """The fewest bits that any weight may have."""
        return min(bits.weight for bits in (self.default, *(bits for _, bits in self.overrides)))

    @property
    def smallest_activation_bits(self) -> int:
        """The fewest bits that any activation may have."""
        return min(bits.activation for bits in (self.default, *(bits for _, bits in self.overrides)))

    def unmatched(self, sites: list[tuple[str, str]]) -> list[str]:
        """The override patterns that match none of the (name, role) ``sites``: a user's typing errors."""
        return [
            pattern
            for pattern, _ in self.overrides
            if not any(pattern == role or fnmatch.fnmatchcase(name, pattern) for name, role in sites)
        ]

    def __str__(self) -> str:
        return ",".join([str(self.default), *(f"{pattern}={bits}" for pattern, bits in self.overrides)])

    def to_dict(self) -> dict[str, Any]:
        return {"bits": str(self), "preset": self.preset}


def smallest_activation_bits(text: str) -> int:
    """The fewest bits that ``w4a4,head=w8a8`` gives an activation; 8 for a float model, whose text is empty."""
    return BitWidths.parse(text).smallest_activation_bits if text else MAX_BITS


def _site_bits(text: str, whole: str) -> SiteBits:
    match = _PATTERN.fullmatch(text.lower())
    if match is None:
        raise BadInput(f"bits {whole[:80]!r}: {text[:40]!r} is not of the form wXaY, for example w6a6")
    weight, activation = int(match[1]), int(match[2])
    for what, bits in (("weight", weight), ("activation", activation)):
        if not MIN_BITS <= bits <= MAX_BITS:
            raise BadInput(f"bits {whole[:80]!r}: {what} width {bits} is outside {MIN_BITS} to {MAX_BITS}")
    return SiteBits(weight, activation)
