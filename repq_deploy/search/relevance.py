"""Layer-wise relevance propagation (LRP): how much of a class's logit passes through each site of a float model.

Relevance starts as the logit at the output and is handed back, operation by operation, to the image, by the rules of
``repq_deploy.search.relevance_rules``. Each hands on exactly what it received, so the relevance at every block's input
sums to the logit. The class token and register tokens are no function of the image; what reaches them stops there,
before the first block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from repq_deploy.devices import device_of
from repq_deploy.errors import BadInput
from repq_deploy.hooks import hooks
from repq_deploy.models.families import task_of
from repq_deploy.models.sites import Sites
from repq_deploy.outputs import joined
from repq_deploy.search.relevance_rules import Rules

__all__ = ["relevance", "relevance_shares"]

_BATCH = 8


class _Tap(torch.autograd.Function):
    """The identity; ``take`` sees the relevance that passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, take: Callable[[Tensor], None]) -> Tensor:
        ctx.take = take
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.take(grads[0])
        return grads[0], None


def relevance(
    model: nn.Module,
    images: Tensor,
    modules: Sequence[str],
    *,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Tensor], Tensor]:
    """The relevance that enters each of ``modules`` for the predicted class of each image.

    Args:
        model: a float model in evaluation mode; left as it was.
        images: normalized [N, 3, H, W]; batches of them go to the model's device.
        modules: names of modules whose first input has the images along its first axis, or images times windows.
        on_images: called with (done, all) after each batch of images.

    Returns:
        Module name to relevance [N], summed over the module's input, and the logits [N] that it started as.

    Raises:
        BadInput: the model computes something that has no rule.
    """
    device = device_of(model)
    found: dict[str, Tensor] = {}
    logits_of = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH].detach().to(device, copy=True).requires_grad_()
        parts: dict[str, Tensor] = {}
        with _constant_parameters(model), torch.enable_grad():
            with _tapped(model, modules, parts, len(batch)), Rules():
                logits = joined(model(batch))
            chosen = task_of(model).decisive(logits)
            if chosen is None:
                raise BadInput("relevance: this model's outputs decide nothing; search with --tau 0")
            chosen_logits = logits.gather(1, chosen[:, None])[:, 0]
            torch.autograd.grad(
                logits, batch, torch.zeros_like(logits).scatter_(1, chosen[:, None], 1.0) * logits.detach()
            )
        logits_of.append(chosen_logits.detach())
        for name, part in parts.items():
            found[name] = torch.cat([found[name], part]) if name in found else part
        on_images(min(start + _BATCH, len(images)), len(images))
    return found, torch.cat(logits_of)


def relevance_shares(
    model: nn.Module,
    sites: Sites,
    images: Tensor,
    *,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """The share Omega_l of every linear and attention site: the part of the logit that passes through the site, divided
    by the sum over all sites.

    An image's relevance is divided by its logit before the mean over images, so that each image counts the same. What
    passes through an attention's products is what enters its output projection. As relevance is conserved, sites in a
    row (qkv, the products and proj; fc1 and fc2) have equal shares; only branches differ.

    Raises:
        BadInput: as ``relevance``, or all logits are zero.
    """
    entrances = {site.name: site.name for site in sites.linears}
    entrances |= {site.name: site.proj for site in sites.attentions}
    found, logits = relevance(model, images, sorted(set(entrances.values())), on_images=on_images)
    # Every relevance of an image has the sign of its logit; a logit of zero has none to share.
    used = logits != 0
    if not used.any():
        raise BadInput("relevance: the model's logits are all zero, expected a trained head")
    parts = {name: float((found[module][used] / logits[used]).double().mean()) for name, module in entrances.items()}
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items()}


@contextmanager
def _constant_parameters(model: nn.Module) -> Iterator[None]:
    """Let gradients, and so relevance, be of the image alone."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


@contextmanager
def _tapped(model: nn.Module, modules: Sequence[str], found: dict[str, Tensor], count: int) -> Iterator[None]:
    def tap(name: str) -> Callable[..., Any]:
        def take(received: Tensor) -> None:
            found[name] = received.reshape(count, -1).sum(dim=1)

        return lambda _module, inputs: (_Tap.apply(inputs[0], take), *inputs[1:])

    with hooks(model.get_submodule(name).register_forward_pre_hook(tap(name)) for name in modules):
        yield
