"""Calibration images made from the model alone, after PSAQ-ViT (Li et al., ECCV 2022): our reconstruction.

Noise is optimized until the model treats it as it treats images. In a trained vision transformer an image's patches
come out of attention unlike each other, where noise gives patches that are all alike. The loss is

    L = - sum over attention layers of H(s)  +  CE(logits, class)  +  0.05 TV(image)

with H(s) the differential entropy of the density of s, the cosine similarities between the patches' vectors that leave
the layer (estimated with a Gaussian kernel), CE the cross-entropy with a class drawn at random (left out of a model
without classes), and TV the mean absolute difference of neighbouring pixels. The paper's choice of foreground patches
in its second stage, and its learning rate schedule, are not taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from repq_deploy.hooks import hooks
from repq_deploy.models.families import find_sites
from repq_deploy.outputs import joined

__all__ = ["synthetic_images"]

STEPS = 300
LEARNING_RATE = 0.2
TV_WEIGHT = 0.05
#: Images that are optimized together.
TOGETHER = 32
#: The points of [-1, 1] at which the density is estimated, and the kernel's width.
_POINTS = 41
_WIDTH = 0.05
#: Patches of each layer that are compared with each other, at most.
_PATCHES = 64


def synthetic_images(
    model: nn.Module,
    shape: tuple[int, int, int],
    count: int,
    *,
    classes: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    steps: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Make ``count`` images.

    Args:
        model: the float model, of a supported family; its weights are left as they are.
        shape: channels, height and width of its input.
        classes: how many outputs are classes, 0 for none.
        steps: of the optimizer, for each 32 images; default: 300.
        seed: of the noise that is begun with, and of the classes.
        report: called with the steps that are done, and all there are.

    Returns:
        float32 [count, channels, height, width] on the CPU, normalized as the model's input.
    """
    where = torch.device(device)
    layers = [model.get_submodule(site.name) for site in find_sites(model).attentions]
    random = torch.Generator().manual_seed(seed)
    model = model.to(where).eval()
    steps = STEPS if steps is None else steps
    done, total, made = 0, steps * -(-count // TOGETHER), []
    for start in range(0, count, TOGETHER):
        size = min(TOGETHER, count - start)
        images = torch.randn((size, *shape), generator=random).to(where).requires_grad_()
        wanted = torch.randint(max(classes, 1), (size,), generator=random).to(where)
        optimizer = torch.optim.Adam([images], lr=LEARNING_RATE, betas=(0.5, 0.9))
        for _ in range(steps):
            entropies: list[Tensor] = []
            with hooks(layer.register_forward_hook(_entropy_into(entropies)) for layer in layers):
                logits = joined(model(images))
            loss = TV_WEIGHT * _variation(images) - torch.stack(entropies).sum()
            if classes:
                loss = loss + nn.functional.cross_entropy(logits, wanted)
            (images.grad,) = torch.autograd.grad(loss, [images])
            optimizer.step()
            done += 1
            report(done, total)
        made.append(images.detach().cpu())
    model.to("cpu")
    return torch.cat(made)


def _variation(images: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels."""
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()


def _entropy_into(entropies: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    return lambda module, inputs, output: entropies.append(_entropy(output))


def _entropy(tokens: Tensor) -> Tensor:
    """The mean over images of H = - integral of f log f, f the density of similarities, for tokens [B, N, C]."""
    vectors = nn.functional.normalize(tokens.flatten(0, -3)[:, -_PATCHES:], dim=-1)
    similar = (vectors @ vectors.transpose(1, 2)).flatten(1)  # [B, N * N]
    points = torch.linspace(-1, 1, _POINTS, device=tokens.device)
    kernel = torch.exp(-((points[:, None] - similar[:, None, :]) ** 2) / (2 * _WIDTH**2))
    density = kernel.mean(-1) / (_WIDTH * (2 * torch.pi) ** 0.5)  # [B, points]
    return torch.trapezoid(-density * torch.log(density + 1e-6), points).mean()
