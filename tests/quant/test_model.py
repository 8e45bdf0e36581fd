import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from repq_deploy.bits import BitWidths
from repq_deploy.calibrate import calibrate
from repq_deploy.errors import BadInput
from repq_deploy.quant.model import wrap
from repq_deploy.quant.saved import load, save
from tests.conftest import SPECS, float_model, images_for, quantized_model


@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
def test_save_and_load_give_the_same_outputs(tmp_path, family, bits):
    model = quantized_model(family, bits)
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(images_for(family)), model(images_for(family)))
    assert loaded.provenance == model.provenance
    assert list(loaded.quantizers()) == list(model.quantizers())


@pytest.mark.parametrize("method", ["repq", "minmax", "percentile", "erq", "best"])
@pytest.mark.parametrize("bits", ["w3a3", "w8a8"])
@torch.no_grad()
def test_levels_never_exceed_the_bits(family, method, bits):
    model = quantized_model(family, bits, method=method, preset="paper")
    seen = {}

    def count(quantizer, inputs, output):
        seen[quantizer.site] = (len(output.unique()) if quantizer.scale.ndim == 0 else None, quantizer.bits)

    for quantizer in model.quantizers().values():
        quantizer.register_forward_hook(count)
    model(images_for(family))
    assert len(seen) == len(model.quantizers())
    for site, (levels, width) in seen.items():
        assert levels is None or levels <= 2**width, site
    for name, quantizer in model.quantizers().items():
        if name.endswith(".weight"):
            layer = model.model.get_submodule(name.removesuffix(".weight"))
            codes = quantizer.codes(layer.weight).flatten(1)
            assert all(len(row.unique()) <= 2**quantizer.bits for row in codes), name
            assert codes.min() >= -128
            assert codes.max() <= 127


@torch.no_grad()
def test_eight_bits_are_close_to_float_and_reparameterization_beats_per_tensor_at_four(family):
    exact = float_model(family)(images_for(family))

    def error(bits: str, method: str) -> float:
        return float((quantized_model(family, bits, method=method)(images_for(family)) - exact).norm() / exact.norm())

    assert error("w8a8", "repq") < 0.1
    assert error("w8a4", "repq") < error("w8a4", "minmax")


def test_an_override_that_matches_nothing_is_refused():
    bits = BitWidths.parse("w4a4,haed=w8a8")
    with pytest.raises(BadInput, match="'haed' matches no site"):
        wrap(float_model("vit"), SPECS["vit"], bits, softmax="uniform")


def test_images_that_are_not_finite_are_refused():
    images = images_for("vit")
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(BadInput, match="NaN"):
        calibrate(float_model("vit"), SPECS["vit"], images, bits=BitWidths.parse("w4a4"))


def test_files_that_are_not_ours_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(BadInput, match="not a readable safetensors file"):
        load(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(BadInput, match="plain weights"):
        load(tmp_path / "plain.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "new.safetensors", metadata={"repq": json.dumps({"format": "99"})})
    with pytest.raises(BadInput, match="format 99"):
        load(tmp_path / "new.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model's tensors and its record."""
    path = tmp_path_factory.mktemp("saved") / "m.safetensors"
    save(quantized_model("vit", "w4a4"), path)
    with safe_open(path, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, json.loads(opened.metadata()["repq"])  # noqa: SIM118


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, record: record.pop("spec"), "its record lacks spec"),
        (lambda tensors, record: record["spec"]["kwargs"].update(checkpoint_path="x.pt"), "'checkpoint_path'"),
        (lambda tensors, record: record["spec"].update(timm_id="hf-hub:a/b"), "no model of timm's own"),
        (lambda tensors, record: record["spec"]["kwargs"].update(depth=10**6), "depth is not between"),
        (lambda tensors, record: record.update(softmax="soft"), "expected one of uniform"),
        (lambda tensors, record: record.update(bits=8), "bits is 8, expected str"),
        (lambda tensors, record: record.update(bits="w9a9"), "outside 2 to 8"),
        (lambda tensors, record: record["provenance"].update(seed=float("nan")), "holds NaN"),
        (lambda tensors, record: record.update(format=[1] * 10_000), "this version reads"),
        (lambda tensors, record: tensors.update({"blocks.0.attn.forward": torch.ones(1)}), "has no place for"),
        (lambda tensors, record: tensors.update({"nothing.weight": torch.ones(1)}), "has no place for"),
        (lambda tensors, record: tensors["norm.weight"].fill_(float("inf")), "NaN or infinity in norm.weight"),
        (lambda tensors, record: tensors["head.input_quantizer.scale"].fill_(0), "scale that is not positive"),
    ],
)
def test_a_changed_file_is_refused_in_one_line(tmp_path, saved, change, words):
    tensors, record = copy.deepcopy(saved)
    change(tensors, record)
    save_file(tensors, tmp_path / "m.safetensors", metadata={"repq": json.dumps(record)})
    with pytest.raises(BadInput, match=words) as caught:
        load(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"format": 1' + "0" * 5000 + "}", "[]"])
def test_a_record_that_is_no_json_is_refused_in_one_line(tmp_path, saved, text):
    save_file(saved[0], tmp_path / "m.safetensors", metadata={"repq": text})
    with pytest.raises(BadInput, match=r"m\.safetensors: ") as caught:
        load(tmp_path / "m.safetensors")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("method", ["repq", "minmax"])
@pytest.mark.parametrize("attention", ["float", "uniform", "log2", "log2_max", "log_sqrt2"])
def test_attention_is_quantized_as_asked(method: str, attention: str):
    model = calibrate(
        float_model("vit"),
        SPECS["vit"],
        images_for("vit"),
        bits=BitWidths.parse("w8a8"),
        method=method,
        softmax=attention,
    )
    quantizers = model.quantizers()
    assert ("blocks.0.attn.q" in quantizers) == (attention != "float")
    logarithms = dict.fromkeys(("log2", "log2_max", "log_sqrt2"), "Log2Quantizer")
    kinds = {"uniform": "UniformQuantizer", **logarithms, "float": "NoneType"}
    probabilities = quantizers.get("blocks.0.attn.p")
    assert type(probabilities).__name__ == kinds[attention]
    if attention.startswith("log"):
        assert probabilities.steps_per_octave == (2 if attention == "log_sqrt2" else 1)
    expected = float_model("vit")(images_for("vit"))
    assert (model(images_for("vit")) - expected).norm() < 0.2 * expected.norm()


@torch.no_grad()
def test_a_model_whose_layer_scales_were_folded_is_loaded_without_them(tmp_path):
    model = quantized_model("dinov2", "w4a4", method="best")
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    torch.testing.assert_close(loaded(images_for("dinov2")), model(images_for("dinov2")))


def test_a_model_of_ones_own_loads_into_the_module_that_is_given(tmp_path, saved):
    tensors, record = copy.deepcopy(saved)
    record["spec"]["timm_id"] = "my_package.my_model"
    save_file(tensors, tmp_path / "m.safetensors", metadata={"repq": json.dumps(record)})
    with pytest.raises(BadInput, match="no model of timm's own"):
        load(tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors", model=float_model("vit"))
    expected = quantized_model("vit", "w4a4")
    assert torch.equal(loaded(images_for("vit")), expected(images_for("vit")))
    with pytest.raises(BadInput, match=r"m\.safetensors: its table of quantizers is not that"):
        load(tmp_path / "m.safetensors", model=float_model("swin"))
