"""repq-deploy: from a Vision Transformer to a low-bit engine that provably computes what was calibrated.

::

    import repq_deploy as rq

    model = rq.load_model("deit_s")
    images = rq.load_images("images/train", model, count=128)
    quantized = rq.quantize(model, images, bits="w6a6")
    rq.export_onnx(quantized, "deit_s.onnx", images)
    rq.build_engine("deit_s.onnx")

Names are imported on first use: what runs an engine needs no torch, which what calibrates and exports does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repq_deploy.api import export_onnx as export_onnx
    from repq_deploy.api import load_images as load_images
    from repq_deploy.api import quantize as quantize
    from repq_deploy.bits import BitWidths as BitWidths
    from repq_deploy.calib_data.preprocess import Preprocess as Preprocess
    from repq_deploy.engines.api import BuildSettings as BuildSettings
    from repq_deploy.engines.api import build_engine as build_engine
    from repq_deploy.engines.runner import open_engine as open_engine
    from repq_deploy.models.loading import FloatModel as FloatModel
    from repq_deploy.models.loading import load_model as load_model
    from repq_deploy.models.taps import Features as Features
    from repq_deploy.quant.saved import load as load_quantized
    from repq_deploy.quant.saved import save as save_quantized
    from repq_deploy.rewrites.taps import fold_taps as fold_taps

__version__ = "0.2.0"

#: Where each name comes from, and what it is called there.
_DOOR = {
    "BitWidths": ("bits", "BitWidths"),
    "Features": ("models.taps", "Features"),
    "FloatModel": ("models.loading", "FloatModel"),
    "Preprocess": ("calib_data.preprocess", "Preprocess"),
    "BuildSettings": ("engines.api", "BuildSettings"),
    "build_engine": ("engines.api", "build_engine"),
    "export_onnx": ("api", "export_onnx"),
    "fold_taps": ("rewrites.taps", "fold_taps"),
    "load_images": ("api", "load_images"),
    "load_model": ("models.loading", "load_model"),
    "load_quantized": ("quant.saved", "load"),
    "open_engine": ("engines.runner", "open_engine"),
    "quantize": ("api", "quantize"),
    "save_quantized": ("quant.saved", "save"),
}

__all__ = [
    "BitWidths",
    "BuildSettings",
    "Features",
    "FloatModel",
    "Preprocess",
    "build_engine",
    "export_onnx",
    "fold_taps",
    "load_images",
    "load_model",
    "load_quantized",
    "open_engine",
    "quantize",
    "save_quantized",
]


def __getattr__(name: str) -> Any:
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own = _DOOR[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), own)


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOOR})
