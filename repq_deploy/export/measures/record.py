"""What export measured of each quantizer on calibration images, as a canonical file records it under ``repq.sites``.

The figures are for a reader (``repq-report``): nothing is computed from them. Every engine's manifest carries them on,
as it does all metadata. They are rounded to four digits and written as compact JSON, about 100 bytes a quantizer.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from repq_deploy.export.names import SITES
from repq_deploy.records import decode, parse_json

__all__ = ["MAX_DB", "NOTHING_MEASURED", "SiteMeasure", "SiteMeasures", "Spread", "recorded_measures"]

#: Of an error of zero, which JSON cannot hold as infinity.
MAX_DB = 200.0
#: The widths of channels that a spread keeps: the narrowest, the three quartiles, the widest.
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Bounds of what is read: a model of 256 blocks has some 4000 quantizers.
_MOST_SITES, _MOST_BYTES, _LONGEST_NAME = 20_000, 2**22, 200
_DIGITS = 4


@dataclass(frozen=True)
class Spread:
    """The values of a tensor: the smallest and the largest, and how wide its channels' own ranges are.

    Attributes:
        low, high: over all channels.
        widths: largest less smallest value of one channel: the narrowest channel, the quartiles of all, the widest.
            Empty where channels were not looked at.
    """

    low: float
    high: float
    widths: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        if self.widths and (len(self.widths) != len(QUANTILES) or list(self.widths) != sorted(self.widths)):
            raise ValueError(f"widths are {len(self.widths)} numbers, expected {len(QUANTILES)} in rising order")
        if self.widths and self.widths[0] < 0:
            raise ValueError(f"a width is {self.widths[0]:g}, below 0")


@dataclass(frozen=True)
class SiteMeasure:
    """One quantizer.

    Attributes:
        bits: 2 to 8.
        kind: "uniform", "log2", "log_sqrt2", or a curve's name.
        db: the signal-to-quantization-noise ratio: the mean square of what the quantizer was given over that of its
            error, in dB, -200 to 200. Of a weight that calibration rounded: what it became, corrections such as ridge
            regression and GPTQ included, against what it was; None where that is not known.
        seen: what the quantizer was given; None for weights.
        clipped: the share of values that lie beyond the ends of its range by more than half a step, 0 to 1; None for
            weights and for quantizers that are not uniform.
        before: what it would have been given without the fold into the layer norm; None where nothing was folded.
    """

    bits: int
    kind: str
    db: float | None
    seen: Spread | None = None
    clipped: float | None = None
    before: Spread | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8 or len(self.kind) > _LONGEST_NAME:
            raise ValueError(f"bits are {self.bits}, expected 2 to 8")
        if self.db is not None and not -MAX_DB <= self.db <= MAX_DB:
            raise ValueError(f"db is {self.db:g}, expected -{MAX_DB:g} to {MAX_DB:g}")
        if self.clipped is not None and not 0 <= self.clipped <= 1:
            raise ValueError(f"clipped is {self.clipped:g}, expected 0 to 1")


@dataclass(frozen=True)
class SiteMeasures:
    """All quantizers of a file.

    Attributes:
        images: how many calibration images were looked at.
        float_bytes: the size of the model's parameters in float32.
        codes, different, unexplained: the proof of the export: codes compared between PyTorch and ONNX Runtime, those
            that differ, and those among them that are no rounding ties.
        sites: the quantizers by name, as in the graph.
    """

    images: int
    float_bytes: int
    codes: int
    different: int
    unexplained: int
    sites: dict[str, SiteMeasure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = (self.images, self.float_bytes, self.unexplained, self.different - self.unexplained)
        if min(*counts, self.codes - self.different) < 0:
            raise ValueError("its counts contradict each other")
        if len(self.sites) > _MOST_SITES or any(len(name) > _LONGEST_NAME for name in self.sites):
            raise ValueError(f"more than {_MOST_SITES} sites, or a name of more than {_LONGEST_NAME} characters")

    def entry(self) -> dict[str, str]:
        """The metadata of a file."""
        return {SITES: json.dumps(_compact(dataclasses.asdict(self)), separators=(",", ":"), allow_nan=False)}


NOTHING_MEASURED = SiteMeasures(0, 0, 0, 0, 0)


def recorded_measures(metadata: Mapping[str, str]) -> SiteMeasures | None:
    """The inverse of ``SiteMeasures.entry``; None of a file that records none.

    Raises:
        ValueError: the record is damaged; it says where.
    """
    text = metadata.get(SITES)
    if text is None:
        return None
    if len(text) > _MOST_BYTES:
        raise ValueError(f"{SITES} has {len(text)} characters, more than {_MOST_BYTES}")
    found: SiteMeasures = decode(SiteMeasures, parse_json(text), SITES)
    return found


def _compact(value: Any) -> Any:
    """Without what is None or empty, which are the defaults, and with numbers of few digits."""
    if isinstance(value, dict):
        return {key: _compact(item) for key, item in value.items() if item not in (None, ()) or key == "db"}
    if isinstance(value, tuple):
        return [_compact(item) for item in value]
    return _rounded(value) if isinstance(value, float) else value


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else math.copysign(MAX_DB, value)
