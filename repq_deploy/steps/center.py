"""The step that takes the means out of attention's keys and values, before anything is quantized."""

from __future__ import annotations

from repq_deploy.calibration.run import BATCH, Calibration, refuse_scales
from repq_deploy.rewrites.centering import center_keys_and_values, qkv_means

__all__ = ["center"]


def center(run: Calibration, *, images: int = BATCH) -> None:
    """Center k and v on the mean over (at most so many) ``images``; see ``repq_deploy.rewrites.centering``."""
    refuse_scales(run, "center")
    means = qkv_means(run.float_model, run.model.sites, run.images[:images], batch=BATCH)
    for model in (run.model.model, run.float_model):
        center_keys_and_values(model, run.model.sites, means)
