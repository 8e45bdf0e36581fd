"""Writes a small folder in ImageNet's layout, to try commands with: ``small/train`` and ``small/val``.

One folder a class, named like a WordNet number, JPEG files in it named as ImageNet's are. The images come with
repq-deploy (Fashion-MNIST, Zalando, MIT licence): ten classes, 40 images of each to evaluate with and about 25 to
calibrate with.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from repq_deploy.calib_data.demo import demo_images

PER_CLASS = 40


def write(split: str, source: str) -> int:
    """Write one split; the number of images."""
    with np.load(demo_images(source)) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    written = 0
    for label in np.unique(labels):
        folder = Path("small", split, f"n{label:08d}")
        folder.mkdir(parents=True, exist_ok=True)
        for place, image in enumerate(images[labels == label][:PER_CLASS]):
            name = f"ILSVRC2012_val_{place:08d}.JPEG" if split == "val" else f"{folder.name}_{place}.JPEG"
            Image.fromarray(image).convert("RGB").save(folder / name, quality=95)
            written += 1
    return written


def main() -> None:
    for split, source in (("train", "calib"), ("val", "test")):
        sys.stdout.write(f"small/{split}: {write(split, source)} images\n")


if __name__ == "__main__":
    main()
