"""What Triton's extension calls a model's configuration: what its clients ask for beside the metadata."""

from __future__ import annotations

from typing import Any

from repq_deploy.serve.model import ServedModel
from repq_deploy.serve.settings import ServeSettings
from repq_deploy.serve.tensors import TensorMetadata

__all__ = ["model_config"]


def model_config(model: ServedModel, settings: ServeSettings) -> dict[str, Any]:
    """The fields of Triton's message ``ModelConfig`` that say something of ``model``, as its JSON has them.

    The parameters are what the engine's manifest records of the model, such as ``repq.preprocess`` and
    ``repq.classes``, so that a client knows what to send and what it gets.
    """
    manifest = model.manifest
    return {
        "name": model.name,
        "platform": manifest.backend,
        "backend": manifest.backend,
        "max_batch_size": model.largest,
        "input": [_tensor(model.input)],
        "output": [_tensor(each) for each in model.outputs],
        "dynamic_batching": {
            "preferred_batch_size": [settings.batch or manifest.profile.opt],
            "max_queue_delay_microseconds": int(1000 * settings.delay_ms),
        },
        "instance_group": [{"name": model.name, "count": settings.workers}],
        "parameters": {key: {"string_value": value} for key, value in manifest.metadata.items()},
    }


def _tensor(tensor: TensorMetadata) -> dict[str, Any]:
    """A tensor without its batch, which the largest batch stands for."""
    return {"name": tensor.name, "data_type": f"TYPE_{tensor.datatype}", "dims": list(tensor.shape[1:])}
