"""What is supported is found out without weights, with the facts of its sites."""

from __future__ import annotations

from dataclasses import asdict

from repq_deploy.models.libraries.listing import FOLDS, look_at, matching


def test_names_that_match_and_use_a_class_of_a_family():
    assert {"deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"} <= set(matching("deit_tiny*"))
    assert matching("resnet*") == []
    assert "vit_base_patch32_plus_256" in matching("vit_base_patch32*")
    assert "vit_base_patch32_plus_256" not in matching("vit_base_patch32*", weights=True)
    assert "vit_tiny_patch16_224" not in matching("vit_tiny*", modules=("eva",))


def test_what_is_exact():
    plain, swin = look_at(["deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
    assert (plain.family, plain.reason) == ("VisionTransformer", "")
    assert plain.folds == dict.fromkeys(FOLDS, "all")
    assert swin.family == "SwinTransformer"
    assert swin.folds == {**dict.fromkeys(FOLDS, "all"), "stream": "none"}


def test_what_is_not_supported_has_its_reason():
    (found,) = look_at(["resnet18"])
    assert asdict(found) == {"name": "resnet18", "family": "", "folds": {}, "reason": found.reason}
    assert found.reason.startswith("model family ResNet is not supported; expected")
