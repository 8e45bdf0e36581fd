"""Every variant of timm's VisionTransformer becomes engines: calibrated, proven, saved and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import repq_deploy
from repq_deploy.engines.backends import backend_named
from tests.models.vit_variants import VARIANTS, images_for, variant

#: In the fast lane those that cover most: a pool by attention, RMS norms with a gated MLP and both ends rotated.
FAST = ("pool and head", "aimv2")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.release) for name in VARIANTS]
)
@torch.no_grad()
def test_a_variant_becomes_an_engine(name: str, backend: str, tmp_path: Path) -> None:
    if not backend_named(backend).is_installed():
        pytest.skip(f"{backend} is not installed")
    model = variant(name)
    images = images_for(model, 8)
    quantized = repq_deploy.quantize(model, images, bits="w4a4", method="best")
    canonical = tmp_path / "m.onnx"
    written = repq_deploy.export_onnx(quantized, canonical, images, save_quantized=tmp_path / "m.safetensors")
    assert written.agreement.failing == ()
    activations = [site for site, quantizer in quantized.quantizers().items() if not quantizer.is_weight]
    assert len(written.agreement.sites) == len(activations)
    expected = quantized(images)
    # Of random weights, 32 channels and 4 bits no more is to be had: it is 0.3 to 0.7, by the draw of the rotations.
    assert (expected - model(images)).norm() < 0.8 * model(images).norm()
    again = repq_deploy.load_quantized(tmp_path / "m.safetensors", model=variant(name))
    torch.testing.assert_close(again(images), expected, rtol=1e-4, atol=1e-5)

    built = repq_deploy.build_engine(canonical, backend)
    assert built.manifest.validation.verdict == "PASSED"
    run, _ = repq_deploy.open_engine(built.engine)
    for batch in (1, 5):
        outputs = expected[:batch].numpy()
        # OpenVINO's kernels of another batch size may round ties otherwise, and each is a whole step of 4 bits.
        tolerance = 1e-4 if backend == "onnxruntime" else 0.3
        assert np.linalg.norm(run(images[:batch].numpy()) - outputs) < tolerance * np.linalg.norm(outputs)
