"""Images made from a model: seeded, finite, and of patches that the model tells apart more than it does noise's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repq_deploy.api import load_images
from repq_deploy.calibration.synthetic import _entropy, synthetic_images
from repq_deploy.errors import BadInput
from repq_deploy.models.loading import load_model

STEPS = 12


@pytest.fixture(scope="module")
def demo():
    return load_model("demo")


def test_the_entropy_is_that_of_the_kernel_estimate_in_numpy():
    tokens = torch.randn((2, 9, 5), generator=torch.Generator().manual_seed(0))
    points = np.linspace(-1, 1, 41)
    found = []
    for one in tokens.numpy().astype(np.float64):
        unit = one / np.linalg.norm(one, axis=1, keepdims=True)
        similar = (unit @ unit.T).ravel()
        density = np.exp(-((points[:, None] - similar) ** 2) / (2 * 0.05**2)).mean(1) / (0.05 * np.sqrt(2 * np.pi))
        found.append(np.trapezoid(-density * np.log(density + 1e-6), points))
    assert float(_entropy(tokens)) == pytest.approx(np.mean(found), rel=1e-4)


def test_patches_that_differ_have_more_entropy_than_equal_ones():
    equal = torch.ones((1, 16, 8)) + 1e-3 * torch.randn((1, 16, 8), generator=torch.Generator().manual_seed(1))
    different = torch.randn((1, 16, 8), generator=torch.Generator().manual_seed(1))
    assert _entropy(different) > _entropy(equal) + 1


def test_images_are_seeded_and_please_the_model(demo):
    steps = []
    before = {name: value.clone() for name, value in demo.network.state_dict().items()}
    made = synthetic_images(
        demo.network, (3, 28, 28), 6, classes=10, seed=3, steps=STEPS, report=lambda *reached: steps.append(reached)
    )
    assert made.shape == (6, 3, 28, 28) and made.dtype == torch.float32 and bool(torch.isfinite(made).all())
    assert steps[-1] == (STEPS, STEPS)
    torch.testing.assert_close(synthetic_images(demo.network, (3, 28, 28), 6, classes=10, seed=3, steps=STEPS), made)
    assert not torch.equal(synthetic_images(demo.network, (3, 28, 28), 6, classes=10, seed=4, steps=1), made)
    random = torch.Generator().manual_seed(3)
    noise = torch.randn((6, 3, 28, 28), generator=random)
    wanted = torch.randint(10, (6, 1), generator=random)
    with torch.no_grad():
        after, before_it = (demo.network(images).softmax(-1).gather(1, wanted).mean() for images in (made, noise))
    assert after > before_it + 0.5
    assert all(torch.equal(value, before[name]) for name, value in demo.network.state_dict().items())
    assert all(parameter.grad is None for parameter in demo.network.parameters())


def test_the_door_makes_them_and_records_their_hash(demo, monkeypatch):
    monkeypatch.setattr("repq_deploy.calibration.synthetic.STEPS", 1)
    images = load_images("synthetic", demo, count=2, seed=1)
    assert images.pixels.shape == (2, 3, 28, 28)
    assert len(images.source.sha256) == 64
    with pytest.raises(BadInput, match="is in no file"):
        images.source.read(0)
    with pytest.raises(BadInput, match="made from a model"):
        load_images("synthetic", demo.preprocess, count=2)
