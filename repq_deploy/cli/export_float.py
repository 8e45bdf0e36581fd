"""``repq-export --float``: the model as it is, to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from repq_deploy.cli.common import console, say_note
from repq_deploy.cli.download import getting_weights
from repq_deploy.errors import BadInput

if TYPE_CHECKING:
    from repq_deploy.models.checkpoints import CheckpointFile
    from repq_deploy.models.libraries.folder import ModelFolder

__all__ = ["check_count", "write_float"]


def check_count(names: tuple[str, ...], network: Any) -> None:
    """Refuse names of classes that are not as many as the model has."""
    if names and len(names) != network.num_classes:
        raise BadInput(f"--classes: {len(names)} names, the model has {network.num_classes} classes")


def write_float(
    spec: Any,
    weights: CheckpointFile | ModelFolder | None,
    output: Path,
    seed: int,
    names: tuple[str, ...],
    opset: int,
    *,
    input: str,
    layout: str,
    dry_run: bool,
) -> dict[str, Any]:
    """Write the float model of ``spec`` unless it is a ``dry_run``; what the command answers."""
    from repq_deploy.export.canonical import write_canonical
    from repq_deploy.export.float_model import float_onnx
    from repq_deploy.export.opsets import at_opset
    from repq_deploy.inputs import ImageInput
    from repq_deploy.models.loading import build
    from repq_deploy.models.preprocessing import preprocess_of

    if not dry_run:
        with getting_weights() as report:
            found = build(spec, weights, seed=seed, note=say_note, report=report)
        check_count(names, found.network)
        preprocess = preprocess_of(found.network)
        with console.status("exporting to ONNX"):
            model = float_onnx(
                found.network,
                (3, *preprocess.size),
                form=ImageInput(preprocess.size, input, layout),
                name=spec.name,
                preprocess=preprocess.to_json(),
                classes=names or found.classes,
            )
        write_canonical(at_opset(model, opset), output)
    return {
        "output": str(output),
        "model": spec.name,
        "bits": "float",
        "input": f"{input} {layout}",
        "dry_run": dry_run,
    }
