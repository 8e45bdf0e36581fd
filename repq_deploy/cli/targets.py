"""What ``repq-eval`` can evaluate: an engine, an ONNX file or OpenVINO IR, a saved quantized model, or a timm model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from repq_deploy.calib_data import Preprocess
from repq_deploy.calib_data.classes import check_names
from repq_deploy.cli.common import console, say_note
from repq_deploy.cli.download import find_weights, getting_weights
from repq_deploy.engines.backends.onnxruntime import BACKEND as REFERENCE
from repq_deploy.engines.backends.onnxruntime import open_reference
from repq_deploy.engines.foreign import foreign_formats, open_plain
from repq_deploy.engines.manifest import Manifest, read_manifest
from repq_deploy.engines.prove_engine import PASSED
from repq_deploy.engines.runner import open_runner
from repq_deploy.engines.source import read_source
from repq_deploy.errors import BadInput
from repq_deploy.evaluation import Target
from repq_deploy.export.names import CLASSES, recorded_classes, recorded_task
from repq_deploy.remote.address import is_address
from repq_deploy.tasks import Task

if TYPE_CHECKING:  # what runs an engine needs no torch
    import torch

    from repq_deploy.models.checkpoints import CheckpointFile

__all__ = ["ModelOptions", "is_model_name", "open_target", "recorded_preprocess", "runs_in_torch"]


@dataclass(frozen=True)
class ModelOptions:
    """The options that only a model's name takes, as for ``zoo.resolve``; a file says all this itself."""

    checkpoint: CheckpointFile | None = None
    num_classes: int | None = None
    img_size: int | tuple[int, int] | None = None
    pretrained: bool = True


def is_model_name(name: str) -> bool:
    """Whether ``name`` is to be read as a model's name, not as a file's."""
    return not name.endswith(_files()) and not is_address(name)


def runs_in_torch(name: str) -> bool:
    """Whether the target ``name`` is a PyTorch model: a saved one, or one that is built from its name."""
    return is_model_name(name) or name.endswith(".safetensors")


def open_target(
    name: str,
    options: ModelOptions,
    *,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    device: torch.device | None = None,
    served: Manifest | None = None,
) -> Target:
    """Open what ``name`` says: a file by its suffix, an address of a served model, anything else as a model's name.

    ``preprocess`` is for files that record none: ONNX files of other tools, and IRs. ``device``: of PyTorch models.
    ``served``: of the engine that a served model is, for what its server does not say.

    Raises:
        BadInput: no such file or model, or one that cannot be read.
        BackendMissing: the engine's runtime or device is not on this machine.
    """
    if is_address(name):
        from repq_deploy.cli.serving.served import open_served

        return open_served(name, preprocess, served)
    if name.endswith(".engine"):
        runner, manifest = open_runner(Path(name))
        recorded = _recorded(manifest.metadata, name)
        # An engine that failed, or was never run, is still measured: that is how one finds out what is wrong.
        verdict = "" if manifest.validation.verdict == PASSED else f", {manifest.validation.verdict}"
        if verdict:
            say_note(f"engine {name}: validation ended in {manifest.validation.verdict}: {manifest.validation.reason}")
        return Target(
            name,
            f"engine ({manifest.backend}{verdict})",
            runner,
            recorded,
            manifest.outputs,
            _class_names(manifest.metadata),
            _task(manifest.metadata, name),
            manifest.input,
        )
    if name.endswith(tuple(foreign_formats())) and not _is_ours(Path(name)):
        return _plain(name, preprocess)
    if name.endswith(".onnx"):
        source = read_source(Path(name))
        recorded, names = _recorded(source.metadata, name), _class_names(source.metadata)
        kind = f"canonical ONNX ({REFERENCE.name})"
        return Target(name, kind, open_reference(source), recorded, source.outputs, names, source.task, source.input)
    if name.endswith(".safetensors"):
        from repq_deploy.devices import predictor
        from repq_deploy.models.families import task_of
        from repq_deploy.quant import saved

        quantized = saved.load(Path(name))
        recorded, names = _recorded({"repq.preprocess": quantized.preprocess_json}, name), quantized.provenance.classes
        kind, predict = f"quantized model ({_in_torch(device)})", predictor(quantized, device)
        network = quantized.model
        return Target(name, kind, predict, recorded, _size(network), names, task_of(network))
    if Path(name).is_file():
        raise BadInput(f"{name}: expected a file ending in {', '.join(_files())}, or a model's name")
    from repq_deploy.devices import predictor
    from repq_deploy.models import zoo
    from repq_deploy.models.families import task_of
    from repq_deploy.models.loading import build
    from repq_deploy.models.preprocessing import preprocess_of

    weights = find_weights(name, options.checkpoint, options.pretrained)
    spec = zoo.resolve(
        name,
        checkpoint=weights,
        num_classes=options.num_classes,
        img_size=options.img_size,
        pretrained=options.pretrained,
    )
    if spec.weights == "random":
        console.print(f"[bold red]RANDOM WEIGHTS[/]: {spec.name} is untrained")
    with getting_weights() as report:
        found = build(spec, weights, seed=seed, note=say_note, report=report)
    model, kind = found.network, f"float model ({_in_torch(device)})"
    predict, preprocess = predictor(model, device), preprocess_of(model)
    return Target(name, kind, predict, preprocess, _size(model), found.classes, task_of(model))


