"""Classifies image files with an OpenVINO engine. Needs openvino, numpy and pillow, and nothing of repq-deploy.

python classify.py ENGINE IMAGE...

OpenVINO reads the metadata of an ONNX file too: below ``framework`` in the information that belongs to the model.
Images have to have the size of the model's input; example 06 shows how others are resized and cropped.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import openvino
from PIL import Image


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    core = openvino.Core()
    model = core.read_model(sys.argv[1])
    classes = json.loads(model.get_rt_info(["framework", "repq.classes"]).value)
    # On CPUs with bfloat16 OpenVINO would compute in it around the integers; no file can say otherwise.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sys.argv[2:]])
    logits = compiled(images)["logits"]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    for path, row in zip(sys.argv[2:], odds, strict=True):
        best = row.argmax()
        sys.stdout.write(f"{path}: {classes[best]}, {100 * row[best]:.1f} %\n")


if __name__ == "__main__":
    main()
