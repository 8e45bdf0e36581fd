"""Tiny models of both families, with layer norms as uneven between channels as trained ones are."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch
from timm.layers import LayerScale
from torch import Tensor, nn

from repq_deploy.bits import BitWidths
from repq_deploy.calibrate import calibrate
from repq_deploy.engines.backends import backend_named
from repq_deploy.export.canonical import canonical_onnx, write_canonical
from repq_deploy.export.lowering import Lowering, lower
from repq_deploy.export.passes.base import PassReport
from repq_deploy.models.zoo import ModelSpec, create
from repq_deploy.quant.model import QuantizedModel

#: The folder of what a session has exported, for all of its processes.
_CACHE = "REPQ_TESTS_EXPORTED"


def pytest_configure(config: pytest.Config) -> None:
    if _CACHE not in os.environ:  # otherwise this is a worker of a session that has set it
        os.environ[_CACHE] = tempfile.mkdtemp(prefix="repq-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(_CACHE)))


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
    return calibrate(
        float_model(family), SPECS[family], images_for(family), bits=widths, method=method, softmax=softmax
    )


def exported(
    family: str, bits: str = "w4a4", *, preset: str = "deploy", method: str = "repq", softmax: str | None = None
) -> onnx.ModelProto:
    """The canonical graph of the ``quantized_model`` of the same arguments, a copy each time.

    Tracing takes seconds, so one is traced once in a session, whichever of its processes comes first.
    """
    key = hashlib.sha256(repr((family, bits, preset, method, softmax)).encode()).hexdigest()
    kept = Path(os.environ[_CACHE]) / f"{key}.onnx"
    if not kept.exists():
        model = quantized_model(family, bits, preset=preset, method=method, softmax=softmax)
        write_canonical(canonical_onnx(model, tuple(images_for(family).shape[1:])), kept)
    return onnx.load(kept)


def lower_for(model: onnx.ModelProto, backend: str, **options: object) -> tuple[onnx.ModelProto, list[PassReport]]:
    """``model`` lowered by the passes of a backend; ``options`` are those of ``Lowering``."""
    return lower(model, backend_named(backend).passes(Lowering(**options)))  # type: ignore[arg-type]


@pytest.fixture(
    params=[
        "vit",
        pytest.param("swin", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.release) for name in sorted(set(SPECS) - {"vit", "swin"})),
    ]
)
def each_family(request: pytest.FixtureRequest) -> str:
    """``family`` for tests that export for each case: one in each run, windows in the slow lane, the rest by hand."""
    return request.param


@pytest.fixture(params=sorted(SPECS))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def level_of_the_log() -> Iterator[None]:
    """Let no command that a test runs decide what the next test's log holds."""
    logger = logging.getLogger("repq_deploy")
    level = logger.level
    yield
    logger.setLevel(level)
