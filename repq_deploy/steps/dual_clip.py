"""RepQuant's learnable dual clipping (arXiv 2402.05628) of post-norm activations, before the fold. Our reconstruction.

The paper's losses and settings could not be read. Here straight-through gradients move both ends of each channel's
range, so that the linear layer behind the norm keeps its output. A channel's outliers are cut off where that costs the
product least.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from repq_deploy.calibration.run import Calibration, captured_inputs, channel_wise, require_scales, walk
from repq_deploy.errors import BadInput
from repq_deploy.quant.layers import QuantLinear
from repq_deploy.quant.quantizers import UniformParameters
from repq_deploy.rewrites.folds import uniform_input

__all__ = ["dual_clip"]

#: Rows (tokens of images) that are looked at in one step.
ROWS = 1024


def dual_clip(run: Calibration, *, steps: int = 150, rate: float = 5e-3, images: int = 256) -> None:
    """Move the clipping points of every channel-wise input quantizer; a model without foldable norms has none.

    Args:
        steps: how many steps Adam takes for each layer.
        rate: its learning rate, in units of half a channel's range.
        images: how many images are used, at most; memory holds a layer's inputs for all of them.
    """
    require_scales(run, "dual_clip", weights=False)
    behind_norms = [layer for site, layer, _ in run.model.linears() if site.norm is not None]
    if behind_norms and not any(map(channel_wise, behind_norms)):
        raise BadInput(
            "step dual_clip: no layer has a scale for each channel; list it before fold, after ranges with them"
        )
    for position in walk(run, "dual clipping", images=images):
        for site, layer in position.linears(run.model):
            if site.norm is None or not channel_wise(layer):
                continue
            layers = run.model.beside(site)
            if layer is not layers[0]:
                continue  # it was clipped with the first that reads its norm
            batches = (captured_inputs(position.stage, x, [layer])[0] for x, _ in position.batches())
            x = torch.cat([batch.flatten(0, -2) for batch in batches])
            # Of each layer its own, so that a calibration that goes on after it was killed draws the same rows.
            seed = ((run.seed << 32) + zlib.crc32(site.name.encode())) % 2**64  # what torch takes
            generator = torch.Generator().manual_seed(seed)
            with torch.enable_grad():
                clipped = _clip(layers, x, steps, rate, generator)
            for one in layers:
                one.input_quantizer.adopt(clipped)


def _clip(
    layers: Sequence[QuantLinear], x: Tensor, steps: int, rate: float, generator: torch.Generator
) -> UniformParameters:
    """The range of each channel of ``x`` [rows, channels] with the least error of the outputs of the layers."""
    found = uniform_input(layers[0])
    weight = torch.cat([layer.weight for layer in layers])
    last = 2**found.bits - 1
    low, high = UniformParameters(found.scale, found.zero_point).ends(found.bits)
    centre, half = (low + high) / 2, (high - low) / 2
    ends = nn.Parameter(x.new_ones(2, x.shape[1]))
    optimizer = torch.optim.Adam([ends], lr=rate)
    best, best_error = _parameters(centre, half, ends.detach(), last), float("inf")
    for _ in range(steps):
        rows = x[torch.randint(len(x), (ROWS,), generator=generator).to(x.device)]
        optimizer.zero_grad()
        grid = _parameters(centre, half, ends, last)
        codes = torch.clamp(_round(rows / grid.scale) + grid.zero_point, 0, last) - grid.zero_point
        error = ((codes * grid.scale - rows) @ weight.T).square().mean()
        error.backward()
        optimizer.step()
        with torch.no_grad():
            ends.clamp_(0.1, 1.2)
    # Straight-through gradients need not lead downhill: keep what is better on all rows.
    for candidate in (ends.detach(), torch.ones_like(ends)):
        with torch.no_grad():
            grid = _parameters(centre, half, candidate, last)
            final = sum(_squared_error(weight, grid, rows, last) for rows in x.split(ROWS))
        if final < best_error:
            best, best_error = grid, final
    return best


def _squared_error(weight: Tensor, grid: UniformParameters, rows: Tensor, last: int) -> float:
    codes = torch.clamp(torch.round(rows / grid.scale), -grid.zero_point, last - grid.zero_point)
    return float(((codes * grid.scale - rows) @ weight.T).square().sum())


def _parameters(centre: Tensor, half: Tensor, ends: Tensor, last: int) -> UniformParameters:
    low, high = centre - ends[0] * half, centre + ends[1] * half
    scale = (high - low) / last
    return UniformParameters(scale, _round(-low / scale))


def _round(x: Tensor) -> Tensor:
    """Rounding whose gradient is straight through."""
    return x + (torch.round(x) - x).detach()
