"""The step that spreads outliers over channels, before anything is quantized."""

from __future__ import annotations

from typing import Literal

from repq_deploy.calibration.run import Calibration, refuse_scales
from repq_deploy.rewrites.rotations import rotate_heads, rotate_residual_stream

__all__ = ["rotate"]


def rotate(run: Calibration, *, what: Literal["stream", "heads", "both"] = "both") -> None:
    """Rotate the residual stream (where the model's form allows it), q and k, and v; see ``rewrites.rotations``."""
    refuse_scales(run, "rotate")
    for model in (run.model.model, run.float_model):
        if what in ("stream", "both"):
            rotate_residual_stream(model, run.model.sites, run.seed)
        if what in ("heads", "both"):
            rotate_heads(model, run.model.sites, run.seed)
