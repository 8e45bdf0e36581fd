"""Tasks: what is a tie, what is not, and which score is reported."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from repq_deploy.engines.prove_engine import FAILED, PASSED, Tolerance, compare
from repq_deploy.models.families import task_of
from repq_deploy.tasks import CLASSIFICATION, FEATURES


def test_a_model_with_a_head_classifies_and_one_without_gives_features():
    options = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    assert task_of(timm.create_model("vit_tiny_patch16_224", num_classes=3, **options)) is CLASSIFICATION
    assert task_of(timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)) is FEATURES


def test_a_wrong_class_is_a_contradiction_unless_noise_explains_it():
    expected, found = np.array([[1.0, 2.0, 0.0]]), np.array([[1.6, 1.5, 0.0]])
    wrong = CLASSIFICATION.contradiction(expected, found, np.array([0.1]))
    assert wrong == "image 0: class 0 instead of 1, which leads by 1"
    assert CLASSIFICATION.contradiction(expected, found, np.array([0.2])) is None
    assert FEATURES.contradiction(expected, found, np.array([0.0])) is None
    assert (CLASSIFICATION.agreement(expected, found), FEATURES.agreement(expected, found)) == (0.0, None)


def test_features_are_judged_by_their_distance_alone():
    """The largest number of a feature vector is no decision."""
    expected = np.full((2, 400), 0.1, np.float32)
    expected[:, 0], expected[:, 1] = 4.0, 3.0
    found = expected.copy()
    found[:, 0], found[:, 1] = 3.2, 3.3
    allowed = Tolerance(min_sqnr_db=14.0, rounding_sqnr_db=40.0)
    as_classes, as_features = (compare(expected, found, allowed, task) for task in (CLASSIFICATION, FEATURES))
    assert (as_classes.verdict, as_features.verdict) == (FAILED, PASSED)
    assert "class 1 instead of 0" in as_classes.reason
    assert as_features.figures is not None
    assert as_features.figures.agreement is None
    assert compare(expected, -found, allowed, FEATURES).verdict == FAILED


def test_scores_of_classification_are_those_of_numpy():
    rng = np.random.default_rng(0)
    logits, other = rng.normal(size=(2, 50, 8)).astype(np.float32)
    labels = rng.integers(0, 8, 50)
    tallies = [CLASSIFICATION.scores(8), CLASSIFICATION.scores(8)]
    for scores, outputs in zip(tallies, (logits, other), strict=True):
        for rows in (slice(0, 20), slice(20, None)):
            scores.add(outputs[rows], labels[rows])
    top1, error, top5 = tallies[0].accuracy()
    hits = logits.argmax(1) == labels
    five = [label in row for label, row in zip(labels, (-logits).argsort(1)[:, :5], strict=True)]
    assert (top1, top5) == (pytest.approx(100 * hits.mean()), pytest.approx(100 * np.mean(five)))
    assert error == pytest.approx(100 * hits.std() / np.sqrt(50))
    agreement, difference, _ = tallies[0].against(tallies[1])
    assert agreement == pytest.approx(100 * (logits.argmax(1) == other.argmax(1)).mean())
    assert difference == pytest.approx(100 * (hits.mean() - (other.argmax(1) == labels).mean()))


def test_features_agree_by_their_mean_cosine():
    ours, theirs = FEATURES.scores(2), FEATURES.scores(2)
    ours.add(np.array([[1.0, 0.0], [2.0, 0.0]], np.float32), None)
    theirs.add(np.array([[3.0, 0.0], [1.0, 1.0]], np.float32), None)
    assert ours.against(theirs)[0] == pytest.approx(100 * (1 + np.sqrt(0.5)) / 2)
    assert ours.accuracy() == (None, None, None)


def test_what_counts_of_logits_is_what_softmax_sees():
    logits = torch.tensor([[1.0, 2.0, 6.0]])
    assert torch.equal(CLASSIFICATION.essence(logits + 5), CLASSIFICATION.essence(logits))
    assert float(CLASSIFICATION.distance(logits + 5, logits)) == pytest.approx(0, abs=1e-6)
    assert float(FEATURES.distance(logits + 5, logits)) > 1
    assert FEATURES.decisive(logits) is None
    assert FEATURES.likelihood(logits, torch.Generator()) is None
