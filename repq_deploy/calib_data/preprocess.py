"""What happens to an image before a model sees it, as timm's data configuration says: resize, crop, normalize.

The record travels in the ONNX metadata, so that calibration, validation and evaluation treat an image alike.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from repq_deploy.bounds import largest
from repq_deploy.errors import BadInput
from repq_deploy.records import decode, parse_json

__all__ = ["Preprocess"]

_CROP_MODES = ("center", "squash", "border")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Preprocess:
    """An image to a model's input.

    ``size`` is (height, width) in pixels. The image is resized to ``size / crop_pct`` and cropped to ``size`` in the
    middle, in timm's ``crop_mode``. ``mean`` and ``std`` are per channel (red, green, blue), of pixels in [0, 1].

    Raises:
        BadInput: a value that makes no sense, named.
    """

    size: tuple[int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        fits = len(self.size) == 2 and all(0 < side <= largest("img_size") for side in self.size)
        _require(fits, "size", self.size, f"two numbers from 1 to {largest('img_size')}")
        _require(0 < self.crop_pct <= 1, "crop_pct", self.crop_pct, "more than 0, at most 1")
        _require(self.crop_mode in _CROP_MODES, "crop_mode", self.crop_mode, f"one of {', '.join(_CROP_MODES)}")
        known = self.interpolation in _INTERPOLATIONS
        _require(known, "interpolation", self.interpolation, f"one of {', '.join(_INTERPOLATIONS)}")
        _require(len(self.mean) == 3, "mean", self.mean, "three numbers")
        _require(len(self.std) == 3 and min(self.std) > 0, "std", self.std, "three positive numbers")

    @classmethod
    def from_model(cls, model: nn.Module) -> Preprocess:
        """A timm model's own preprocessing, at the image size it was built for."""
        config = resolve_data_config({}, model=model)
        # The configuration is the pretrained weights'; a model built with another img_size says so here only.
        size = getattr(getattr(model, "patch_embed", None), "img_size", None) or config["input_size"][1:]
        return cls(
            size=(int(size[0]), int(size[1])),
            crop_pct=float(config["crop_pct"]),
            crop_mode=config["crop_mode"],
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )

    def to_json(self) -> str:
        """One line with sorted keys: equal records give equal text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        """The inverse of ``to_json``.

        Raises:
            BadInput: not JSON, keys missing or unknown, or a value that makes no sense.
        """
        expected = sorted(f.name for f in fields(cls))
        try:
            data: dict[str, Any] = parse_json(text)
            if sorted(data) != expected:
                raise BadInput(f"preprocessing record: found keys {sorted(data)}, expected {expected}")
            found: Preprocess = decode(cls, data, "record")
            return found
        except (TypeError, ValueError) as error:
            raise BadInput(f"preprocessing record: not readable ({error}): {text[:80]!r}") from error

    def __call__(self, image: Image.Image) -> np.ndarray:
        """An RGB image of any size to float32 [3, height, width]."""
        return _transform(self)(image).numpy()


@functools.lru_cache(maxsize=8)
def _transform(preprocess: Preprocess) -> Callable[[Image.Image], Tensor]:
    return create_transform(
        input_size=(3, *preprocess.size),
        is_training=False,
        interpolation=preprocess.interpolation,
        mean=preprocess.mean,
        std=preprocess.std,
        crop_pct=preprocess.crop_pct,
        crop_mode=preprocess.crop_mode,
    )


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise BadInput(f"preprocessing: {name} is {found}, expected {expected}")
