"""The rotation of a tap moves into what reads the features, and nothing changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repq_deploy.errors import BadInput
from repq_deploy.models.families import find_sites
from repq_deploy.models.taps import Features
from repq_deploy.rewrites.rotations import rotate_residual_stream
from repq_deploy.rewrites.taps import fold_taps
from tests.conftest import images_for
from tests.tapped import tapped_model


def rotated(features: Features) -> nn.Module:
    model = tapped_model("vit", features).network
    rotate_residual_stream(model, find_sites(model), seed=0)
    return model


@torch.no_grad()
def test_convolutions_of_one_and_of_several_maps_take_the_rotation():
    model, images = rotated(Features((0, 1), "maps")), images_for("vit")
    torch.manual_seed(0)
    of_last, of_both = nn.Conv2d(48, 7, 1), nn.Conv2d(96, 5, 3, padding=1)
    first, last = model(images)
    expected = of_last(last), of_both(torch.cat([first, last], dim=1))
    fold_taps(model, [(of_last, (1,)), (of_both, (0, 1))])
    assert all(isinstance(tap, nn.Identity) for tap in model.taps.values())
    first, last = model(images)
    found = of_last(last), of_both(torch.cat([first, last], dim=1))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_linear_takes_the_rotation_of_tokens():
    model, images, layer = rotated(Features((1,))), images_for("vit"), nn.Linear(48, 9)
    expected = layer(*model(images))
    fold_taps(model, [(layer, (1,))])
    torch.testing.assert_close(layer(*model(images)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_without_a_rotation_nothing_moves():
    model, layer = tapped_model("vit", Features((1,))).network, nn.Linear(48, 9)
    before = layer.weight.clone()
    fold_taps(model, [(layer, (1,))])
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("features", "layer", "read", "message"),
    [
        (Features((0, 1)), nn.Linear(48, 2), (1,), r"readers of \[1\], expected some of each of the features \[0, 1\]"),
        (Features((1,)), nn.Linear(96, 2), (1,), "a layer of 96 input channels, expected 48"),
        (Features((1,)), nn.Conv2d(96, 2, 1, groups=2), (1,), "48 input channels in groups"),
        (Features((1,), norm=True), nn.Linear(48, 2), (1,), "a norm stands between"),
    ],
)
def test_what_cannot_take_it_is_refused(features, layer, read, message):
    model = rotated(features)
    with pytest.raises(BadInput, match=message):
        fold_taps(model, [(layer, read)])


def test_a_model_without_features_is_refused():
    with pytest.raises(BadInput, match="expected a model with features"):
        fold_taps(nn.Identity(), [])
