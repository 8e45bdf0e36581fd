"""The step that spreads outliers over channels, before anything is quantized."""

from __future__ import annotations

from typing import Literal

from repq_deploy.calibration.run import Calibration, refuse_scales
from repq_deploy.rewrites.online import rotate_products_online, rotate_qk_online
from repq_deploy.rewrites.rotations import rotate_heads, rotate_residual_stream

__all__ = ["rotate"]


def rotate(run: Calibration, *, what: Literal["stream", "heads", "both"] = "both", online_below: int = 2) -> None:
    """Rotate the residual stream (where the model's form allows it), q and k, and v; see ``rewrites.rotations``.

    Args:
        what: is rotated by weights, at no cost.
        online_below: q, k and what fc2 reads in a gated MLP are rotated while the model runs if they have fewer bits
            than these, and weights cannot do it; see ``rewrites.online``. 2: none are.
    """
    refuse_scales(run, "rotate")
    for model in (run.model.model, run.float_model):
        if what in ("stream", "both"):
            rotate_residual_stream(model, run.model.sites, run.seed)
        if what in ("heads", "both"):
            rotate_heads(model, run.model.sites, run.seed)
    rotate_qk_online(run.model.attentions(), run.seed, below=online_below)
    rotate_products_online(run.model.behind_gates(), run.seed, below=online_below)
