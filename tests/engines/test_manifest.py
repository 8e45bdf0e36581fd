"""The manifest survives JSON, and anything else in its place is refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repq_deploy.engines.batching import Profile
from repq_deploy.engines.manifest import (
    FileRecord,
    KernelCodes,
    Manifest,
    PassCount,
    manifest_path,
    read_manifest,
)
from repq_deploy.engines.prove_engine import PASSED, Figures, Tolerance, Validation
from repq_deploy.errors import BadInput

MANIFEST = Manifest(
    backend="tensorrt-rtx",
    target="sm80+sm89",
    precision="fp16",
    engine=FileRecord("vit.tensorrt-rtx-sm80-sm89.engine", "ab" * 32),
    source=FileRecord("vit.onnx", "cd" * 32),
    reference="vit.reference.npz",
    reference_inputs="noise",
    image_shape=(3, 224, 224),
    outputs=1000,
    profile=Profile(1, 4, 16),
    versions={"repq-deploy": "0.1.0", "tensorrt-rtx": "1.7.1"},
    session={},
    passes=(PassCount("ToHalf", 12),),
    lowering_sqnr_db=200.0,
    metadata={"repq.model": "vit", "repq.bits": "w4a4"},
    validation=Validation(PASSED, "fine", Tolerance(22, 40.5), Figures(6, 0.1, 0.01, 0.999, 41, 39.5, 1)),
)


def test_round_trip() -> None:
    assert Manifest.from_json(MANIFEST.to_json(), name="m") == MANIFEST
    plain = dataclasses.replace(MANIFEST, target=None, cpu="any", kernel_codes=KernelCodes(50, 1000, 2, 0))
    assert Manifest.from_json(plain.to_json(), name="m") == plain
    assert MANIFEST.bits == "w4a4"


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("format", to=1), "format 1, expected 3"),
        (lambda data: data.pop("outputs"), "lacks outputs"),
        (_set("colour", to="red"), "unknown colour"),
        (_set("outputs", to="many"), "manifest.outputs is 'many', expected int"),
        (_set("outputs", to=True), "manifest.outputs is True, expected int"),
        (_set("engine", to="x.engine"), "manifest.engine is 'x.engine', expected an object"),
        (_set("engine", "sha256", to=None), "manifest.engine.sha256 is None"),
        (_set("image_shape", to=[3, 224, "x"]), r"manifest.image_shape\[2\] is 'x'"),
        (_set("versions", to={"onnx": 1}), "manifest.versions.onnx is 1, expected str"),
        (_set("passes", to=[{"name": "x"}]), r"manifest.passes\[0\] lacks changed"),
        (_set("validation", "verdict", to="FINE"), "verdict is 'FINE'"),
        (_set("profile", "max", to=0), "expected 1 <= min <= opt <= max"),
        (_set("reference", to="../../secret.npz"), "another folder"),
    ],
)
def test_a_changed_manifest_is_refused_by_name(change: Callable[[dict[str, Any]], None], words: str) -> None:
    data = json.loads(MANIFEST.to_json())
    change(data)
    with pytest.raises(BadInput, match=words):
        Manifest.from_json(json.dumps(data), name="m")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="manifest m: "):
        Manifest.from_json(text, name="m")


def test_a_missing_or_binary_manifest_is_named(tmp_path: Path) -> None:
    engine = tmp_path / "vit.v2.onnxruntime.engine"
    with pytest.raises(BadInput, match=r"vit\.v2\.onnxruntime\.json: no such file"):
        read_manifest(engine)
    manifest_path(engine).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        read_manifest(engine)


def test_a_backend_that_is_none_is_refused_with_those_there_are() -> None:
    text = MANIFEST.to_json().replace('"backend": "tensorrt-rtx"', '"backend": "tpu"')
    with pytest.raises(
        BadInput, match="backend is 'tpu', expected one of onnxruntime, openvino, tensorrt, tensorrt-rtx"
    ):
        Manifest.from_json(text, name="m")


def test_named_outputs_are_those_of_the_metadata_and_make_all_its_numbers() -> None:
    assert MANIFEST.named.shapes == {"logits": (1000,)}
    record = '{"features_2": [197, 384], "features_11": [197, 384]}'
    features = dataclasses.replace(
        MANIFEST, outputs=2 * 197 * 384, metadata={**MANIFEST.metadata, "repq.outputs": record}
    )
    assert Manifest.from_json(features.to_json(), name="m").named.shapes == {
        "features_2": (197, 384),
        "features_11": (197, 384),
    }
    with pytest.raises(BadInput, match="outputs is 1000, expected 151296"):
        Manifest.from_json(dataclasses.replace(features, outputs=1000).to_json(), name="m")
    for damaged in ("{}", '{"a": [0]}', '{"a": ["x"]}', "[1]", '{"a": [100000000, 100]}'):
        wrong = dataclasses.replace(features, metadata={"repq.outputs": damaged})
        with pytest.raises(BadInput, match="outputs"):
            Manifest.from_json(wrong.to_json(), name="m")