def recorded_preprocess(name: str) -> Preprocess:
    """The preprocessing that a file of ours records: an engine's manifest, a canonical ONNX, a quantized model."""
    path = Path(name)
    if path.suffix == ".engine":
        return _recorded(read_manifest(path).metadata, name)
    if path.suffix == ".onnx":
        return _recorded(read_source(path).metadata, name)
    if path.suffix == ".safetensors":
        from repq_deploy.quant import saved

        return _recorded({"repq.preprocess": saved.load(path).preprocess_json}, name)
    raise BadInput(f"--preprocess-from {name}: expected a file of ours ending in .engine, .onnx or .safetensors")


def _in_torch(device: torch.device | None) -> str:
    return "PyTorch" if device is None or device.type == "cpu" else f"PyTorch on {device}"


def _files() -> tuple[str, ...]:
    """The suffixes of what is read as a file."""
    return (*foreign_formats(), ".engine", ".safetensors")


def _is_ours(path: Path) -> bool:
    """Whether an ONNX file was made by ``repq-export``; what cannot be read is left to whoever reads it."""
    if path.suffix != ".onnx" or not path.is_file():
        return path.suffix == ".onnx"
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception:  # protobuf's DecodeError has no public base across its implementations
        return True
    return any(entry.key == "repq.model" for entry in model.metadata_props)


def _plain(name: str, preprocess: Preprocess | None) -> Target:
    """A file of another tool, as its user would run it."""
    if preprocess is None:
        raise BadInput(
            f"{name}: does not say its preprocessing; name a file of ours for the same model with --preprocess-from, "
            "or write it with repq-export"
        )
    model = open_plain(Path(name))
    if model.outputs is None or model.input.sides != preprocess.size:
        raise BadInput(
            f"{name}: takes images {model.input} and gives {model.outputs or 'any number of'} classes; "
            f"expected images of {preprocess.size} pixels as --preprocess-from records, and a fixed number"
        )
    kind = f"{model.kind} ({model.runtime})"
    return Target(name, kind, model.runner(), preprocess, model.outputs, input=model.input)


def _recorded(metadata: Mapping[str, str], name: str) -> Preprocess:
    if not metadata.get("repq.preprocess"):
        raise BadInput(f"{name}: does not say its preprocessing (repq.preprocess); export it again with repq-export")
    try:
        return Preprocess.from_json(metadata["repq.preprocess"])
    except BadInput as error:
        raise BadInput(f"{name}: {error}; export it again with repq-export") from error


def _class_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the outputs, where they are recorded."""
    if not metadata.get(CLASSES):
        return ()
    try:
        return check_names(recorded_classes(metadata), CLASSES)
    except ValueError as error:
        raise BadInput(f"{error}; export the model again") from error


def _task(metadata: Mapping[str, str], name: str) -> Task:
    try:
        return recorded_task(metadata)
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from error


def _size(model: Any) -> int:
    """How many numbers a model gives for each image."""
    from repq_deploy.models.taps import Tapped

    if not isinstance(model, Tapped):
        return int(model.num_classes or model.num_features)
    import torch

    from repq_deploy.devices import device_of
    from repq_deploy.models.preprocessing import preprocess_of

    with torch.no_grad():
        features = model(torch.zeros(1, 3, *preprocess_of(model).size, device=device_of(model)))
    return sum(one.numel() for one in features)
