"""A model inside a model: its part is quantized, put back and exported with the rest in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import Tensor, nn

import repq_deploy
from repq_deploy.calibration.part import find_part
from repq_deploy.engines.backends import backend_named
from repq_deploy.errors import BadInput
from repq_deploy.export import names
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.quant.layers import QuantAttention, RotatedInput

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Detector(nn.Module):
    """Two maps of a Vision Transformer, a neck of 1x1 convolutions, and heads; ``how`` it asks for the maps."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        options: dict[str, Any] = {"features_only": True, "out_indices": (0, 1)} if how == "getter" else {}
        encoder = timm.create_model("vit_tiny_patch16_224", **TINY, **options)
        self.backbone = nn.ModuleDict({"encoder": encoder})
        self.neck = nn.ModuleList([nn.Conv2d(48, 16, 1) for _ in range(2)])
        self.box, self.score = nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(16, 3, 1)
        self.eval()

    def maps(self, images: Tensor) -> list[Tensor]:
        encoder: Any = self.backbone["encoder"]
        if self.how == "getter":
            found: list[Tensor] = encoder(images)
        elif self.how == "intermediates":
            found = encoder.forward_intermediates(images, indices=[0, 1], intermediates_only=True)
        else:
            tokens = encoder.forward_features(images)[:, 1:]
            found = 2 * [tokens.transpose(1, 2).unflatten(2, (4, 4))]
        return found

    def forward(self, images: Tensor) -> dict[str, Any]:
        y = sum(layer(one) for layer, one in zip(self.neck, self.maps(images), strict=True)).relu()
        y = nn.functional.interpolate(y, scale_factor=2.0)
        return {"boxes": self.box(y).flatten(2).transpose(1, 2), "scores": [self.score(y), self.score(y).mean((2, 3))]}


@pytest.mark.parametrize(
    ("how", "method", "bits"),
    [
        ("getter", "best", "w6a6"),
        pytest.param("features", "best", "w4a4", marks=pytest.mark.slow),
        *(
            pytest.param(*case, marks=pytest.mark.release)
            for case in (
                ("getter", "repq", "w4a4"),
                ("intermediates", "best", "w8a8"),
                ("features", "repq", "w8a8"),
            )
        ),
    ],
)
@torch.no_grad()
def test_from_a_part_to_engines_of_the_whole(how: str, method: str, bits: str, tmp_path: Path) -> None:
    detector, file = Detector(how), tmp_path / "detector.onnx"
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    quantized = repq_deploy.quantize(detector, IMAGES, bits=bits, method=method, part="*.encoder")
    written = repq_deploy.export_onnx(quantized, file, IMAGES, whole=detector, part="*.encoder")
    assert written.agreement.failing == ()
    assert written.agreement.relative_error < 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())

    recorded = names.recorded(onnx.load(file))
    assert (recorded[names.PART], recorded[names.MODEL], recorded[names.TASK]) == (
        "backbone.encoder",
        "Detector",
        "features",
    )
    session = reference_session(onnx.load(file))
    outputs = dict(
        zip([one.name for one in session.get_outputs()], session.run(None, {"images": IMAGES.numpy()}), strict=True)
    )
    expected = detector(IMAGES)
    flat = {"boxes": expected["boxes"], "scores_0": expected["scores"][0], "scores_1": expected["scores"][1]}
    assert {name: one.shape for name, one in outputs.items()} == {name: tuple(one.shape) for name, one in flat.items()}
    limit = {"w8a8": 0.03, "w6a6": 0.1, "w4a4": 0.6}[bits]
    for name, one in flat.items():
        assert np.linalg.norm(outputs[name] - one.numpy()) / one.norm() < limit
    for backend in ("onnxruntime", "openvino"):
        if backend_named(backend).is_installed():
            built = repq_deploy.build_engine(file, backend)
            assert built.manifest.validation.verdict == "PASSED", built.manifest.validation.reason
            run, _ = repq_deploy.open_engine(built.engine)
            found = run(IMAGES[:5].numpy())
            assert {name: one.shape for name, one in found.items()} == {
                name: (5, *one.shape[1:]) for name, one in flat.items()
            }


@torch.no_grad()
def test_tokens_stay_where_the_model_reads_them_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A rotated residual stream would be read by ``forward_features`` as it is."""
    detector = Detector("features")
    quantized = repq_deploy.quantize(detector, IMAGES, bits="w8a8", method="best", part="backbone.encoder")
    assert "its residual stream is not rotated" in caplog.text
    expected = detector.backbone["encoder"].forward_features(IMAGES)
    found = quantized.model.forward_features(IMAGES)  # type: ignore[operator]
    assert (found - expected).norm() / expected.norm() < 0.05
    assert isinstance(quantized.model.blocks[0].attn, QuantAttention)  # type: ignore[index,union-attr]


@torch.no_grad()
def test_a_feature_extractor_of_timm_is_rotated_and_gives_its_maps(tmp_path: Path) -> None:
    detector = Detector("getter")
    quantized = repq_deploy.quantize(detector, IMAGES, bits="w8a8", method="best", part="backbone.encoder")
    assert isinstance(quantized.model.taps["1"], RotatedInput)  # type: ignore[index]
    for one, other in zip(quantized(IMAGES), detector.maps(IMAGES), strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() / other.norm() < 0.05
    repq_deploy.save_quantized(quantized, tmp_path / "part.safetensors")
    again = repq_deploy.load_quantized(tmp_path / "part.safetensors", model=Detector("getter").backbone["encoder"])
    assert all(torch.equal(one, other) for one, other in zip(again(IMAGES), quantized(IMAGES), strict=True))


def test_a_pattern_means_one_part() -> None:
    model = nn.ModuleDict({"left": Detector("getter"), "right": Detector("features")})
    assert find_part(model, "left*") == "left.backbone.encoder"
    assert find_part(model, "right") == "right"
    with pytest.raises(BadInput, match=r"means left.backbone.encoder, right.backbone.encoder; name one"):
        find_part(model, "*.encoder")
    with pytest.raises(BadInput, match="no submodule of that name; those of a supported family are left"):
        find_part(model, "middle")


class Pairs(nn.Module):
    """What cannot be an output: one number for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm.create_model("vit_tiny_patch16_224", num_classes=3, **{**TINY, "depth": 1}).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.encoder(images)
        return logits, logits.mean()


@torch.no_grad()
def test_outputs_that_are_not_of_images_are_refused(tmp_path: Path) -> None:
    whole = Pairs()
    quantized = repq_deploy.quantize(whole, IMAGES, bits="w8a8", method="minmax", part="encoder")
    with pytest.raises(BadInput, match=r"output output_1: \[\]; expected a tensor \[N, ...\]"):
        repq_deploy.export_onnx(quantized, tmp_path / "m.onnx", IMAGES, whole=whole, part="encoder")
    with pytest.raises(BadInput, match="whole and part belong together"):
        repq_deploy.export_onnx(quantized, tmp_path / "m.onnx", IMAGES, whole=whole)
