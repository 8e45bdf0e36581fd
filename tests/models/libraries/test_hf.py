"""Models of transformers become timm models that compute the same, and the same codes."""

from __future__ import annotations

import pytest
import timm
import torch

import repq_deploy
from repq_deploy.errors import BadInput
from repq_deploy.export.canonical import canonical_onnx
from repq_deploy.export.prove_export import compare_export
from repq_deploy.models.libraries.hf import MODEL_TYPES, twin_of_config
from repq_deploy.models.loading import load_model
from repq_deploy.models.zoo import ModelSpec, build_architecture, spec_of_twin
from repq_deploy.quant.model import QuantizedModel
from repq_deploy.tasks import FEATURES
from tests.models.libraries.hf_models import MODELS, make, outputs

pytest.importorskip("transformers")

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_computes_what_its_own_library_does(name):
    theirs = make(name)
    found = load_model(theirs)
    expected = outputs(name, theirs, IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(found.network(IMAGES), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_its_record_builds_it_again(name):
    found = load_model(make(name))
    again = build_architecture(ModelSpec.from_dict(found.spec.to_dict()))
    again.load_state_dict(found.network.state_dict())
    with torch.no_grad():
        assert torch.equal(again(IMAGES), found.network(IMAGES))


def codes(quantized: QuantizedModel) -> list[torch.Tensor]:
    """Every tensor of a quantized model: weights, scales, zero points."""
    return [tensor for _, tensor in sorted(quantized.model.state_dict().items())]


def test_same_codes_as_the_timm_model():
    theirs = make("vit", layer_norm_eps=1e-6)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.25}
    ours = timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes).eval()
    ours.load_state_dict(load_model(theirs).network.state_dict())
    of_both = [repq_deploy.quantize(model, IMAGES, bits="w6a6") for model in (theirs, ours)]
    for one, other in zip(codes(of_both[0]), codes(of_both[1]), strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        assert torch.equal(of_both[0].model(IMAGES), of_both[1].model(IMAGES))


@pytest.mark.parametrize("name", ["dinov2", "clip-projected"])
def test_export_has_the_same_codes_with_a_head_that_timm_does_not_have(name):
    model = make(name)
    quantized = repq_deploy.quantize(model, IMAGES, bits="w8a8")
    assert compare_export(quantized, canonical_onnx(quantized, (3, 32, 32)), IMAGES).failing == ()
    expected = outputs(name, model, IMAGES)
    assert (quantized(IMAGES) - expected).norm() < 0.1 * expected.norm()


def test_names_of_classes_travel():
    theirs = make("dinov2")
    assert load_model(theirs).classes == ("cat", "dog", "an owl")
    quantized = repq_deploy.quantize(theirs, IMAGES, bits="w8a8", method="minmax")
    assert quantized.provenance.classes == ("cat", "dog", "an owl")


def test_a_projection_gives_features():
    from repq_deploy.models.families import task_of

    assert task_of(load_model(make("clip-projected")).network) is FEATURES


@pytest.mark.parametrize("name", ["vit", "dinov2-registers", "clip"])
def test_positions_are_resized_as_its_own_library_does(name):
    theirs, larger = make(name), torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    more = {} if name.startswith("dinov2") else {"interpolate_pos_encoding": True}
    expected = outputs(name, theirs, larger, **more)
    found = load_model(theirs, img_size=48)
    with torch.no_grad():
        torch.testing.assert_close(found.network(larger), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_images_whose_last_pixels_it_does_not_see():
    """As SigLIP's of 384 pixels, whose patches have 14."""
    theirs, images = make("vit", image_size=35), torch.randn(2, 3, 35, 35, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(load_model(theirs).network(images), outputs("vit", theirs, images))


def test_a_class_of_ones_own_that_is_derived():
    import transformers

    class Mine(transformers.ViTForImageClassification):
        pass

    theirs = make("vit")
    mine = Mine(theirs.config)
    mine.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(load_model(mine).network(IMAGES), load_model(theirs).network(IMAGES))


def test_a_model_object_takes_no_other_weights():
    with pytest.raises(BadInput, match="has its own weights and classes"):
        load_model(make("vit"), num_classes=5)


def test_other_model_types():
    with pytest.raises(BadInput, match=f"'resnet' is not supported; expected {', '.join(MODEL_TYPES)}"):
        twin_of_config({"model_type": "resnet"}, "model x")


def test_a_model_of_timms_on_the_hub():
    with pytest.raises(BadInput, match="is a model of timm's, vit_tiny; give that name"):
        twin_of_config({"architecture": "vit_tiny", "num_classes": 10}, "model x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["ViTForMaskedImageModeling"]}, "architectures is 'ViTForMaskedImageModeling', expected"),
        ({"hidden_size": "32"}, "hidden_size is '32', expected a number from 1"),
        ({"hidden_size": 10**9}, "hidden_size is '1000000000', expected a number from 1"),
        ({"hidden_act": "os.system"}, "hidden_act is 'os.system', expected gelu"),
        ({"qkv_bias": 1}, "qkv_bias is '1', expected true or false"),
        ({"layer_norm_eps": -1}, "layer_norm_eps is '-1', expected"),
        ({"id2label": {"1": "cat"}, "architectures": ["ViTForImageClassification"]}, "every number from 0 on"),
    ],
)
def test_a_configuration_that_makes_no_sense(change, message):
    with pytest.raises(BadInput, match=message):
        twin_of_config({"model_type": "vit", **change}, "model x")


def test_sizes_out_of_bounds():
    twin = twin_of_config({"model_type": "vit", "num_hidden_layers": 1000}, "model x")
    with pytest.raises(BadInput, match="model x: model record: depth is not between 0 and 256"):
        spec_of_twin("x", twin, {})
