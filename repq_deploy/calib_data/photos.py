"""Calibration images for a model whose own are not at hand: crops of 140 photographs that come with the package.

The photographs lie in ``photos/`` beside this module, 320 pixels on their short side, under CC0, CC-BY or in the public
domain; ``photos/ATTRIBUTION.md`` names the author and the source of each. A crop shows a part of a photograph, from a
detail to the whole, at a sharpness of its own: models are trained on images that fill their input with detail, and on
enlarged thumbnails. How many crops there are, how varied and how sharp, each counts: see ``docs/results.md``.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["BLURRIEST", "CROPS", "FEW_BITS", "Crop", "photo_crops"]

#: How many different crops there are to choose from; each photograph has equally many, to within one.
CROPS = 8192
#: The smallest part of a photograph's area that a crop shows.
SMALLEST = 0.08
#: How many crops a calibration below 6 bits takes at least; from 6 bits on a method's usual number is as good.
FEW_BITS = 512
#: The fewest pixels of a side that a crop is reduced to.
BLURRIEST = 16

_FOLDER = Path(__file__).parent / "photos"


@dataclass(frozen=True)
class Crop:
    """A square of a photograph: its left, upper, right and lower edge in pixels, and the side that it is reduced to."""

    photo: str
    box: tuple[int, int, int, int]
    side: int

    def image(self) -> Image.Image:
        """The crop as RGB."""
        image = _photo(self.photo).crop(self.box)
        return image.resize((self.side, self.side), Image.Resampling.BOX) if self.side < image.width else image

    def content(self) -> bytes:
        """What the crop is made of, for a hash."""
        return json.dumps(astuple(self)).encode() + (_FOLDER / self.photo).read_bytes()


@functools.cache
def photo_crops(blurriest: int | None = BLURRIEST) -> dict[str, Crop]:
    """The crops by name; always the same ones.

    Their areas are spread evenly between the smallest and the whole of the photograph's square.

    Args:
        blurriest: a crop is reduced to between this many pixels and all that it has, evenly on a logarithmic scale;
            None leaves it as sharp as it is.
    """
    photos = sorted(_FOLDER.glob("*.jpg"))
    sizes = [_size(path) for path in photos]
    random = np.random.default_rng(0)
    crops = {}
    for number in range(CROPS):
        photo = number % len(photos)
        width, height = sizes[photo]
        side = round(min(width, height) * math.sqrt(random.uniform(SMALLEST, 1)))
        left, upper = (int(random.integers(0, whole - side + 1)) for whole in (width, height))
        reduced = random.uniform(math.log(min(blurriest or side, side)), math.log(side))
        crops[f"{number:05d}"] = Crop(
            photos[photo].name, (left, upper, left + side, upper + side), round(math.exp(reduced))
        )
    return crops


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@functools.lru_cache(maxsize=256)
def _photo(name: str) -> Image.Image:
    with Image.open(_FOLDER / name) as image:
        return image.convert("RGB")
