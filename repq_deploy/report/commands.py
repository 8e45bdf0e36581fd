"""The commands that make a report's files again, from what the files record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from repq_deploy.engines.manifest import Manifest
from repq_deploy.export.names import INPUT_FORM
from repq_deploy.records import parse_json
from repq_deploy.report.facts import ModelFact

__all__ = ["build_command", "export_command"]


def export_command(model: ModelFact) -> str | None:
    """The ``repq-export`` that writes the canonical file, with words in capitals for what no file records; None of a
    model that was exported from Python."""
    metadata = model.metadata
    spec = _spec(metadata)
    if spec.get("weights") == "own" or not spec:
        return None
    words = ["repq-export", model.name]
    words += ["--bits", metadata["repq.bits"]] if metadata.get("repq.bits") else ["--float"]
    if metadata.get("repq.bits"):
        method = metadata.get("repq.method", "best")
        words += ["--recipe", "RECIPE.yaml"] if method == "recipe" else ["--method", method]
        words += [word for key, word in _OPTIONS.items() if key in metadata for word in (word, metadata[key])]
        words += [] if spec.get("weights") == "demo" else ["--calib-data", "IMAGES"]
    words += _of_model(spec)
    if metadata.get("repq.classes"):
        words += ["--classes", "NAMES.txt"]
    if metadata.get(INPUT_FORM):
        form = parse_json(metadata[INPUT_FORM])
        words += ["--input", form["dtype"], "--input-layout", form["layout"]]
    return shlex.join([*words, "-o", model.source_name])


def build_command(manifest: Manifest) -> str:
    """The ``repq-build-engine`` that builds an engine from its canonical file."""
    words = ["repq-build-engine", manifest.source.name, "--backend", manifest.backend]
    words += ["--precision", manifest.precision, "--compute", manifest.compute]
    words += ["--allow-rounding"] * manifest.allow_rounding
    for option, value in (("--cpu", manifest.cpu), ("--target", None if manifest.cpu else manifest.target)):
        words += [option, value.replace("+", ",")] if value else []
    profile = manifest.profile
    words += ["--min-batch", str(profile.min), "--opt-batch", str(profile.opt), "--max-batch", str(profile.max)]
    suffix = f".{manifest.backend}"
    stem = PurePath(manifest.engine.name).name.partition(suffix)[0]
    return shlex.join(words + (["-o", stem] if stem != PurePath(manifest.source.name).stem else []))


_OPTIONS = {
    "repq.preset": "--preset",
    "repq.softmax": "--softmax",
    "repq.calib.images": "--num-calib",
    "repq.seed": "--seed",
}


def _spec(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = parse_json(metadata.get("repq.spec", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _of_model(spec: Mapping[str, Any]) -> list[str]:
    """The options that say which weights the model has, and which sizes."""
    if spec.get("weights") == "demo":
        return []
    words = ["--no-pretrained"] if spec.get("weights") == "random" else []
    words += ["--checkpoint", "WEIGHTS"] if spec.get("checkpoint_sha256") else []
    arguments = spec.get("kwargs")
    if not isinstance(arguments, dict):
        return words
    if size := arguments.get("img_size"):
        words += ["--img-size", "x".join(map(str, size)) if isinstance(size, list) else str(size)]
    if (classes := arguments.get("num_classes")) is not None:
        words += ["--num-classes", str(classes)]
    return words
