"""The names in a canonical file: of its input and outputs, and of what its metadata record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from repq_deploy.inputs import ImageInput
from repq_deploy.outputs import Outputs
from repq_deploy.records import decode, parse_json
from repq_deploy.tasks import CLASSIFICATION, TASKS, Task

if TYPE_CHECKING:
    import onnx

INPUT = "images"
#: Bounds of what is read of outputs.
_MOST_OUTPUTS, _LONGEST_NAME, _MOST_NUMBERS = 256, 200, 2**28
#: The only output of a model that does not name its own.
OUTPUT = "logits"

#: Every key of ours begins with it.
PREFIX = "repq."
MODEL, SPEC, PREPROCESS, CLASSES, TASK = (
    f"{PREFIX}{key}" for key in ("model", "spec", "preprocess", "classes", "task")
)
BITS, PRESET, METHOD, SOFTMAX = (f"{PREFIX}{key}" for key in ("bits", "preset", "method", "softmax"))
DIGEST, DEFAULT_SESSION = f"{PREFIX}quantizers.sha256", f"{PREFIX}default_session"
#: The rewrites of its method that the model's architecture does not allow, a JSON list of lines.
REFUSED = f"{PREFIX}refused"
#: What is rotated while the model runs, in words; no entry where nothing is.
ONLINE = f"{PREFIX}rotated_online"
#: What export measured of each quantizer (``measures.record``).
SITES = f"{PREFIX}sites"
#: The path of the quantized part, in the file of a bigger model.
PART = f"{PREFIX}part"
#: The shapes of named outputs for one image, in the graph's order; no entry where there is ``OUTPUT`` alone.
OUTPUTS = f"{PREFIX}outputs"
#: Type and layout of the images, JSON; no entry where they are float32 [batch, 3, H, W].
INPUT_FORM = f"{PREFIX}input"
#: Of a float twin: the bits of the canonical file that it was made from.
FLOAT_OF = f"{PREFIX}float_of"


def task_entry(task: Task) -> dict[str, str]:
    """What a file records of its task; one that records none is a classifier."""
    return {} if task is CLASSIFICATION else {TASK: task.name}


def recorded_task(metadata: Mapping[str, str]) -> Task:
    """The inverse of ``task_entry``.

    Raises:
        ValueError: another task than those we have.
    """
    name = metadata.get(TASK, CLASSIFICATION.name)
    if name not in TASKS:
        raise ValueError(f"{TASK} is {name[:40]!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]


def outputs_entry(model: onnx.ModelProto) -> dict[str, str]:
    """What a file records of its outputs, read off its graph.

    Raises:
        ValueError: an output whose shape, beyond the batch, is not fixed.
    """
    if [value.name for value in model.graph.output] == [OUTPUT]:
        return {}
    shapes = {}
    for value in model.graph.output:
        _, *sizes = (dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        if not all(sizes):
            raise ValueError(f"output {value.name}: expected [batch, ...] with fixed sizes behind the batch")
        shapes[value.name] = sizes
    return {OUTPUTS: json.dumps(shapes)}


def recorded_outputs(metadata: Mapping[str, str]) -> Outputs | None:
    """The inverse of ``outputs_entry``; None where the output is ``OUTPUT``.

    Raises:
        ValueError: the record is damaged.
    """
    if OUTPUTS not in metadata:
        return None
    found = Outputs(decode(dict[str, tuple[int, ...]], parse_json(metadata[OUTPUTS]), OUTPUTS))
    sizes = [size for shape in found.shapes.values() for size in shape]
    if not 0 < len(found.shapes) <= _MOST_OUTPUTS or not all(size > 0 for size in sizes):
        raise ValueError(f"{OUTPUTS}: expected 1 to {_MOST_OUTPUTS} outputs of positive sizes")
    if any(len(name) > _LONGEST_NAME for name in found.names) or found.numbers > _MOST_NUMBERS:
        raise ValueError(f"{OUTPUTS}: a name or a shape is too long")
    return found


def input_entry(form: ImageInput | None) -> dict[str, str]:
    """What a file records of its images."""
    if form is None or not form.takes_pixels:
        return {}
    return {INPUT_FORM: json.dumps({"dtype": form.dtype, "layout": form.layout}, sort_keys=True)}


def recorded_input(metadata: Mapping[str, str], shape: Sequence[int]) -> ImageInput:
    """The inverse of ``input_entry``, of a model whose images have ``shape``.

    Raises:
        ValueError: the record is damaged, or does not fit the shape.
    """
    if INPUT_FORM not in metadata:
        return ImageInput.of_shape(shape, "float32", "nchw")
    form = decode(dict[str, str], parse_json(metadata[INPUT_FORM]), INPUT_FORM)
    if form.keys() != {"dtype", "layout"}:
        raise ValueError(f"{INPUT_FORM}: found {', '.join(sorted(form))[:60] or 'nothing'}, expected dtype and layout")
    return ImageInput.of_shape(shape, form["dtype"], form["layout"])


def recorded_classes(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The names of a classifier's outputs in their order; empty where they are not known.

    Raises:
        ValueError: the record is damaged.
    """
    found: tuple[str, ...] = decode(tuple[str, ...], parse_json(metadata.get(CLASSES, "[]")), CLASSES)
    return found


def recorded_refusals(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The rewrites of its method that the model's architecture does not allow, a line each.

    Raises:
        ValueError: the record is damaged.
    """
    found: tuple[str, ...] = decode(tuple[str, ...], parse_json(metadata.get(REFUSED, "[]")), REFUSED)
    return found


def recorded(model: onnx.ModelProto) -> dict[str, str]:
    """What we recorded in ``model``; nothing where another tool wrote it."""
    return {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith(PREFIX)}
