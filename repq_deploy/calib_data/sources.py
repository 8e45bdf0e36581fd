"""Where images come from: a folder, an ``.npz`` file, or the embedded demo set. Nothing is decoded until asked for.

Labels are class indices in the order of the sorted folder names, as torchvision's ImageFolder numbers them.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from repq_deploy.calib_data.demo import demo_images
from repq_deploy.calib_data.photos import photo_crops
from repq_deploy.errors import BadInput
from repq_deploy.system.files import existing_file, read_arrays

__all__ = ["IMAGE_SUFFIXES", "ImageSource", "UnreadableImage", "made_images", "open_images"]

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


class UnreadableImage(BadInput):
    """One image that cannot be decoded."""


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A sequence of images.

    ``names`` are paths relative to a folder, or numbers in an array. ``labels`` are int64 [N], or None for a flat
    folder. ``class_names`` are the folders' names, sorted; empty where classes have no names.
    """

    origin: str
    names: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    decode: Callable[[str], Image.Image]
    content: Callable[[str], bytes]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Image.Image:
        """Image ``index`` as RGB.

        Raises:
            UnreadableImage: a damaged file, or more than 8 bits a channel; the message names it.
        """
        name = self.names[index]
        try:
            image = self.decode(name)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode}, expected 8 bits a channel")  # Pillow would clip it to white
            return image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnreadableImage(f"image {self.origin}/{name}: {str(error) or type(error).__name__}") from error

    def select(self, indices: Sequence[int]) -> ImageSource:
        """The images ``indices``, in that order."""
        labels = None if self.labels is None else self.labels[list(indices)]
        return replace(self, names=tuple(self.names[i] for i in indices), labels=labels)

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the sorted names, each with its bytes: independent of order, place and modification times."""
        digest = hashlib.sha256()
        for name in sorted(self.names):
            content = self.content(name)
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()


def open_images(spec: str | Path, *, demo_split: str = "calib") -> ImageSource:
    """Open a set of images.

    Args:
        spec: a folder, flat or with one folder a class; an ``.npz`` with ``images`` (uint8 [N, H, W] or [N, H, W, 3])
            and, where known, ``labels`` (integers [N]); or ``demo``, ``demo:calib``, ``demo:test``; or ``photos``,
            crops of the photographs that are installed with the package.
        demo_split: what bare ``demo`` means, ``calib`` or ``test``.

    Raises:
        BadInput: no such folder or file, no images in it, or arrays of another kind.
    """
    name, _, split = str(spec).partition(":")
    if name == "demo" and not Path(spec).exists():
        split = split or demo_split
        if split not in ("calib", "test"):
            raise BadInput(f"images {spec}: expected demo, demo:calib or demo:test")
        return _open_arrays(demo_images(split), f"demo:{split}")
    path = Path(spec)
    if str(spec) == "photos" and not path.exists():
        return _open_photos()
    if path.is_dir():
        return _open_folder(path)
    existing_file(path, "images")
    if path.suffix.lower() != ".npz":
        raise BadInput(f"images {path}: expected a folder of images, an .npz file, 'photos' or 'demo'")
    return _open_arrays(path, str(path))


def made_images(origin: str, pixels: np.ndarray) -> ImageSource:
    """What stands for images that were never in a file, float32 [N, 3, H, W]: it has their hash, and decodes none."""

    def refuse(name: str) -> Image.Image:
        raise ValueError("was made, and is in no file")

    return ImageSource(
        origin=origin,
        names=tuple(f"{index:06d}" for index in range(len(pixels))),
        labels=None,
        class_names=(),
        decode=refuse,
        content=lambda name: pixels[int(name)].tobytes(),
    )


def _open_photos() -> ImageSource:
    crops = photo_crops()
    return ImageSource(
        origin="photos",
        names=tuple(crops),
        labels=None,
        class_names=(),
        decode=lambda name: crops[name].image(),
        content=lambda name: crops[name].content(),
    )


def _open_folder(root: Path) -> ImageSource:
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    flat = sorted(entry.name for entry in root.iterdir() if _is_image(entry.name) and entry.is_file())
    if flat and classes:
        raise BadInput(
            f"images {root}: found images ({flat[0]}, ...) beside folders ({classes[0]}, ...); "
            "expected either images alone or one folder a class"
        )
    names = list(flat)
    labels = []
    for label, class_name in enumerate(classes):
        found = _images_below(root, class_name)
        if not found:
            logger.warning("images %s: class folder %s holds no images", root, class_name)
        names += found
        labels += [label] * len(found)
    if not names:
        raise BadInput(f"images {root}: found no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return ImageSource(
        origin=str(root),
        names=tuple(names),
        labels=np.array(labels, dtype=np.int64) if classes else None,
        class_names=classes,
        decode=lambda name: _decoded(root / name),
        content=lambda name: (root / name).read_bytes(),
    )


def _images_below(root: Path, folder: str) -> list[str]:
    """Sorted paths, relative to ``root``, of the images anywhere below ``root/folder``; links are followed, once."""
    found = []
    seen: set[str] = set()
    for where, folders, files in os.walk(root / folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            relative = Path(where).relative_to(root)
            images = (name for name in files if _is_image(name))
            # A pipe that is named like an image would be waited for.
            found += [(relative / name).as_posix() for name in images if (root / relative / name).is_file()]
        seen.add(real)
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise BadInput(f"images {error.filename}: cannot be read: {error.strerror or error}") from error


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def _decoded(path: Path) -> Image.Image:
    image = Image.open(path)
    image.load()  # reads everything and closes the file
    return image


def _open_arrays(path: Path, origin: str) -> ImageSource:
    arrays = read_arrays(path, "images")
    images, labels = arrays.get("images"), arrays.get("labels")
    shape_fits = images is not None and (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3))
    if images is None or images.dtype != np.uint8 or not shape_fits or not len(images):
        found = "no array 'images'" if images is None else f"{images.dtype} {list(images.shape)}"
        raise BadInput(f"images {path}: found {found}, expected 'images' uint8 [N, H, W] or [N, H, W, 3]")
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise BadInput(
            f"images {path}: labels are {labels.dtype} {list(labels.shape)}, expected integers [{len(images)}]"
        )
    return ImageSource(
        origin=origin,
        names=tuple(f"{index:06d}" for index in range(len(images))),
        labels=None if labels is None else labels.astype(np.int64),
        class_names=(),
        decode=lambda name: Image.fromarray(images[int(name)]),
        content=lambda name: images[int(name)].tobytes(),
    )
