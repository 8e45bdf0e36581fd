"""The step that makes the channels behind gated MLPs' products more alike, before anything is quantized."""

from __future__ import annotations

from repq_deploy.calibration.run import BATCH, Calibration, refuse_scales
from repq_deploy.rewrites.balancing import balance_products, product_ranges

__all__ = ["balance"]


def balance(run: Calibration, *, power: float = 0.75, images: int = BATCH) -> None:
    """Balance what fc2 reads in gated MLPs, by the ranges of (at most so many) ``images``; others stay as they are.

    So does what is rotated while the model runs, which makes channels alike by itself.

    Args:
        power: of each channel's range, from 0 (nothing is done) to 1; see ``repq_deploy.rewrites.balancing``.
    """
    refuse_scales(run, "balance")
    if all(layer.rotation is not None for layer in run.model.behind_gates()):
        return
    ranges = product_ranges(run.float_model, run.model.sites, run.images[:images], batch=BATCH)
    ranges = {name: found for name, found in ranges.items() if run.model.model.get_submodule(name).rotation is None}
    for model in (run.model.model, run.float_model):
        balance_products(model, run.model.sites, ranges, power)
