"""The count of what is supported, on two architectures, and how it is written down."""

from __future__ import annotations

import json

import pytest

from repq_deploy.models.libraries.listing import Listed, look_at


@pytest.fixture
def coverage(benchmark, monkeypatch, tmp_path):
    module = benchmark("coverage")
    monkeypatch.setattr(module, "LINES", tmp_path / "coverage.jsonl")
    return module


def test_two_blocks_in_each_stage(coverage):
    assert coverage.shallow("deit_tiny_patch16_224") == {"depth": 2}
    assert coverage.shallow("swin_tiny_patch4_window7_224") == {"depths": (2, 2, 2, 2)}
    assert coverage.shallow("swinv2_cr_tiny_ns_224") == {"depths": (2, 2, 2, 2)}
    assert coverage.shallow("vit_large_patch16_sapiens2") == {"depth": 2, "num_kv_heads": (16, 8)}


def test_an_export_is_kept_and_one_that_failed_is_tried_when_asked(coverage, monkeypatch):
    monkeypatch.setattr(coverage, "export_apart", lambda name, count: {"error": "out of memory"})
    coverage.export_all(["deit_tiny_patch16_224"], count=2, again=False)
    monkeypatch.setattr(coverage, "export_apart", lambda name, count: {"sites": 18})
    coverage.export_all(["deit_tiny_patch16_224"], count=2, again=False)
    assert coverage.exported()["deit_tiny_patch16_224"]["error"] == "out of memory"
    coverage.export_all(["deit_tiny_patch16_224"], count=2, again=True)
    assert coverage.exported()["deit_tiny_patch16_224"]["sites"] == 18


def test_the_table(coverage):
    record = {"name": "deit_tiny_patch16_224", "pixels": [224, 224], "sites": 18, "codes_equal_worst": 0.99998}
    record |= {"relative_error": 2e-7, "onnx_mb": 1.4, "seconds": 15.5, "peak_gb": 0.9}
    coverage.LINES.write_text(json.dumps(record) + "\n")
    found = [*look_at(["deit_tiny_patch16_224"]), Listed("eva02_tiny_patch14_224", "", {}, "not yet")]
    text = coverage.report(found)
    assert "1 of 2 architectures with pretrained weights are accepted" in text
    assert "| deit | 1 | 1 | 1 | 0 |\n" in text
    assert "| eva | 1 | 0 | 0 | 0 |\n" in text
    assert "* eva02_tiny_patch14_224: not yet\n" in text
    assert "| deit_tiny_patch16_224 | 224x224 | 18 | 1 | 2e-07 | 1.4 | 15.5 | 0.9 |\n" in text
