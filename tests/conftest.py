"""Tiny models of both families, with layer norms as uneven between channels as trained ones are."""

from __future__ import annotations

import functools

import onnx
import pytest
import torch
from timm.layers import LayerScale
from torch import Tensor, nn

from repq_deploy.bits import BitWidths
from repq_deploy.calibrate import quantize
from repq_deploy.export import canonical_onnx
from repq_deploy.models import ModelSpec, create
from repq_deploy.quantized import QuantizedModel

SPECS = {
    "vit": ModelSpec(
        "tiny-vit",
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5},
        checkpoint_sha256=None,
        weights="random",
    ),
    "dinov2": ModelSpec(
        "tiny-dinov2",
        "vit_small_patch14_dinov2",
        {"img_size": 28, "patch_size": 7, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5},
        checkpoint_sha256=None,
        weights="random",
    ),
    "average": ModelSpec(
        "tiny-average",
        "vit_tiny_patch16_224",
        {
            "img_size": 32,
            "patch_size": 8,
            "embed_dim": 40,
            "depth": 1,
            "num_heads": 2,
            "num_classes": 5,
            "global_pool": "avg",
            "class_token": False,
            "qkv_bias": False,
        },
        checkpoint_sha256=None,
        weights="random",
    ),
    "distilled": ModelSpec(  # two tokens and two heads
        "tiny-distilled",
        "deit_tiny_distilled_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 5},
        checkpoint_sha256=None,
        weights="random",
    ),
    "swin": ModelSpec(
        "tiny-swin",
        "swin_tiny_patch4_window7_224",
        {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5},
        checkpoint_sha256=None,
        weights="random",
    ),
}


def float_model(family: str) -> nn.Module:
    """A tiny model whose layer norms have channels up to some thirty times apart, and whose blocks count."""
    model = create(SPECS[family], seed=1)
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            spread = torch.randn(module.weight.shape, generator=generator)
            module.weight.data = torch.exp(spread)
            module.bias.data = torch.exp(spread) * torch.randn(spread.shape, generator=generator)
        elif isinstance(module, LayerScale):  # timm begins with 1e-5, which is to leave the blocks out
            module.gamma.data = 0.3 + torch.rand(module.gamma.shape, generator=generator)
    return model


def images_for(family: str, count: int = 4) -> Tensor:
    size = SPECS[family].kwargs["img_size"]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def quantized_model(
    family: str, bits: str = "w4a4", *, preset: str = "deploy", method: str = "repq", softmax: str | None = None
) -> QuantizedModel:
    widths = BitWidths.parse(bits, preset=preset)
    return quantize(
        float_model(family), SPECS[family], images_for(family), bits=widths, method=method, attention=softmax
    )


@functools.cache
def _exported(family: str, bits: str, options: tuple[tuple[str, str], ...]) -> bytes:
    shape = images_for(family).shape[1:]
    return canonical_onnx(quantized_model(family, bits, **dict(options)), tuple(shape)).SerializeToString()  # type: ignore[arg-type]


def exported(family: str, bits: str = "w4a4", **options: str) -> onnx.ModelProto:
    """The canonical graph of ``quantized_model``: traced once a session, as that takes seconds; a copy each time."""
    return onnx.load_from_string(_exported(family, bits, tuple(sorted(options.items()))))


@pytest.fixture(params=sorted(SPECS))
def family(request: pytest.FixtureRequest) -> str:
    return request.param
