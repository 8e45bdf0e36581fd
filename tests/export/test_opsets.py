"""The opset of a file: the same graph, the same codes, or a clear no."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest

from repq_deploy.errors import BadInput
from repq_deploy.export.opsets import at_opset, check_opset, oldest_onnxruntime
from tests.conftest import exported, images_for


def logits(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images_for("vit").numpy()})[0]


def test_eight_bits_fit_into_opset_20():
    model = exported("vit", "w8a8", softmax="log2")
    older = at_opset(copy.deepcopy(model), 20)
    assert [entry.version for entry in older.opset_import if not entry.domain] == [20]
    assert older.ir_version == 9
    np.testing.assert_array_equal(logits(older), logits(model))
    assert (oldest_onnxruntime(older), oldest_onnxruntime(model)) == ("1.17", "1.18")


def test_packed_weights_need_opset_21():
    model = exported("vit", "w4a4")
    assert oldest_onnxruntime(model) == "1.19"
    with pytest.raises(BadInput, match="--opset 20: weights of up to 4 bits are stored as INT4"):
        at_opset(model, 20)
    with pytest.raises(BadInput, match="--opset 20: weights of up to 4 bits"):
        check_opset(20, 4)


@pytest.mark.parametrize("opset", [-1, 17, 22, 10**9])
def test_other_opsets_are_refused(opset):
    with pytest.raises(BadInput, match=f"--opset {opset}: expected 20 or 21"):
        check_opset(opset, 8)
