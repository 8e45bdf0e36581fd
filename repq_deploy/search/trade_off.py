"""Plots what bits buy: allocations at every half bit on average, and the same bits everywhere, against their size."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from repq_deploy.bits import BitWidths, SiteBits
from repq_deploy.calib_data import ImageSource, open_images
from repq_deploy.calibrate import calibrate
from repq_deploy.devices import on_device, predictor
from repq_deploy.evaluation import Target, check_data, evaluate
from repq_deploy.methods import Method
from repq_deploy.models import zoo
from repq_deploy.plots import Point, plot_against_size
from repq_deploy.search.allocation import Allocation, allocate, average_bits_budgets
from repq_deploy.search.search import Search
from repq_deploy.search.space import SearchSite, bit_widths
from repq_deploy.system.files import read_kept, write_atomically

__all__ = ["check_plot_data", "plot_trade_off"]

logger = logging.getLogger(__name__)


def check_plot_data(search: Search, data: str) -> None:
    """Refuse images that top-1 cannot be measured on: before the sweep, not after it.

    Raises:
        BadInput: no such images, no labels, or of other classes than the model's.
    """
    check_data([_target(search, lambda images: images)], open_images(data, demo_split="test"))


def plot_trade_off(
    search: Search,
    cost: Mapping[tuple[str, SiteBits], float],
    chosen: Allocation,
    path: Path,
    *,
    method: Method,
    data: str | None,
    work_dir: Path | None,
    on_point: Callable[[int, int], None],
) -> None:
    """Draw allocations of every half bit, the same bits everywhere, and the ``chosen`` one; see ``plots``.

    Args:
        cost: of each site at each of its choices, as ``allocation.objective`` gives it.
        data: labelled images to measure top-1 on. For every point the model is quantized anew, with the search's own
            images. None: top-1 is not measured.
        work_dir: the folder that keeps each top-1, so that a killed plot can resume.
        on_point: called with the number of points that are done, and the number of all.
    """
    sites = search.sites
    ranges = [budget.range(sites) for budget in average_bits_budgets(sites, 8)]
    averages = np.arange(max(least for least, _ in ranges), max(most for _, most in ranges) + 0.01, 0.5)
    searched = [allocate(sites, cost, average_bits_budgets(sites, average)).chosen for average in averages]
    common = set.intersection(*(set(site.choices) for site in sites if not site.activations_are_fixed))
    uniform = [{site.name: _at(site, bits) for site in sites} for bits in sorted(common, key=lambda bits: bits.weight)]
    source = None if data is None else open_images(data, demo_split="test")
    folder = None if work_dir is None else search.folder(work_dir)
    points: list[Point] = []
    for bits in (*searched, *uniform, chosen.chosen):
        on_point(len(points), len(searched) + len(uniform) + 1)
        megabytes = sum(site.weight_bits(bits[site.name]) for site in sites) / 8e6
        top1 = None if source is None else _top1(search, bits, method, source, folder)
        points.append(Point(megabytes, sum(cost[item] for item in bits.items()), top1))
    plot_against_size(points[: len(searched)], points[len(searched) : -1], points[-1], path)


def _at(site: SearchSite, bits: SiteBits) -> SiteBits:
    """``bits`` as a choice of ``site``."""
    if site.activations_are_fixed:
        return next(choice for choice in site.choices if choice.weight == bits.weight)
    return SiteBits(bits.activation, bits.activation) if site.role == "attention" else bits


def _top1(
    search: Search, bits: Mapping[str, SiteBits], method: Method, source: ImageSource, folder: Path | None
) -> float:
    """Top-1 of the model at these bits, in PyTorch; as it was kept, if it was."""
    widths = bit_widths(search.sites, dict(bits), preset=search.preset)
    digest = hashlib.sha256(f"{widths} {method} {search.seed} {source.sha256}".encode()).hexdigest()[:16]
    kept = None if folder is None else folder / f"top1-{digest}.json"
    if kept is not None and isinstance(found := read_kept(kept), float):
        return found
    top1 = _measured(search, widths, method, source)
    logger.info("%s: top-1 %.2f %%", widths, top1)
    if kept is not None:
        write_atomically(kept, json.dumps(top1).encode())
    return top1


def _measured(search: Search, widths: BitWidths, method: Method, source: ImageSource) -> float:
    model = zoo.create(search.spec, search.checkpoint, search.seed)
    quantized = calibrate(
        model, search.spec, search.images, bits=widths, method=method, seed=search.seed, device=search.device
    )
    with on_device(search.device, quantized):
        top1 = evaluate(_target(search, predictor(quantized, search.device)), source).target.top1
    assert top1 is not None  # noqa: S101 - evaluate refuses images without labels
    return top1


def _target(search: Search, predict: Callable[[np.ndarray], np.ndarray]) -> Target:
    classes = int(search.model.num_classes)  # type: ignore[arg-type]
    return Target(search.spec.name, "quantized model (PyTorch)", predict, search.preprocess, classes)
