"""What happens to an image before a model sees it, as timm's data configuration says: resize, crop, normalize.

The record travels in the ONNX metadata, so that calibration, validation and evaluation treat an image alike.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from repq_deploy.bounds import largest
from repq_deploy.errors import BadInput
from repq_deploy.inputs import ImageInput
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
        _require(len(self.std) == 3 and float(np.float32(min(self.std))) > 0, "std", self.std, "three positive numbers")

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

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image of any size to float32 [3, height, width]: to the last bit what timm's transform gives."""
        return self.normalized(self.pixels(image))

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB image of any size, resized and cropped and not yet normalized: uint8 [height, width, 3]."""
        height, width = self.size
        image = _resized(image, self._resized_sides(image), Image.Resampling[self.interpolation.upper()])
        fill = tuple(round(255 * value) for value in self.mean) if self.crop_mode == "border" else (0, 0, 0)
        return np.asarray(_cropped(image, height, width, fill))

    def normalized(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Bytes [..., height, width, 3] to float32 [..., 3, height, width]."""
        numbers = np.moveaxis(pixels, -1, -3).astype(np.float32, order="C")
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        # Three roundings in float32, in the order of torchvision's ToTensor and Normalize.
        numbers /= 255
        numbers -= mean
        numbers /= std
        return numbers

    def denormalized(self, numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The inverse of ``normalized``: numbers [..., 3, height, width] to their nearest bytes [..., height, width,
        3]."""
        values = np.moveaxis(np.asarray(numbers, dtype=np.float64), -3, -1) * self.std + self.mean
        return np.clip(np.rint(255 * values), 0, 255).astype(np.uint8)

    def for_input(self, image: Image.Image, form: ImageInput) -> NDArray[Any]:
        """An RGB image of any size as a model with the input ``form`` takes it: bytes, or ``self(image)``."""
        return form.of_pixels(self.pixels(image)) if form.takes_pixels else self(image)

    def _resized_sides(self, image: Image.Image) -> tuple[int, int]:
        """Height and width that timm's transform resizes ``image`` to before it crops."""
        height, width = (math.floor(side / self.crop_pct) for side in self.size)
        if self.crop_mode == "squash":
            return height, width
        if self.crop_mode == "center" and height == width:
            short, long = sorted(image.size)
            other = int(height * long / short)
            return (other, height) if image.width <= image.height else (height, other)
        ratios = image.height / height, image.width / width
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return max(1, round(image.height / ratio)), max(1, round(image.width / ratio))


def _resized(image: Image.Image, sides: tuple[int, int], kind: Image.Resampling) -> Image.Image:
    return image if (image.height, image.width) == sides else image.resize(sides[::-1], kind)


def _cropped(image: Image.Image, height: int, width: int, fill: tuple[int, ...]) -> Image.Image:
    """The middle of ``image``, which is padded first where it is too small."""
    down, right = max(height - image.height, 0), max(width - image.width, 0)
    if down or right:
        image = ImageOps.expand(image, (right // 2, down // 2, (right + 1) // 2, (down + 1) // 2), fill)
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise BadInput(f"preprocessing: {name} is {found}, expected {expected}")
