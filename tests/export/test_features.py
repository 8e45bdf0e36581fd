"""Features through the whole chain: equal codes at export, named outputs, engines that pass, saved models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import repq_deploy
from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.reference import read_reference
from repq_deploy.engines.source import read_source
from repq_deploy.errors import BadInput
from repq_deploy.export import names
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.export.weights_file import write_model
from repq_deploy.models.taps import Features
from tests.conftest import images_for
from tests.tapped import tapped_model

CASES = [
    ("vit", "best", "maps", "w6a6"),
    pytest.param("swin", "best", "maps", "w6a6", marks=pytest.mark.slow),
    *(
        pytest.param(*case, marks=pytest.mark.release)
        for case in (
            ("vit", "repq", "tokens", "w8a8"),
            ("vit", "best", "tokens", "w4a4"),
            ("dinov2", "best", "maps", "w8a8"),
            ("swin", "repq", "tokens", "w4a4"),
        )
    ),
]


@pytest.mark.parametrize(("family", "method", "layout", "bits"), CASES)
def test_from_features_to_engines(family: str, method: str, layout: str, bits: str, tmp_path: Path) -> None:
    images, file, saved = images_for(family), tmp_path / "f.onnx", tmp_path / "f.safetensors"
    model = tapped_model(family, Features((0, 1), layout))  # type: ignore[arg-type]
    quantized = repq_deploy.quantize(model, images, bits=bits, method=method)
    written = repq_deploy.export_onnx(quantized, file, images, save_quantized=saved)
    assert (written.agreement.failing, written.agreement.decisions_equal) == ((), None)
    assert written.agreement.relative_error < 1e-5
    expected = dict(zip(("features_0", "features_1"), quantized(images), strict=True))
    for one, other in zip(repq_deploy.load_quantized(saved)(images), expected.values(), strict=True):
        assert torch.equal(one, other)

    session = reference_session(onnx.load(file))
    assert [output.name for output in session.get_outputs()] == list(expected)
    oracle = dict(zip(expected, session.run(None, {"images": images.numpy()}), strict=True))
    for name, features in expected.items():
        assert oracle[name].shape == tuple(features.shape)
    shapes = {name: tuple(features.shape[1:]) for name, features in expected.items()}
    assert read_source(file).named.shapes == shapes

    for backend in ("onnxruntime", "openvino"):
        if not backend_named(backend).is_installed():
            continue
        built = repq_deploy.build_engine(file, backend)
        assert built.manifest.validation.verdict == "PASSED", built.manifest.validation.reason
        assert built.manifest.named.shapes == shapes
        run, _ = repq_deploy.open_engine(built.engine)
        for count in (1, 5):
            given = images[[*range(4), 0]][:count].numpy()
            found = run(given)
            for name, values in reference(file, given).items():
                assert found[name].shape == values.shape
                # Codes on ties flip between run-times; a wrong or swapped output is far from this.
                assert np.linalg.norm(found[name] - values) / np.linalg.norm(values) < 0.1
    kept = read_reference(tmp_path / "f.reference.npz")
    assert kept.logits.shape == (6, sum(int(np.prod(shape)) for shape in shapes.values()))


def reference(file: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    session = reference_session(onnx.load(file))
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, {"images": images}), strict=True))


def test_a_file_whose_outputs_are_not_those_it_records_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.onnx"
    model = tapped_model("vit", Features((0, 1)))
    quantized = repq_deploy.quantize(model, images_for("vit"), bits="w8a8", method="minmax")
    repq_deploy.export_onnx(quantized, file, images_for("vit"))
    graph = onnx.load(file)
    assert names.recorded(graph)[names.OUTPUTS] == '{"features_0": [17, 48], "features_1": [17, 48]}'
    for record, message in (
        ('{"features_0": [17, 48]}', "expected the one tensor 'features_0', found features_0, features_1"),
        ('{"features_0": [17, 48], "features_1": [48, 17]}', "other shapes than repq.outputs says"),
        ('{"features_0": [0]}', "expected 1 to 256 outputs of positive sizes"),
        ("[", "damaged metadata"),
    ):
        other = onnx.ModelProto()
        other.CopyFrom(graph)
        onnx.helper.set_model_props(other, {**names.recorded(graph), names.OUTPUTS: record})
        write_model(other, tmp_path / "other.onnx")
        with pytest.raises(BadInput, match=message):
            read_source(tmp_path / "other.onnx")
