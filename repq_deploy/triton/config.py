"""``config.pbtxt``: everything that Triton is told of a model, so that it derives nothing.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

from repq_deploy.engines.backends import TritonBackend
from repq_deploy.engines.manifest import Manifest
from repq_deploy.export.names import BITS, CLASSES, INPUT, INPUT_FORM, MODEL, OUTPUT, PREPROCESS, TASK
from repq_deploy.triton.text import Value, Word, message

__all__ = ["LABELS", "MARK", "REFERENCE", "config_text"]

#: The first line: what tells our files from others.
MARK = (
    "# Written by repq-deploy; a rebuild writes it again. Your own settings: a file in configs/, --model-config-name."
)
LABELS = "labels.txt"
#: The image of the warm-up, in the folder where Triton looks for such files.
REFERENCE = "reference_0"

_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
#: Requests that may wait, in largest batches: beyond it a request is answered with an error at once.
_QUEUED_BATCHES = 16
#: What a client may ask of the model, from ``v2/models/NAME/config``.
_TOLD = (MODEL, BITS, TASK, INPUT_FORM, PREPROCESS, CLASSES)


def config_text(name: str, manifest: Manifest, backend: TritonBackend, *, labels: bool) -> str:
    """The configuration of the model ``name`` on ``backend``; ``labels``: its classes have names."""
    largest = backend.largest_batch(manifest.profile)
    image: dict[str, Value] = {"data_type": Word(_TYPES[manifest.input.dtype]), "dims": list(manifest.input.shape)}
    fields: dict[str, Value] = {
        "name": name,
        "backend": backend.name,
        "default_model_filename": None if backend.default_file else backend.file,
        "max_batch_size": largest,
        "input": {"name": INPUT, **image},
        "output": [
            {
                "name": output,
                "data_type": Word(_TYPES["float32"]),
                "dims": list(shape),
                "label_filename": LABELS if labels and output == OUTPUT else None,
            }
            for output, shape in manifest.named.shapes.items()
        ],
        "instance_group": {"count": 1, "kind": Word(backend.kind)},
        "version_policy": {"latest": {"num_versions": 1}},
        "dynamic_batching": {
            "preferred_batch_size": list(backend.preferred_batches(manifest.profile)),
            "max_queue_delay_microseconds": backend.delay_us,
            "default_queue_policy": {"max_queue_size": _QUEUED_BATCHES * largest},
        },
        "parameters": [
            {"key": key, "value": {"string_value": text}}
            for key, text in {**backend.parameters, **_told(manifest)}.items()
        ],
        "model_warmup": [
            {
                "name": f"batch of {size}",
                "batch_size": size,
                "inputs": {"key": INPUT, "value": {**image, "input_data_file": REFERENCE}},
            }
            for size in sorted({1, manifest.profile.opt})
        ],
    }
    return f"{MARK}\n{message(fields)}"


def _told(manifest: Manifest) -> dict[str, str]:
    return {key: manifest.metadata[key] for key in _TOLD if key in manifest.metadata}
