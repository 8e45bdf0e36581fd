"""Classifies image files with an engine. Needs onnxruntime, numpy and pillow, and nothing of repq-deploy.

python classify.py ENGINE IMAGE...

All that it has to know stands in the engine's metadata: how an image is prepared (``repq.preprocess``) and, where they
were given at export, the names of the classes (``repq.classes``).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

import numpy as np
import onnxruntime
from PIL import Image


def prepare(path: str, how: dict[str, Any]) -> np.ndarray:
    """Read an image: float32 [3, height, width], its middle at the model's size, which is a square here."""
    if how["crop_mode"] != "center" or how["size"][0] != how["size"][1]:
        raise ValueError(f"preprocessing {how}: this program knows square crops of the middle only")
    side = how["size"][0]
    image = Image.open(path).convert("RGB")
    shorter = int(side / how["crop_pct"])
    width, height = (int(shorter * each / min(image.size)) for each in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[how["interpolation"].upper()])
    left, top = round((width - side) / 2), round((height - side) / 2)
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32).transpose(2, 0, 1) / 255
    mean, std = (np.array(how[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    return (pixels - mean) / std


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    session = onnxruntime.InferenceSession(sys.argv[1])
    said = session.get_modelmeta().custom_metadata_map
    how, classes = json.loads(said["repq.preprocess"]), json.loads(said.get("repq.classes", "[]"))
    images = np.stack([prepare(path, how) for path in sys.argv[2:]])
    (logits,) = session.run(None, {"images": images})
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    for path, row in zip(sys.argv[2:], odds, strict=True):
        best = row.argmax()
        sys.stdout.write(f"{path}: {classes[best] if classes else best}, {100 * row[best]:.1f} %\n")


if __name__ == "__main__":
    main()
