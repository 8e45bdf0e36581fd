"""The door: the same steps as the commands', from Python."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import repq_deploy
from repq_deploy.bits import BitWidths
from repq_deploy.calibrate import calibrate
from repq_deploy.errors import BadInput
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.models.loading import FloatModel
from tests.conftest import SPECS, float_model, images_for


class Detector(nn.Module):
    """A model with a vision transformer in it, which sees every image twice as bright."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"encoder": float_model("vit")})
        self.unused = nn.Linear(1, 1)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone["encoder"](2 * images)
        return features.sum(dim=1)


def test_every_name_at_the_door_is_there():
    for name in repq_deploy.__all__:
        assert getattr(repq_deploy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = repq_deploy.quantise


def test_importing_the_package_imports_neither_torch_nor_onnx():
    script = "import sys, repq_deploy; print([m for m in ('torch', 'onnx', 'numpy', 'timm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "[]\n"


def test_the_door_quantizes_as_the_core_does_and_leaves_the_model_alone():
    network, images = float_model("vit"), images_for("vit")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model = FloatModel(network, SPECS["vit"], None)
    found = repq_deploy.quantize(model, images.numpy(), bits="w4a4", method="repq")
    expected = calibrate(float_model("vit"), SPECS["vit"], images, bits=BitWidths.parse("w4a4"), method="repq")
    assert torch.equal(found(images), expected(images))
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    used = repq_deploy.quantize(model, images, bits="w4a4", method="repq", inplace=True)
    assert used.model is network


def test_an_export_is_written_with_its_saved_model_and_runs(tmp_path):
    images = images_for("vit")
    model = FloatModel(float_model("vit"), SPECS["vit"], None)
    quantized = repq_deploy.quantize(model, images, bits="w8a8", method="repq", classes=list("abcde"))
    path, saved = tmp_path / "m.onnx", tmp_path / "m.safetensors"
    written = repq_deploy.export_onnx(quantized, path, images, save_quantized=saved)
    assert (written.path, written.agreement.failing) == (path, ())
    (logits,) = reference_session(onnx.load(path)).run(None, {"images": images.numpy()})
    np.testing.assert_allclose(logits, repq_deploy.load_quantized(saved)(images).numpy(), atol=1e-3)
    with pytest.raises(BadInput, match="opset"):
        repq_deploy.export_onnx(quantized, path, images, opset=19)


def test_a_part_is_calibrated_on_what_the_whole_model_gives_it():
    detector, images = Detector(), images_for("vit")
    found = repq_deploy.quantize(detector, images, bits="w4a4", method="repq", part="backbone.encoder")
    own = FloatModel(float_model("vit"), SPECS["vit"], None)
    expected = repq_deploy.quantize(own, 2 * images, bits="w4a4", method="repq")
    assert torch.equal(found(images), expected(images))
    assert type(detector.backbone["encoder"].blocks[0].attn).__name__ == "Attention"  # still the float one


def test_a_part_is_saved_and_loaded_into_the_module_that_it_is_of(tmp_path):
    images = images_for("vit")
    found = repq_deploy.quantize(Detector(), images, bits="w4a4", method="repq", part="backbone.encoder")
    repq_deploy.save_quantized(found, tmp_path / "part.safetensors")
    with pytest.raises(BadInput, match="of a module of somebody's own"):
        repq_deploy.load_quantized(tmp_path / "part.safetensors")
    loaded = repq_deploy.load_quantized(tmp_path / "part.safetensors", model=float_model("vit"))
    assert torch.equal(loaded(images), found(images))


def test_a_part_can_be_reached_by_a_forward_of_ones_own():
    calls = []

    def run(model: nn.Module, batch: Tensor) -> None:
        calls.append(len(batch))
        model(batch / 2)

    options = {"bits": "w4a4", "method": "repq", "part": "backbone.encoder"}
    found = repq_deploy.quantize(Detector(), images_for("vit"), forward=run, **options)
    expected = repq_deploy.quantize(Detector(), images_for("vit") / 2, **options)
    assert calls == [4]
    assert torch.equal(found(images_for("vit")), expected(images_for("vit")))


@pytest.mark.parametrize(
    ("part", "message"),
    [("backbone.decoder", "no submodule"), ("unused", "did not run it"), ("backbone.encoder.norm", "expected images")],
)
def test_a_part_that_cannot_be_quantized_is_named(part, message):
    with pytest.raises(BadInput, match=f"part '{part}'.*{message}"):
        repq_deploy.quantize(Detector(), images_for("vit"), part=part)
