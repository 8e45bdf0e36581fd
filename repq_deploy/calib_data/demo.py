"""The embedded demo: a ViT trained on Fashion-MNIST, with images to calibrate and to evaluate it.

The files lie in ``demo/`` beside this module and are made by ``calib_data/train_demo.py``. Fashion-MNIST is Zalando's,
MIT licence (``demo/LICENSE``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["DEMO_ARCHITECTURE", "DEMO_KWARGS", "DEMO_MEAN", "DEMO_STD", "DEMO_WEIGHTS", "demo_images"]

#: The timm id and the arguments that shrink it: 49 patches of 4x4 and a class token, 0.7 M parameters.
DEMO_ARCHITECTURE = "vit_tiny_patch16_224"
DEMO_KWARGS: dict[str, Any] = {
    "img_size": 28,
    "patch_size": 4,
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 3,
    "num_classes": 10,
}
#: Mean and standard deviation of Fashion-MNIST's training pixels, in [0, 1].
DEMO_MEAN, DEMO_STD = 0.2860, 0.3530

_FOLDER = Path(__file__).parent / "demo"
DEMO_WEIGHTS = _FOLDER / "vit_demo.safetensors"


def demo_images(split: str) -> Path:
    """The ``.npz`` of a split, ``calib`` (256 images) or ``test`` (2,000): ``images`` uint8 [N, 28, 28], ``labels``."""
    return _FOLDER / f"{split}.npz"
