"""Measured time of each site at each of its bits, as a JSON file, for a latency budget.

::

    {"fixed_ms": 0.41,
     "sites": {"blocks.0.attn.qkv": {"w4a4": 0.021, "w8a8": 0.034}, "blocks.0.attn": {"a4": 0.012, "a8": 0.015}}}

``fixed_ms`` is the time of everything else. All times are of one batch on one machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repq_deploy.bits import SiteBits
from repq_deploy.errors import BadInput
from repq_deploy.records import parse_json
from repq_deploy.search.space import SearchSite
from repq_deploy.system.files import existing_file, shortened

__all__ = ["LatencyTable", "parse_milliseconds", "read_latency_table"]


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of each site at each of its choices, and of everything else."""

    times: dict[str, dict[SiteBits, float]]
    fixed: float


def parse_milliseconds(text: str) -> float:
    """Read ``5ms``, ``5`` or ``0.005s`` as milliseconds.

    Raises:
        BadInput: anything else, or a time that is not positive.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e-?\d+)?)\s*(ms|s|us)?\s*", text)
    try:
        value = float(match[1]) * {"s": 1e3, "us": 1e-3}.get(match[2], 1.0) if match else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise BadInput(f"--max-latency {shortened(text)!r}: expected a positive time such as 5ms")
    return value


def read_latency_table(path: Path, sites: Sequence[SearchSite]) -> LatencyTable:
    """Read the times of ``sites``; a table may hold more.

    Raises:
        BadInput: no such file, not JSON, a site or a choice that is missing, or a time that is no positive number.
    """
    try:
        content: Any = parse_json(existing_file(path, "latency table").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"latency table {path}: not JSON: {error}") from error
    table = content.get("sites") if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise BadInput(f'latency table {path}: expected {{"fixed_ms": 0.4, "sites": {{NAME: {{"w4a4": 0.02}}}}}}')
    times: dict[str, dict[SiteBits, float]] = {}
    for site in sites:
        row = table.get(site.name)
        if not isinstance(row, dict):
            raise BadInput(
                f"latency table {path}: no times of site {site.name}; --dry-run lists every site and bits needed"
            )
        times[site.name] = {bits: _time(path, site, bits, row) for bits in site.choices}
    return LatencyTable(times, _number(path, "fixed_ms", content.get("fixed_ms", 0.0)))


def _time(path: Path, site: SearchSite, bits: SiteBits, row: dict[str, Any]) -> float:
    key = f"a{bits.activation}" if site.role == "attention" else str(bits)
    if key not in row:
        raise BadInput(f"latency table {path}: {site.name} has no time at {key}; found {', '.join(row) or 'none'}")
    return _number(path, f"{site.name} at {key}", row[key])


def _number(path: Path, what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise BadInput(f"latency table {path}: {what} is {value!r}, expected milliseconds")
    return float(value)
