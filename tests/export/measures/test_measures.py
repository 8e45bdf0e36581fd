"""What export measures of each quantizer: errors, ranges before and after the fold, and their record in the file."""

from __future__ import annotations

import math

import onnx
import pytest
import torch

from repq_deploy.api import export_onnx
from repq_deploy.export.measures.measuring import measure_activation, measure_weights
from repq_deploy.export.measures.record import recorded_measures
from repq_deploy.export.names import SITES
from repq_deploy.hooks import hooks
from repq_deploy.quant.noise import error_db
from repq_deploy.quant.quantizers import UniformParameters, UniformQuantizer
from tests.conftest import float_model, images_for, quantized_model


def test_decibels() -> None:
    x = torch.tensor([3.0, -3.0])
    assert error_db(x, x + 0.3) == pytest.approx(20.0, abs=1e-4)
    assert error_db(x, x) == math.inf
    assert error_db(torch.zeros(2), torch.ones(2)) == -math.inf


def test_ranges_clipping_and_the_way_back_over_the_fold() -> None:
    quantizer = UniformQuantizer("a.input", 2)
    quantizer.adopt(UniformParameters(torch.tensor(1.0), torch.tensor(2.0)))  # -2 to 1
    quantizer.unfold = torch.tensor([[1.0, 10.0], [0.0, 5.0]])
    x = torch.tensor([[0.0, -3.0], [1.4, 1.0], [2.0, 0.0]])
    found = measure_activation(quantizer, x, quantizer.values(quantizer.codes(x)))
    assert found.clipped == pytest.approx(2 / 6)
    assert found.seen is not None
    assert (found.seen.low, found.seen.high) == (-3.0, 2.0)
    assert found.seen.widths == (2.0, 2.5, 3.0, 3.5, 4.0)
    assert found.before is not None
    assert (found.before.low, found.before.high) == (-25.0, 15.0)
    assert found.before.widths[::4] == (2.0, 40.0)


def test_the_ranges_before_the_fold_are_those_of_the_float_model() -> None:
    quantized, images = quantized_model("vit", "w8a8"), images_for("vit")
    given: list[torch.Tensor] = []
    model = float_model("vit")
    norm = model.get_submodule("blocks.0.norm1")
    with hooks([norm.register_forward_hook(lambda _, __, output: given.append(output))]), torch.no_grad():
        model(images)
    seen = {}
    quantizer = quantized.quantizers()["blocks.0.attn.qkv.input"]

    def look(_: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["measure"] = measure_activation(quantizer, inputs[0], output)

    with hooks([quantizer.register_forward_hook(look)]), torch.no_grad():
        quantized(images)
    before = seen["measure"].before
    rows = given[0].flatten(0, -2)
    widths = (rows.amax(0) - rows.amin(0)).quantile(torch.tensor([0.0, 0.5, 1.0]))
    assert before is not None
    assert before.high == pytest.approx(float(rows.max()), rel=0.02)  # the patch embedding has 8 bits
    assert before.widths[::2] == pytest.approx(widths.tolist(), rel=0.02)
    assert before.widths[4] / before.widths[0] > 5 * (seen["measure"].seen.widths[4] / seen["measure"].seen.widths[0])


def test_a_rounded_weight_keeps_the_error_of_its_rounding() -> None:
    near = measure_weights(quantized_model("vit", method="repq"))["blocks.0.mlp.fc1.weight"].db
    rounded = measure_weights(quantized_model("vit", method="best"))["blocks.0.mlp.fc1.weight"].db
    assert near is not None
    assert rounded is not None
    assert 10 < near < 25
    assert 5 < rounded < near + 3


def test_the_file_records_every_site(tmp_path) -> None:
    quantized = quantized_model("vit")
    written = export_onnx(quantized, tmp_path / "vit.onnx", images_for("vit"))
    metadata = {entry.key: entry.value for entry in onnx.load(written.path).metadata_props}
    found = recorded_measures(metadata)
    assert found is not None
    assert found.sites.keys() == quantized.quantizers().keys()
    assert (found.images, found.unexplained) == (4, 0)
    assert found.codes == sum(site.codes for site in written.agreement.sites)
    assert found.sites["blocks.1.attn.p"].kind == "log_sqrt2"
    assert found.sites["blocks.0.mlp.fc1.input"].before is not None
    assert found.sites["head.input"].db > found.sites["blocks.0.mlp.fc2.input"].db
    assert len(metadata[SITES]) < 250 * len(found.sites)
