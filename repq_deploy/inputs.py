"""The one input of a model: images, as the numbers that a client has.

A model takes float32 numbers that its preprocessing has normalized, or with ``repq-export --input uint8`` the bytes of
an RGB image, which its graph normalizes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.errors import BadInput

__all__ = ["DTYPES", "LAYOUTS", "ImageInput", "layout_of"]

DTYPES = ("float32", "uint8")
LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class ImageInput:
    """What one batch of images is: of ``sides`` (height, width) in pixels, three channels red, green, blue.

    ``dtype`` is "float32", normalized numbers, whose ``layout`` is "nchw"; or "uint8", the bytes of the image, in the
    layout "nhwc", as decoders give them, or "nchw".

    Raises:
        BadInput: none of these.
    """

    sides: tuple[int, int]
    dtype: str = "float32"
    layout: str = "nchw"

    def __post_init__(self) -> None:
        for what, found, known in (("type", self.dtype, DTYPES), ("layout", self.layout, LAYOUTS)):
            if found not in known:
                raise BadInput(f"images of {what} {str(found)[:40]!r}: expected one of {', '.join(known)}")
        if self.dtype == "float32" and self.layout != "nchw":
            raise BadInput(f"float32 images in the layout {self.layout}: expected nchw; uint8 images have either")

    @classmethod
    def of_shape(cls, shape: Sequence[int], dtype: str, layout: str) -> ImageInput:
        """The input whose images have ``shape``, as ``layout`` orders it.

        Raises:
            ValueError: not three channels and two sides.
            BadInput: as the class.
        """
        expected = "[H, W, 3]" if layout == "nhwc" else "[3, H, W]"
        if len(shape) != 3 or shape[-1 if layout == "nhwc" else 0] != 3:
            raise ValueError(f"images of shape {list(shape)[:4]}, expected {expected}")
        height, width = shape[:2] if layout == "nhwc" else shape[1:]
        return cls((height, width), dtype, layout)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image: (3, H, W) or (H, W, 3)."""
        return (*self.sides, 3) if self.layout == "nhwc" else (3, *self.sides)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype)

    @property
    def takes_pixels(self) -> bool:
        """Whether it takes the bytes of an image."""
        return self.dtype == "uint8"

    def random(self, count: int, seed: int = 0) -> NDArray[Any]:
        """Images [count, *shape] of noise, to time with."""
        rng = np.random.default_rng(seed)
        if self.takes_pixels:
            return rng.integers(0, 256, (count, *self.shape), dtype=np.uint8)
        return rng.standard_normal((count, *self.shape), dtype=np.float32)

    def of_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The bytes of images [..., H, W, 3] in the order of this input's layout."""
        return pixels if self.layout == "nhwc" else np.ascontiguousarray(np.moveaxis(pixels, -1, -3))

    def __str__(self) -> str:
        return f"{self.dtype} [N, {', '.join(map(str, self.shape))}]"


def layout_of(dtype: str, layout: str | None) -> str:
    """``layout``, or the usual one of ``dtype`` if none is asked for.

    Raises:
        BadInput: ``ImageInput`` has no such dtype, no such layout, or not both.
    """
    usual = "nhwc" if dtype == "uint8" else "nchw"
    return ImageInput((1, 1), dtype, usual if layout is None else layout).layout
