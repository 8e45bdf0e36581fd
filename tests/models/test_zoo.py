"""Names, where weights come from, and what is refused before or while a model is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from repq_deploy.errors import BadInput
from repq_deploy.models.checkpoints import CheckpointFile
from repq_deploy.models.preprocessing import preprocess_of
from repq_deploy.models.zoo import ALIASES, ModelSpec, build_architecture, create, resolve
from repq_deploy.system.files import sha256_of

BENCH = Path(__file__).parents[3] / "shared/bench/vit_s14_cifar10.safetensors"
TINY = {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 32}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFile:
    """A ViT-Ti for images of 32 pixels with seven classes."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=32).state_dict(), path)
    return CheckpointFile(path)


def test_aliases_are_timm_ids():
    assert set(ALIASES.values()) <= set(timm.list_models())


def test_spec_round_trip():
    spec = resolve("demo", pretrained=False)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "stolen"}, "expected one of pretrained"),
        ({"colour": 1}, "has the unknown colour"),
        ({"timm_id": "hf-hub:somebody/model"}, "no model of timm's own"),
        ({"timm_id": "local-dir:/etc"}, "no model of timm's own"),
        ({"kwargs": {"checkpoint_path": "/etc/passwd"}}, "'checkpoint_path' is not known"),
        ({"kwargs": {"pretrained_cfg_overlay": {"file": "x.pt"}}}, "may hold mean, std, crop_pct, num_classes"),
        ({"kwargs": {"pretrained_cfg_overlay": {"mean": [0, 0, "x"]}}}, "mean is not three numbers"),
        ({"kwargs": {"depth": 1_000_000}}, "depth is not between 0 and 256"),
        ({"kwargs": {"img_size": [10**9, 10**9]}}, "img_size is not between 0 and 4096"),
        ({"kwargs": {"depths": []}}, "depths is not between"),
        ({"kwargs": {"qkv_bias": "yes"}}, "qkv_bias is no bool"),
        ({"kwargs": {"global_pool": "x"}}, "'global_pool' is not known, or not its value"),
        ({"kwargs": 3}, "expected"),
    ],
)
def test_a_record_can_set_sizes_of_timms_own_models_and_nothing_else(change: dict[str, object], words: str):
    with pytest.raises(ValueError, match=f"model record.*{words}"):
        ModelSpec.from_dict(resolve("deit_t", pretrained=False).to_dict() | change)


def test_pretrained_names_the_weights():
    spec = resolve("deit_s")
    assert (spec.name, spec.timm_id, spec.weights) == ("deit_s", "deit_small_patch16_224.fb_in1k", "pretrained")


