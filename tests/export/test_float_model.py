"""The float model as ONNX computes what PyTorch computes."""

import numpy as np
import torch

from repq_deploy.engines.source import read_source
from repq_deploy.export.canonical import write_canonical
from repq_deploy.export.float_model import float_onnx
from repq_deploy.export.onnx_session import reference_session
from tests.conftest import float_model, images_for


def test_float_onnx(each_family):
    model, images = float_model(each_family), images_for(each_family)
    exported = float_onnx(model, tuple(images.shape[1:]))
    (found,) = reference_session(exported).run(None, {"images": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(images).numpy(), rtol=1e-4, atol=1e-4)


def test_it_records_what_a_canonical_file_records(tmp_path):
    model, images = float_model("vit"), images_for("vit")
    write_canonical(float_onnx(model, tuple(images.shape[1:]), name="tiny", preprocess="{}"), tmp_path / "float.onnx")
    source = read_source(tmp_path / "float.onnx")
    assert source.metadata == {"repq.model": "tiny", "repq.bits": "", "repq.preprocess": "{}"}
