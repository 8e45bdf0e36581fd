"""The arguments with which a model record may build a timm model, and their bounds.

A record travels in files that others write. ``timm.create_model`` takes arguments that open files, reach the network or
allocate without end; a record may say sizes, and which of timm's own variants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["check_arguments", "largest"]

#: The largest value of each argument that is a size, or a tuple of sizes.
_SIZES = {
    "img_size": 4096,
    "patch_size": 256,
    "window_size": 256,
    "in_chans": 16,
    "num_classes": 1_000_000,
    "embed_dim": 16_384,
    "depth": 256,
    "depths": 256,
    "num_heads": 256,
    "reg_tokens": 256,
    "mlp_ratio": 64,
    "init_values": 100,
    "crop_pct": 1,
    "num_reg_tokens": 256,
    "rope_temperature": 1_000_000,
    "norm_eps": 1,
    "projection": 65_536,
}
_FLAGS = (
    *("class_token", "qkv_bias", "qk_norm", "no_embed_class", "dynamic_img_size"),
    *("pre_norm", "final_norm", "fc_norm"),
)
_CHOICES = {
    "global_pool": ("", "avg", "avgmax", "max", "token", "map"),
    "act_layer": ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu"),
    "head": ("token_and_patches",),
}
#: Parts of timm's configuration that preprocessing is read from; the numbers are of three channels.
_OVERLAY = ("mean", "std", "crop_pct", "num_classes", "crop_mode", "interpolation", "input_size")
_OVERLAY_CHOICES = {
    "crop_mode": ("center", "squash", "border"),
    "interpolation": ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
}


def largest(name: str) -> int:
    """The largest value of the argument ``name``, which is a size."""
    return _SIZES[name]


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse an argument that is not known, or out of bounds.

    Raises:
        ValueError: it names the argument.
    """
    for name, value in arguments.items():
        if name == "pretrained_cfg_overlay":
            _check_overlay(value)
        elif name in _SIZES:
            _check_size(name, value)
        elif name in _FLAGS:
            if not isinstance(value, bool):
                raise ValueError(f"model record: {name} is no bool")
        elif name not in _CHOICES or value not in _CHOICES[name]:
            raise ValueError(f"model record: argument {name[:40]!r} is not known, or not its value")


def _check_overlay(overlay: Any) -> None:
    if not isinstance(overlay, dict) or not overlay.keys() <= set(_OVERLAY):
        raise ValueError(f"model record: pretrained_cfg_overlay may hold {', '.join(_OVERLAY)} only")
    for name, value in overlay.items():
        if name in ("mean", "std", "input_size"):
            if not isinstance(value, list | tuple) or len(value) != 3 or not all(_is_number(one) for one in value):
                raise ValueError(f"model record: {name} is not three numbers")
            if name == "input_size":
                _check_size("img_size", value)
        elif name in _OVERLAY_CHOICES:
            if value not in _OVERLAY_CHOICES[name]:
                raise ValueError(f"model record: {name} is none of {', '.join(_OVERLAY_CHOICES[name])}")
        else:
            _check_size(name, value)


def _check_size(name: str, value: Any) -> None:
    values = value if isinstance(value, list | tuple) else [value]
    if not 0 < len(values) <= 8 or not all(_is_number(one) and 0 <= one <= _SIZES[name] for one in values):
        raise ValueError(f"model record: {name} is not between 0 and {_SIZES[name]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
