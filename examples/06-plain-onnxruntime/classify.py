"""Classifies image files with an engine. Needs onnxruntime, numpy and pillow, and nothing of repq-deploy.

python classify.py ENGINE IMAGE...

The engine takes the bytes of images, and its metadata say the rest: how an image is resized and cropped
(``repq.preprocess``), what its input is (``repq.input``), and the names of the classes (``repq.classes``).
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
    """Read an image: uint8 [height, width, 3], its middle at the model's size, which is a square here."""
    if how["crop_mode"] != "center" or how["size"][0] != how["size"][1]:
        raise ValueError(f"preprocessing {how}: this program knows square crops of the middle only")
    side = how["size"][0]
    image = Image.open(path).convert("RGB")
    shorter = int(side / how["crop_pct"])
    width, height = (int(shorter * each / min(image.size)) for each in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[how["interpolation"].upper()])
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    session = onnxruntime.InferenceSession(sys.argv[1])
    said = session.get_modelmeta().custom_metadata_map
    how, classes = json.loads(said["repq.preprocess"]), json.loads(said["repq.classes"])
    if json.loads(said.get("repq.input", "{}")) != {"dtype": "uint8", "layout": "nhwc"}:
        sys.exit(f"{sys.argv[1]}: takes no bytes [N, height, width, 3]: export with --input uint8")
    images = np.stack([prepare(path, how) for path in sys.argv[2:]])
    (logits,) = session.run(None, {"images": images})
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    for path, row in zip(sys.argv[2:], odds, strict=True):
        best = row.argmax()
        sys.stdout.write(f"{path}: {classes[best]}, {100 * row[best]:.1f} %\n")


if __name__ == "__main__":
    main()
