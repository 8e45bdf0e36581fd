"""Hugging Face's ``preprocessor_config.json`` as the part of timm's configuration that says the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from repq_deploy.errors import BadInput

__all__ = ["USUAL", "overlay_of"]

#: PIL's numbers of its ways to resize.
_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
#: Where a single number means the shorter side, not both.
_SHORTER = ("CLIP", "Bit", "DINOv2", "Dinov2")
#: What most models have that say nothing.
USUAL = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 1.0, "crop_mode": "squash"}


def overlay_of(data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """What timm's configuration calls mean, std, crop_pct, crop_mode and interpolation; and height and width in pixels
    of what comes out, None where the file does not say.

    Raises:
        BadInput: a value that makes no sense; ``where`` names it.
    """
    try:
        resized, keeps = _resized(data)
        size = _pair(data.get("crop_size")) if data.get("do_center_crop") else None
        # Pixels times a factor, less mean, by std, all in the units of [0, 1].
        factor = 255 * float(data.get("rescale_factor") or 1 / 255) if data.get("do_rescale", True) else 255.0
        mean, std = _moments(data)
        resample = data.get("resample", 2)
        found = {
            "mean": [float(value) / factor for value in mean],
            "std": [float(value) / factor for value in std],
            "interpolation": _RESAMPLE[int(2 if resample is None else resample)],
            "crop_pct": _crop_pct((size or resized or (1,))[0], resized[0]) if resized and size else 1.0,
            "crop_mode": "center" if keeps else "squash",
        }
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, AttributeError, OverflowError) as error:
        raise BadInput(f"{where}: not an image processor's configuration ({type(error).__name__}: {error})") from error
    return found, size or (None if keeps and resized is None else resized)


def _moments(data: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    if not data.get("do_normalize", True):
        return [0.0] * 3, [1.0] * 3
    return data.get("image_mean") or [0.5] * 3, data.get("image_std") or [0.5] * 3


def _resized(data: Mapping[str, Any]) -> tuple[tuple[int, int] | None, bool]:
    """Height and width that images are resized to, and whether that keeps their proportions."""
    size = data.get("size")
    if not data.get("do_resize", True) or size is None:
        return None, False
    if isinstance(size, dict):
        if "shortest_edge" in size:
            return (int(size["shortest_edge"]),) * 2, True
        return (int(size["height"]), int(size["width"])), False
    kind = str(data.get("image_processor_type") or data.get("feature_extractor_type") or "")
    return _pair(size), isinstance(size, int) and kind.startswith(_SHORTER)


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    first, second = (size, size) if isinstance(size, int) else size
    return int(first), int(second)


def _crop_pct(cropped: int, resized: int) -> float:
    """The share of the resized side that is kept, for which ``Preprocess`` finds exactly that side again."""
    if resized < cropped:
        raise ValueError(f"crops {cropped} pixels of {resized}")
    found = cropped / resized
    while math.floor(cropped / found) < resized:
        found = math.nextafter(found, 0)
    return found
