"""The trained models of other families: they build, are what their records say, and are of a supported family."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from repq_deploy.errors import BadInput
from repq_deploy.models.families import find_sites

NAMES = ("swin", "eva", "siglip")


@pytest.fixture
def small(family_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return family_benchmark("small_models")


def test_names(small: ModuleType):
    assert tuple(small.SUBJECTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_models_build_and_are_small(small: ModuleType, name: str):
    model = small.build(name).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) <= 1e6
    images = small.pixels(torch.arange(2 * 28 * 28).reshape(2, 28, 28).to(torch.uint8), small.SUBJECTS[name].side)
    assert torch.equal(images[:, 0], images[:, 2])
    assert model(images).shape == (2, 10)


@pytest.mark.parametrize("name", NAMES)
def test_models_are_of_a_supported_family(small: ModuleType, name: str):
    try:
        sites = find_sites(small.build(name))
    except BadInput as error:
        pytest.skip(f"not supported yet: {error}")
    assert len(sites.attentions) == {"swin": 6, "eva": 6, "siglip": 4}[name]


@pytest.mark.parametrize("name", NAMES)
def test_records_and_weights_are_those_of_the_models(small: ModuleType, name: str):
    record = json.loads((small.WEIGHTS / f"{name}.json").read_text())
    subject = small.SUBJECTS[name]
    assert record["architecture"] == subject.architecture
    assert record["kwargs"] == json.loads(json.dumps(subject.kwargs))
    model = small.load_trained(name)
    assert record["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert record["test_top1"] == small.float_top1(name)


def test_accuracy_accepts_half_of_the_loss(family_benchmark: Callable[[str], ModuleType]):
    accuracy = family_benchmark("accuracy")

    def runs(model: str, repq: float, best: float) -> list[dict[str, object]]:
        rest = {"model": model, "bits": "w4a4", "seed": 0, "float_top1": 90.0, "agreement": 95.0}
        return [{"method": "repq", "top1": repq, **rest}, {"method": "best", "top1": best, **rest}]

    # Half of it; more than half; more than half of next to nothing.
    found = [*runs("swin", 80.0, 85.0), *runs("eva", 80.0, 84.9), *runs("siglip", 89.6, 89.7)]
    lines = accuracy.verdicts(accuracy.grouped(found)).splitlines()[2:]
    assert [line.split(" | ")[-1] for line in lines] == ["yes |", "no |", "yes |"]
