"""Which images ``repq-export`` calibrates on, and how many, where nothing is said."""

from __future__ import annotations

import pytest

from repq_deploy.bits import BitWidths
from repq_deploy.cli.common import say_calibration
from repq_deploy.cli.export_run import _count
from repq_deploy.methods import find_method


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("deit_b", "pretrained", "photos"),
        ("deit_b", "checkpoint", "photos"),
        ("deit_b", "random", "demo:calib"),
        ("demo", "demo", "demo:calib"),
        ("demo", "checkpoint", "demo:calib"),  # of small grey pictures, as the demo's architecture takes them
    ],
)
def test_trained_models_have_the_photographs_and_others_what_fits_them(name, weights, expected, capsys):
    assert say_calibration(None, name, weights) == expected
    assert ("photographs" in capsys.readouterr().err) == (expected == "photos")
    assert say_calibration("mine", name, weights) == "mine"


@pytest.mark.parametrize(
    ("origin", "method", "bits", "expected"),
    [
        ("photos", "best", "w8a8", 128),
        ("photos", "best", "w6a6", 128),
        ("photos", "best", "w4a8", 512),
        ("photos", "repq", "w6a4", 512),
        ("photos", "repq", "w6a6", 32),
        ("photos", "best-high", "w4a4", 1024),
        ("demo:calib", "best-high", "w4a4", 256),
        ("demo:calib", "best", "w4a4", 128),
        ("synthetic", "repq", "w4a4", 32),
    ],
)
def test_few_bits_take_more_photographs(origin, method, bits, expected):
    assert _count(origin, find_method(method), BitWidths.parse(bits), None) == expected
    assert _count(origin, find_method(method), BitWidths.parse(bits), 7) == 7
