"""What the peers' scripts share. They import nothing of this project: they run in an environment of their own."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx

__all__ = ["INPUT", "arguments", "load_images", "not_ours"]

INPUT = "images"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """``FLOAT IMAGES.npz OUTPUT``; a script may add options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_model", type=Path)
    parser.add_argument("images", type=Path, help="preprocessed images [N, 3, H, W] in float32, named images")
    parser.add_argument("output", type=Path)
    return parser


def load_images(path: Path) -> np.ndarray:
    """The calibration images."""
    with np.load(path) as arrays:
        return arrays["images"]


def not_ours(path: Path) -> None:
    """Drop our metadata from an ONNX file that was made of our float one: it is to be run as its own user would."""
    model = onnx.load(path)
    kept = [entry for entry in model.metadata_props if not entry.key.startswith("repq.")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)
