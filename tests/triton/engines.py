"""Engines on disk whose manifests say what a test asks for; TensorRT's needs no GPU, as nothing opens it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from repq_deploy.engines.batching import Profile
from repq_deploy.engines.manifest import FileRecord, Manifest, manifest_path
from repq_deploy.engines.prove_engine import PASSED, Tolerance, Validation
from repq_deploy.engines.reference import Reference

SIDE, CLASSES = 8, 4
NAMES = '["ape", "bee \\"b\\"", "cat", "dog"]'
MANIFEST = Manifest(
    backend="onnxruntime",
    target=None,
    precision="fp32",
    engine=FileRecord("vit.onnxruntime.engine", "ab" * 32),
    source=FileRecord("vit.onnx", "cd" * 32),
    reference="vit.reference.npz",
    reference_inputs="noise",
    image_shape=(3, SIDE, SIDE),
    outputs=CLASSES,
    profile=Profile(1, 4, 16),
    versions={"repq-deploy": "0.1.0", "onnxruntime": "1.31.1"},
    session={},
    passes=(),
    lowering_sqnr_db=200.0,
    metadata={"repq.model": "vit", "repq.bits": "w8a8", "repq.preprocess": '{"size": 8}', "repq.classes": NAMES},
    validation=Validation(PASSED, "fine", Tolerance(25, 40.5)),
)


def write_engine(folder: Path, content: bytes = b"engine", **fields: Any) -> tuple[Path, Manifest]:
    """An engine of ``content`` with a manifest of these ``fields`` and a reference of noise beside it."""
    backend = fields.get("backend", MANIFEST.backend)
    name = fields.pop("name", "vit")
    engine = folder / f"{name}.{backend}.engine"
    record = FileRecord(engine.name, hashlib.sha256(content).hexdigest())
    manifest = dataclasses.replace(MANIFEST, engine=record, **fields)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, *manifest.input.shape)).astype(manifest.input.dtype)
    logits = rng.standard_normal((6, manifest.outputs), dtype=np.float32)
    reference = Reference(images, logits, {"fp16": 50.0, "fp32": 60.0}, manifest.source.sha256, "noise")
    folder.mkdir(exist_ok=True)
    engine.write_bytes(content)
    engine.with_name(manifest.reference).write_bytes(reference.to_bytes())
    manifest_path(engine).write_text(manifest.to_json())
    return engine, manifest
