"""A bit allocation from beginning to end (Mix-QViT): relevance, sensitivities, budgets, and the allocation."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from repq_deploy.bits import PRESETS, SiteBits
from repq_deploy.calib_data import Preprocess, load_sample
from repq_deploy.devices import CPU, on_device
from repq_deploy.errors import BadInput
from repq_deploy.models import zoo
from repq_deploy.models.checkpoints import CheckpointFile
from repq_deploy.models.families import find_family, find_sites
from repq_deploy.models.hub import Report
from repq_deploy.models.libraries.folder import ModelFolder
from repq_deploy.models.preprocessing import preprocess_of
from repq_deploy.models.sites import Sites
from repq_deploy.models.zoo import ModelSpec
from repq_deploy.records import decode
from repq_deploy.search.allocation import (
    Budget,
    allocate,
    average_bits_budgets,
    bit_operations_budget,
    latency_budget,
    size_budget,
)
from repq_deploy.search.latency import parse_milliseconds, read_latency_table
from repq_deploy.search.pool import one_thread
from repq_deploy.search.relevance import relevance_shares
from repq_deploy.search.sensitivity import result_folder, sensitivities
from repq_deploy.search.space import SearchSite, search_sites
from repq_deploy.system.files import read_kept, shortened, write_atomically

__all__ = ["RELEVANCE_IMAGES", "Limits", "Search", "open_search"]

#: How many images relevance is the mean of, at most. A ViT-S/14's shares by 32 images are within 1 % of those by 256.
RELEVANCE_IMAGES = 32


@dataclass(frozen=True)
class Limits:
    """The budgets that were asked for: average bits, MB, 10^9 bit operations, ms with the table of times."""

    average_bits: float | None = None
    megabytes: float | None = None
    giga_bit_operations: float | None = None
    milliseconds: float | None = None
    latency_table: Path | None = None

    @classmethod
    def parse(
        cls,
        average_bits: float | None,
        size: str | None,
        bit_operations: float | None,
        latency: str | None,
        table: Path | None,
    ) -> Limits:
        """Read ``size`` as in 20MB and ``latency`` as in 5ms.

        Raises:
            BadInput: a budget that is not a number, or not of its form.
        """
        for option, value in (("--avg-bits", average_bits), ("--max-bitops", bit_operations)):
            if value is not None and not math.isfinite(value):
                raise BadInput(f"{option} {value}: expected a finite number")
        megabytes = None if size is None else _megabytes(size)
        milliseconds = None if latency is None else parse_milliseconds(latency)
        return cls(average_bits, megabytes, bit_operations, milliseconds, table)


@dataclass(frozen=True)
class Search:
    """A float model with its calibration images, sites and budgets."""

    spec: ModelSpec
    checkpoint: CheckpointFile | ModelFolder | None
    seed: int
    model: nn.Module
    images: Tensor
    preprocess: Preprocess
    structure: Sites
    sites: tuple[SearchSite, ...]
    budgets: tuple[Budget, ...]
    preset: str
    device: torch.device = CPU

    def folder(self, work_dir: Path) -> Path:
        """Where ``work_dir`` keeps what is measured of this model."""
        return result_folder(work_dir, self.model, self.images, self.preset, self.device)

    def relevance(self, work_dir: Path | None, on_images: Callable[[int, int], None]) -> dict[str, float]:
        """Omega_l of every site, of all its layers together; kept in ``work_dir`` for each layer.

        ``on_images``: called with how many are done, and of how many.

        Raises:
            BadInput: what ``relevance_shares`` refuses.
        """
        kept = None if work_dir is None else self.folder(work_dir) / "relevance"
        if kept is not None and (found := read_kept(kept)) is not None:
            with suppress(ValueError, KeyError):  # damaged: measured again
                return self._of_sites(decode(dict[str, float], found, "relevance"))
        with one_thread(), on_device(self.device, self.model):
            try:
                images = self.images[:RELEVANCE_IMAGES]
                shares = relevance_shares(self.model, self.structure, images, on_images=on_images)
            except BadInput as error:
                raise BadInput(f"{error}; --tau 0 allocates by sensitivity alone") from error
        if kept is not None:
            write_atomically(kept, json.dumps(shares).encode())
        return self._of_sites(shares)

    def _of_sites(self, shares: Mapping[str, float]) -> dict[str, float]:
        return {site.name: sum(shares[name] for name, _ in site.named) for site in self.sites}

    def sensitivities(
        self,
        *,
        work_dir: Path | None,
        workers: int | None,
        ray: str | None,
        on_range: Callable[[int, int], None],
        on_result: Callable[[int, int], None],
    ) -> dict[tuple[str, SiteBits], float]:
        """S[l, b] of every site and choice, as ``sensitivity.sensitivities``."""
        return sensitivities(
            self.model,
            self.spec,
            self.images,
            self.sites,
            preset=self.preset,
            work_dir=work_dir,
            workers=workers or (0 if ray else 1),
            ray=ray,
            on_range=on_range,
            on_result=on_result,
            device=self.device,
        )


def open_search(
    spec: ModelSpec,
    checkpoint: CheckpointFile | ModelFolder | None,
    *,
    choices: tuple[SiteBits, ...],
    limits: Limits,
    preset: str,
    calib_data: str,
    num_calib: int,
    seed: int,
    device: torch.device = CPU,
    report: Report = lambda done, total: None,
) -> Search:
    """Build the model, load the images, and check the budgets, before anything takes long; ``report`` as in ``create``.

    Raises:
        BadInput: what ``zoo.create``, ``load_sample`` and the budgets refuse.
    """
    model = zoo.create(spec, checkpoint, seed, report=report)
    preprocess = preprocess_of(model)
    images = torch.from_numpy(load_sample(calib_data, preprocess, count=num_calib, seed=seed).pixels)
    structure = find_sites(model)
    sites = search_sites(model, structure, images[:1], choices=choices, preset=preset)
    allocated = {site.name for site in sites}
    everything = search_sites(model, structure, images[:1], choices=choices, preset="paper")
    fixed = [site for site in everything if site.name not in allocated]  # at 8 bits
    budgets: list[Budget] = []
    if limits.average_bits is not None:
        budgets += average_bits_budgets(sites, limits.average_bits)
    if limits.megabytes is not None:
        budgets.append(
            size_budget(
                sites,
                limits.megabytes,
                numbers=_stored_numbers(model),
                fixed_at_8=sum(site.parameters for site in fixed),
                rows=sum(_rows(model.get_submodule(site.name)) for site in structure.linears),
                symmetric=PRESETS[preset].symmetric,
            )
        )
    if limits.giga_bit_operations is not None:
        budgets.append(bit_operations_budget(limits.giga_bit_operations, fixed_at_8=sum(site.macs for site in fixed)))
    if limits.milliseconds is not None and limits.latency_table is not None:
        table = read_latency_table(limits.latency_table, sites)
        budgets.append(latency_budget(limits.milliseconds, table.times, fixed=table.fixed))
    # The least cost of all: what no allocation can keep is refused before the sweep, not after it.
    allocate(sites, {(site.name, bits): 0.0 for site in sites for bits in site.choices}, budgets)
    return Search(spec, checkpoint, seed, model, images, preprocess, structure, sites, tuple(budgets), preset, device)


def _rows(layer: nn.Module) -> int:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return len(weight)


def _stored_numbers(model: nn.Module) -> int:
    """How many numbers an export of ``model`` stores."""
    return sum(parameter.numel() for parameter in model.parameters()) + find_family(model).derived_numbers(model)


def _megabytes(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)b\s*", text.lower())
    if match is None or not 0 < float(match[1]) < math.inf:
        raise BadInput(f"--max-size {shortened(text)!r}: expected a size such as 20MB")
    return float(match[1]) * {"": 1e-6, "k": 1e-3, "m": 1.0, "g": 1e3}[match[2]]
