"""One small architecture of every family: exported, its codes are proven, and its engines pass.

A new family has its line in ``ARCHITECTURES``; the first test says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import repq_deploy
from repq_deploy.engines.backends import backend_named
from repq_deploy.models.families import FAMILIES, find_family
from tests.models.families.small import images_of, small

_STAGED: dict[str, Any] = {"patch_size": 4, "depth": None, "depths": (1, 2), "num_heads": (2, 4)}

#: By name: an id of timm's, and what differs from the sizes of ``small``.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", {}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "eva02": ("eva02_base_patch14_448", {}),
    "naflexvit": ("naflexvit_base_patch16_siglip", {}),
    "relpos": ("vit_relpos_small_patch16_224", {}),
    "relpos_post_norm": ("vit_relpos_small_patch16_rpn_224", {}),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 56, **_STAGED}),
    "swin_v2": ("swinv2_tiny_window8_256", {"img_size": 32, "window_size": 4, **_STAGED}),
    "swin_v2_cr": ("swinv2_cr_tiny_ns_224", {"img_size": 32, "window_size": 4, **_STAGED}),
    "vit": ("vit_tiny_patch16_224", {}),
}
BITS = ("w8a8", "w6a6", "w4a4")


def architecture(name: str) -> nn.Module:
    timm_id, options = ARCHITECTURES[name]
    return small(timm_id, **options)


def test_every_family_is_here():
    """Of timm's: modules of one's own have tests of theirs (``test_own_module.py``)."""
    of_timm = {family.words for family in FAMILIES if family.model is not nn.Module}
    assert {find_family(architecture(name)).words for name in ARCHITECTURES} == of_timm


def check(name: str, bits: str, method: str, backends: tuple[str, ...], folder: Path) -> None:
    """The canonical file has the codes of PyTorch; engines pass, and give the outputs of PyTorch for five images
    together and for one alone."""
    model = architecture(name)
    images = images_of(model, 8)
    quantized = repq_deploy.quantize(model, images, bits=bits, method=method)
    written = repq_deploy.export_onnx(quantized, folder / "model.onnx", images)
    assert written.agreement.failing == ()
    expected = quantized(images)
    for backend in backends:
        built = repq_deploy.build_engine(written.path, backend)
        if built.manifest.validation.verdict == "BUILT, NOT RUN" and backend == "tensorrt-rtx":
            continue  # there is no GPU
        assert built.manifest.validation.verdict == "PASSED"
        runner, _ = repq_deploy.open_engine(built.engine)
        for count in (5, 1):
            found = torch.from_numpy(runner(images[:count].numpy()))
            assert (found - expected[:count]).norm() < 0.1 * expected[:count].norm()


def installed(*backends: str) -> tuple[str, ...]:
    return tuple(name for name in backends if backend_named(name).is_installed())


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_codes_are_proven_and_an_engine_passes(name, tmp_path):
    check(name, "w6a6", "repq", ("onnxruntime",), tmp_path)


@pytest.mark.release
@pytest.mark.parametrize("method", ["repq", "best"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_bit_width_passes(name, bits, method, tmp_path):
    check(name, bits, method, installed("onnxruntime", "openvino"), tmp_path)


@pytest.mark.release
@pytest.mark.skipif(not installed("tensorrt-rtx"), reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_tensorrt_rtx_builds(name, bits, tmp_path):
    check(name, bits, "repq", ("tensorrt-rtx",), tmp_path)
