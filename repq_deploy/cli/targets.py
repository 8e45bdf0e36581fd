"""What ``repq-eval`` can evaluate: an engine, a canonical ONNX file, a saved quantized model, or a timm model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repq_deploy import models, quantized
from repq_deploy.calib_data import Preprocess
from repq_deploy.cli.common import console
from repq_deploy.engines.ort import open_reference
from repq_deploy.engines.runner import open_engine
from repq_deploy.engines.source import read_source
from repq_deploy.errors import BadInput
from repq_deploy.evaluation import Target

__all__ = ["ModelOptions", "is_model_name", "open_target"]

_FILES = (".onnx", ".engine", ".safetensors")


@dataclass(frozen=True)
class ModelOptions:
    """The options that only a model's name takes, as for ``models.resolve``; a file says all this itself."""

    checkpoint: Path | None = None
    num_classes: int | None = None
    img_size: int | None = None
    pretrained: bool = True


def is_model_name(name: str) -> bool:
    """Whether ``name`` is to be read as a model's name, not as a file's."""
    return not name.endswith(_FILES)


def open_target(name: str, options: ModelOptions, *, seed: int = 0) -> Target:
    """Open what ``name`` says: a file by its suffix, anything else as a model's name.

    Raises:
        BadInput: no such file or model, or one that cannot be read.
        BackendMissing: the engine's runtime or device is not on this machine.
    """
    if name.endswith(".engine"):
        runner, manifest = open_engine(Path(name))
        preprocess = _recorded(manifest.metadata, name)
        return Target(name, f"engine ({manifest.backend})", runner, preprocess, manifest.classes)
    if name.endswith(".onnx"):
        source = read_source(Path(name))
        preprocess = _recorded(source.metadata, name)
        return Target(name, "canonical ONNX (onnxruntime)", open_reference(source), preprocess, source.classes)
    if name.endswith(".safetensors"):
        saved = quantized.load(Path(name))
        preprocess = _recorded({"repq.preprocess": saved.preprocess_json}, name)
        return Target(name, "quantized model (PyTorch)", _predictor(saved), preprocess, _classes(saved.model))
    if Path(name).is_file():
        raise BadInput(f"{name}: expected a file ending in {', '.join(_FILES)}, or a model's name")
    spec = models.resolve(
        name,
        checkpoint=options.checkpoint,
        num_classes=options.num_classes,
        img_size=options.img_size,
        pretrained=options.pretrained,
    )
    if spec.weights == "random":
        console.print(f"[bold red]RANDOM WEIGHTS[/]: {spec.name} is untrained")
    model = models.create(spec, options.checkpoint, seed)
    return Target(name, "float model (PyTorch)", _predictor(model), Preprocess.from_model(model), _classes(model))


def _recorded(metadata: Mapping[str, str], name: str) -> Preprocess:
    if not metadata.get("repq.preprocess"):
        raise BadInput(f"{name}: does not say its preprocessing (repq.preprocess); export it again with repq-export")
    return Preprocess.from_json(metadata["repq.preprocess"])


def _predictor(model: nn.Module) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    @torch.inference_mode()
    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
        return logits

    return predict


def _classes(model: Any) -> int:
    return int(model.num_classes)
