"""``repq-export --list-models``."""

from __future__ import annotations

import json

import pytest

from repq_deploy.cli import export
from repq_deploy.models.libraries.listing import FOLDS


@pytest.fixture
def run(call):
    return lambda *arguments: call(export.main, *arguments)


def test_people_read_what_is_supported(run):
    done = run("--list-models", "deit3_small_patch16_*")
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0].split()[:3] == ["model", "family", "norms"]
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["deit3_small_patch16_224", "VisionTransformer", "all"],
        ["deit3_small_patch16_384", "VisionTransformer", "all"],
    ]
    assert lines[3].startswith("2 of 2 architectures are supported")
    assert lines[-1].startswith("also folders and hub ids of Hugging Face's transformers: vit, deit")


def test_json_has_the_reasons_too(run):
    done = run("--list-models", "vit_small_patch16_18x2_224", "--json")
    found = json.loads(done.out)
    assert found["folds"] == FOLDS
    (model,) = found["models"]
    assert model["name"] == "vit_small_patch16_18x2_224"
    assert "ParallelThingsBlock" in model["reason"] or model["family"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--list-models", "diet*"), "--list-models diet*: matches none of timm's architectures"),
        (("--list-models", "--bits", "w4a4"), "--bits: has no effect beside --list-models"),
        ((), "Missing argument 'MODEL'; see repq-export --help"),
        (("deit_s",), "Missing option '-o'; see repq-export --help"),
    ],
)
def test_bad_input(run, arguments, message):
    done = run(*arguments)
    assert done.code == 2
    assert message in done.err
