"""``repq-build-engine --exchange DIR``: an engine's reference for NVIDIA's tools, with the commands that use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repq_deploy.engines.manifest import Manifest
from repq_deploy.engines.reference import Reference
from repq_deploy.exchange.commands import polygraphy_run, trtexec_compare
from repq_deploy.exchange.folder import prepare_folder, write_together
from repq_deploy.exchange.tensors import OUTPUTS_JSON, reference_tensors, tensor_file_names, tensor_files
from repq_deploy.outputs import Outputs

__all__ = ["Exchange", "check_exchange", "write_exchange"]

#: By backend: Polygraphy's runner and type of model, and the variable that it needs. It has none for OpenVINO.
_POLYGRAPHY = {
    "onnxruntime": ("onnxrt", "onnx", None),
    "tensorrt": ("trt", "engine", None),
    "tensorrt-rtx": ("trt", "engine", "POLYGRAPHY_USE_TENSORRT_RTX=1"),
}


@dataclass(frozen=True)
class Exchange:
    """The ``files`` that were written, and the ``commands`` that run an engine on them and compare, by tool."""

    files: tuple[Path, ...]
    commands: dict[str, str]


def check_exchange(folder: Path, named: Outputs, *, force: bool) -> None:
    """Raise BadInput where the tensors of a model with the outputs ``named`` cannot be written into ``folder``."""
    names = tensor_file_names(named.names)
    prepare_folder(folder, names, mark=OUTPUTS_JSON, what="--exchange", force=force)


def write_exchange(folder: Path, engine: Path, manifest: Manifest, reference: Reference) -> Exchange:
    """Write the tensors of ``reference`` into ``folder``, as one batch that ``engine`` takes."""
    tensors = reference_tensors(reference, manifest.named, manifest.profile)
    files = write_together(folder, tensor_files(tensors))
    limit, commands = manifest.validation.tolerance.min_sqnr_db, {}
    if manifest.backend in _POLYGRAPHY:
        runner, kind, setting = _POLYGRAPHY[manifest.backend]
        commands["polygraphy"] = polygraphy_run(
            engine, folder, runner=runner, kind=kind, min_sqnr_db=limit, setting=setting
        )
    if manifest.backend == "tensorrt":
        commands["trtexec"] = trtexec_compare(engine, folder, tensors, min_sqnr_db=limit)
    return Exchange(files, commands)