def test_random_weights_are_seeded_and_leave_the_global_state():
    spec = ModelSpec("tiny", "vit_tiny_patch16_224", TINY, weights="random")
    before = torch.random.get_rng_state()
    first, again, other = (create(spec, seed=seed).blocks[0].attn.qkv.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not create(spec).training


def test_classes_and_image_size_come_from_the_checkpoint(checkpoint: CheckpointFile):
    spec = resolve("vit_t", checkpoint=checkpoint)
    assert spec.kwargs == {"num_classes": 7, "img_size": 32}
    assert spec.checkpoint_sha256 == sha256_of(checkpoint.path)
    assert spec.weights == "checkpoint"


def test_another_image_size_resizes_positions_and_says_so(checkpoint: CheckpointFile):
    notes: list[str] = []
    model = create(resolve("vit_t", checkpoint=checkpoint, img_size=64), checkpoint, note=notes.append)
    assert model.pos_embed.shape == (1, 1 + 16, 192)
    assert notes == ["checkpoint tiny.safetensors: position embeddings resized from 32 to 64 pixels"]


def test_a_checkpoint_of_another_model_is_refused_before_anything_is_built(checkpoint: CheckpointFile):
    with pytest.raises(BadInput, match=r"head\.weight is \[7, 192\], the model has \[7, 384\]|is \[.*192.*\]"):
        resolve("vit_s", checkpoint=checkpoint)


def test_checkpoint_is_loaded(checkpoint: CheckpointFile):
    original = timm.create_model(
        "vit_tiny_patch16_224", num_classes=7, checkpoint_path=str(checkpoint.path), img_size=32
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(create(resolve("vit_t", checkpoint=checkpoint), checkpoint)(images), original(images))


def test_changed_checkpoint(checkpoint: CheckpointFile):
    spec = ModelSpec("tiny", "vit_tiny_patch16_224", {"img_size": 32}, "0" * 64, "checkpoint")
    with pytest.raises(BadInput, match="SHA-256 is"):
        create(spec, checkpoint)


def test_checkpoint_not_given_again(checkpoint: CheckpointFile):
    with pytest.raises(BadInput, match="use --checkpoint FILE"):
        create(resolve("vit_t", checkpoint=checkpoint))


def test_wrong_number_of_classes(checkpoint: CheckpointFile):
    with pytest.raises(BadInput, match="has 7 classes, --num-classes says 1000; use --num-classes 7"):
        resolve("vit_t", checkpoint=checkpoint, num_classes=1000)


def test_pretrained_with_another_number_of_classes():
    with pytest.raises(BadInput, match=r"have 1000 classes, --num-classes says 10; use --checkpoint"):
        resolve("deit_t", num_classes=10)


@pytest.mark.parametrize(("name", "near"), [("deit_x", "deit_b"), ("vit_small_patch14_dinov3x", "vit_small_patch14")])
def test_unknown_name_lists_near_ones(name: str, near: str):
    with pytest.raises(BadInput, match=f"no such name or timm id; near names: .*{near}"):
        resolve(name)


@pytest.mark.parametrize("name", ["hf-hub:some/model", "../model", ""])
def test_not_a_name(name: str):
    with pytest.raises(BadInput, match="no such name or timm id"):
        resolve(name)


def test_unknown_tag():
    with pytest.raises(BadInput, match="no weights tagged 'mine'; timm has fb_in1k"):
        resolve("deit_tiny_patch16_224.mine")


@pytest.mark.parametrize(("option", "value"), [("num_classes", -1), ("img_size", 0)])
def test_option_out_of_range(option: str, value: int):
    with pytest.raises(BadInput, match=f"--{option.replace('_', '-')} {value}"):
        resolve("deit_t", **{option: value})


def test_images_need_not_be_square(checkpoint: CheckpointFile):
    """Positions of a square of 2 x 2 patches, resized to 3 x 2."""
    spec = resolve("deit_t", checkpoint=checkpoint, img_size=(48, 32))
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    notes: list[str] = []
    model = create(spec, checkpoint, note=notes.append)
    assert preprocess_of(model).size == (48, 32)
    assert model(torch.zeros(1, 3, 48, 32)).shape == (1, 7)
    assert notes == [f"checkpoint {checkpoint.path.name}: position embeddings resized from 32 to 48x32 pixels"]
    with pytest.raises(BadInput, match="--img-size 32x0: expected 1 to"):
        resolve("deit_t", img_size=(32, 0))


def test_image_size_not_a_multiple_of_the_patch():
    with pytest.raises(BadInput, match="--img-size 100 is not a multiple of its patch size 16"):
        build_architecture(ModelSpec("tiny", "vit_tiny_patch16_224", TINY | {"img_size": 100}))


def test_image_size_of_ones_own_that_is_not_a_multiple_of_the_patch():
    """Such models were trained so, and do not see the last pixels."""
    with torch.device("meta"):
        assert build_architecture(resolve("vit_so400m_patch14_siglip_gap_384", pretrained=False)) is not None


def test_argument_that_the_model_does_not_take():
    with pytest.raises(BadInput, match="timm cannot build it with img_size=32"):
        build_architecture(resolve("resnet18", img_size=32, pretrained=False))


def test_no_pretrained_weights_exist():
    with pytest.raises(BadInput, match=r"no pretrained weights.*--no-pretrained"):
        resolve("vit_base_patch32_plus_256")


def test_demo():
    model = create(resolve("demo"))
    assert (model.num_classes, model.patch_embed.img_size) == (10, (28, 28))
    assert model.pretrained_cfg["mean"] == [0.286] * 3


def test_demo_with_other_classes():
    with pytest.raises(BadInput, match="model demo: num_classes is 10, found 5"):
        resolve("demo", num_classes=5)


@pytest.mark.skipif(not BENCH.exists(), reason="the bench model is not here")
def test_bench_checkpoint():
    spec = resolve("vit_small_patch14_dinov2", checkpoint=CheckpointFile(BENCH))
    assert spec.kwargs == {"num_classes": 10, "img_size": 112}
