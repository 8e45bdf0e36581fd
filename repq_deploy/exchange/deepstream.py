"""A classifier for DeepStream's ``nvinfer``: the graph that it can feed, and the configuration that says how.

``nvinfer`` gives a network float32 pixels ``net-scale-factor * (x - offset)``, with one factor for the three channels,
so it cannot divide by three deviations; and of its output it takes the largest number above a threshold and above 0,
which logits need not be. So the graph takes pixels from 0 to 255 as float32, normalizes them, and gives probabilities.
https://docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvinfer.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from repq_deploy.calib_data.preprocess import Preprocess
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.prove_engine import sqnr_db
from repq_deploy.engines.source import SourceModel
from repq_deploy.errors import BadInput
from repq_deploy.exchange.tensors import ReferenceTensors
from repq_deploy.export.names import OUTPUT, PREPROCESS
from repq_deploy.export.passes.base import Pass, run_passes
from repq_deploy.export.passes.pixel_input import PixelInput
from repq_deploy.inputs import LAYOUTS, ImageInput
from repq_deploy.tasks import CLASSIFICATION

__all__ = [
    "CONFIG",
    "LABELS",
    "PROBABILITIES",
    "check_deepstream",
    "configuration",
    "labels",
    "pixel_tensors",
    "probabilities_sqnr_db",
    "with_pixels",
]

CONFIG, LABELS, PROBABILITIES = "nvinfer.txt", "labels.txt", "probabilities"
_DRAWS = 32


def check_deepstream(source: SourceModel) -> Preprocess:
    """The preprocessing that the graph has to do.

    Raises:
        BadInput: the model is no classifier with one output, or does not say how its images are normalized.
    """
    if source.task is not CLASSIFICATION or source.named.names != (OUTPUT,):
        raise BadInput(f"--deepstream: {source.path.name} gives no logits alone; nvinfer's classifiers do")
    if not source.metadata.get(PREPROCESS):
        raise BadInput(f"--deepstream: {source.path.name} says no preprocessing ({PREPROCESS}); export it again")
    return Preprocess.from_json(source.metadata[PREPROCESS])


def with_pixels(model: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """A copy of a lowered graph that takes pixels from 0 to 255 as float32, and gives ``probabilities``.

    It is the graph that takes bytes (``PixelInput``), which the model may be already, with another type of input: what
    its first node makes float32 is that before.
    """
    (images,) = model.graph.input
    kind = images.type.tensor_type
    passes: list[Pass] = []
    if kind.elem_type != TensorProto.UINT8:
        _, _, height, width = (one.dim_value for one in kind.shape.dim)
        passes.append(PixelInput(ImageInput((height, width), "uint8", "nchw"), preprocess.mean, preprocess.std))
    made, _ = run_passes(model, passes)
    graph = made.graph
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    (logits,) = graph.output
    graph.node.append(helper.make_node("Softmax", [OUTPUT], [PROBABILITIES], f"{PROBABILITIES}/softmax", axis=-1))
    probabilities = onnx.ValueInfoProto()
    probabilities.CopyFrom(logits)
    probabilities.name = PROBABILITIES
    del graph.output[:]
    graph.output.append(probabilities)
    onnx.checker.check_model(made, full_check=True)
    return made


def pixel_tensors(tensors: ReferenceTensors, preprocess: Preprocess) -> ReferenceTensors:
    """The reference of ``with_pixels``: images before normalization, which of noise lie outside 0 to 255 too, and the
    softmax of the logits. Bytes become float32."""
    images = tensors.images.astype(np.float32)
    if tensors.images.dtype != np.uint8:
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (preprocess.mean, preprocess.std))
        images = (images * std + mean) * np.float32(255)
    return replace(tensors, images=images, outputs={PROBABILITIES: _softmax(tensors.outputs[OUTPUT])})


def probabilities_sqnr_db(logits: NDArray[np.float32], min_sqnr_db: float) -> float:
    """What to ask of probabilities where ``min_sqnr_db`` is asked of the ``logits``: no more than that, nor than their
    softmax keeps under noise of that power, in the worst of 32 draws."""
    rng = np.random.default_rng(0)
    deviation = np.sqrt(np.square(logits, dtype=np.float64).mean()) * 10 ** (-min_sqnr_db / 20)
    noisy = (logits + deviation * rng.standard_normal((_DRAWS, *logits.shape))).astype(np.float32)
    exact = _softmax(logits)
    return min(min_sqnr_db, *(sqnr_db(exact, _softmax(each)) for each in noisy))


def configuration(source: SourceModel, profile: Profile, *, engine: str, labelled: bool) -> str:
    """``nvinfer``'s configuration file, for the engine beside it.

    It names no ``onnx-file``: from one ``nvinfer`` would build an engine itself, and without a table of calibration,
    which a graph with quantizers has no use for, in FP16.
    """
    keys = {
        "gpu-id": 0,
        "model-engine-file": engine,
        **({"labelfile-path": LABELS} if labelled else {}),
        "batch-size": profile.max,
        "network-mode": 1,
        "network-type": 1,
        "process-mode": 1,
        "model-color-format": 0,
        "net-scale-factor": 1.0,
        "network-input-order": LAYOUTS.index(source.input.layout),
        "maintain-aspect-ratio": 0,
        "output-blob-names": PROBABILITIES,
        "classifier-threshold": 0.0,
    }
    comments = (
        "# Written by repq-deploy, and not run: it needs DeepStream and the engine that build.sh builds.",
        "# Mode 1 is INT8, type 1 a classifier, process mode 1 whole frames, colour format 0 RGB.",
        "# The graph normalizes: pixels are 0 to 255. nvinfer scales frames to the engine's sides without a crop.",
    )
    return "\n".join([*comments, "[property]", *(f"{key}={value}" for key, value in keys.items()), ""])


def labels(classes: Sequence[str]) -> str:
    """``nvinfer``'s label file of one classifier: one line, with ``;`` between the names."""
    return ";".join(" ".join(name.replace(";", ",").split()) for name in classes) + "\n"


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(np.float32)
