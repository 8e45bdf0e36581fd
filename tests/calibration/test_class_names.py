"""Names of outputs from class folders: taken where the model's answers tell their order, and nowhere else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import repq_deploy
from repq_deploy.calib_data.classes import names_by_answers
from repq_deploy.calib_data.images import LoadedImages
from repq_deploy.calib_data.sources import ImageSource, made_images
from repq_deploy.models.loading import FloatModel
from tests.conftest import SPECS, float_model, images_for

NUMBERS = tuple(sorted(map(str, range(12))))


def source_of(names: tuple[str, ...], labels: list[int]) -> ImageSource:
    return ImageSource(
        "f", ("",) * len(labels), np.array(labels), names, lambda _: Image.new("RGB", (1, 1)), str.encode
    )


def places(names: tuple[str, ...], order: tuple[str, ...], labels: list[int], wrong: int = 0) -> np.ndarray:
    """What a model whose outputs are in ``order`` answers, but for the first ``wrong`` images."""
    answers = np.array([order.index(names[label]) for label in labels])
    answers[:wrong] = (answers[:wrong] + 1) % len(names)
    return answers


@pytest.mark.parametrize(
    ("names", "order", "wrong", "known"),
    [
        (("cat", "dog", "owl"), ("cat", "dog", "owl"), 8, True),
        (("cat", "dog", "owl"), ("owl", "dog", "cat"), 0, False),
        (("cat", "dog", "owl"), ("cat", "dog", "owl"), 20, False),  # not better than by chance
        (NUMBERS, NUMBERS, 8, True),  # as torchvision
        (NUMBERS, tuple(map(str, range(12))), 8, True),  # as timm
        (("Zebra", "ape", "cow"), ("ape", "cow", "Zebra"), 0, True),  # as timm too
    ],
)
def test_the_order_is_the_one_that_the_answers_have(names, order, wrong, known):
    labels = [index % len(names) for index in range(32)]
    found = names_by_answers(source_of(names, labels), places(names, order, labels, wrong))
    assert found == (order if known else ())


def test_classes_that_are_in_one_place_in_both_orders_tell_none():
    labels = [0] * 32  # the folder "0" is first in both
    assert names_by_answers(source_of(NUMBERS, labels), np.zeros(32, np.int64)) == ()


def test_a_few_images_of_few_classes_prove_nothing():
    labels = [0, 1] * 7
    assert names_by_answers(source_of(("no", "yes"), labels), np.array(labels)) == ()
    assert names_by_answers(source_of(("no", "yes"), labels * 2), np.array(labels * 2)) == ("no", "yes")


def test_a_quantized_model_has_the_names_of_its_folders():
    pixels, network = images_for("vit", 32), float_model("vit")
    with torch.no_grad():
        answers = network.eval()(pixels).argmax(dim=1).numpy()
    names = tuple("abcde")
    source = dataclasses.replace(made_images("x", pixels.numpy()), labels=answers, class_names=names)
    model, images = FloatModel(network, SPECS["vit"], None), LoadedImages(pixels.numpy(), source)
    options = {"bits": "w8a8", "method": "minmax"}
    assert repq_deploy.quantize(model, images, **options).provenance.classes == names
    assert repq_deploy.quantize(model, images, classes=list("vwxyz"), **options).provenance.classes == tuple("vwxyz")
    others = LoadedImages(pixels.numpy(), dataclasses.replace(source, labels=(answers + 1) % 5))
    assert repq_deploy.quantize(model, others, **options).provenance.classes == ()
