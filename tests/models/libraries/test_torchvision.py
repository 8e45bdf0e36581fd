"""Models of torchvision become timm models that compute the same, and the same codes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torchvision import models

import repq_deploy
from repq_deploy.errors import BadInput
from repq_deploy.models.loading import load_model
from tests.models.libraries.hf_models import randomized

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 72}
SWIN = {"patch_size": [2, 2], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}


def vit(**more):
    return randomized(models.VisionTransformer(**VIT, num_classes=5, **more))


def swin(**more):
    return randomized(models.SwinTransformer(**SWIN, num_classes=5, stochastic_depth_prob=0.0, **more))


def features(model):
    model.heads = nn.Identity()
    return model


def own_head(model):
    model.heads = nn.Linear(32, 7)
    return model


@pytest.mark.parametrize(
    "make", [vit, swin, lambda: features(vit()), lambda: own_head(vit())], ids=["vit", "swin", "features", "own head"]
)
def test_computes_what_torchvision_does(make):
    theirs = make()
    with torch.no_grad():
        expected = theirs(IMAGES)
        found = load_model(theirs, img_size=32).network(IMAGES)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_same_codes_as_the_timm_model():
    theirs = swin()
    sizes = {"img_size": 32, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    ours = timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **sizes).eval()
    converted = load_model(theirs, img_size=32)
    ours.load_state_dict(converted.network.state_dict())
    one, other = (repq_deploy.quantize(model, IMAGES, bits="w6a6") for model in (converted, ours))
    of_one, of_other = one.model.state_dict(), other.model.state_dict()
    assert of_one.keys() == of_other.keys()
    assert all(torch.equal(tensor, of_other[name]) for name, tensor in of_one.items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (models.resnet18, "torchvision's ResNet is not supported; expected torchvision.models.vision_trans"),
        (lambda: vit(representation_size=16), "found Sequential as its head, expected one linear layer"),
        (
            lambda: swin(block=models.swin_transformer.SwinTransformerBlockV2),
            "found SwinTransformerBlockV2, expected SwinTransformerBlock",
        ),
    ],
    ids=["resnet", "representation", "swin v2"],
)
def test_what_is_not_supported(make, message):
    with pytest.raises(BadInput, match=message):
        load_model(make())
