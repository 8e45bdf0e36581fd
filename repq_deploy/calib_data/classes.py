"""Which output of a model each class is: a list of names in the order of the outputs.

Without one, class folders are numbered in the order of their names as text, as torchvision does it. A model that was
trained with another order (timm sorts numbers as numbers), or on more classes than there are folders, needs the list;
or, in the first case, is asked which order it was trained with.
"""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repq_deploy.calib_data.sources import ImageSource
from repq_deploy.errors import BadInput
from repq_deploy.system.files import existing_file

__all__ = ["check_names", "in_order_of", "names_by_answers", "read_classes", "warn_of_numbers"]

logger = logging.getLogger(__name__)

_MOST_BYTES = 10**7


def read_classes(path: Path) -> tuple[str, ...]:
    """The names in a text file, one a line, in the order of a model's outputs.

    Raises:
        BadInput: no such file, not such a text, a line that is empty, or a name that is there twice.
    """
    existing_file(path, "classes")
    if path.stat().st_size > _MOST_BYTES:
        raise BadInput(f"classes {path}: {path.stat().st_size} bytes; expected a text with one name a line")
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise BadInput(f"classes {path}: not a readable text: {error}") from error
    return check_names(names, f"classes {path}")


def check_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """``names``, if each is there once and none is empty; ``where`` is for the error.

    Raises:
        BadInput: they are not.
    """
    seen: set[str] = set()
    for line, name in enumerate(names, 1):
        if not name or not name.isprintable():
            raise BadInput(f"{where}: line {line} is {'empty' if not name else 'not printable'}; expected a name")
        if name in seen:
            raise BadInput(f"{where}: {name[:60]!r} is there twice")
        seen.add(name)
    if not names:
        raise BadInput(f"{where}: no names; expected one a line, in the order of the model's outputs")
    return tuple(names)


def in_order_of(source: ImageSource, classes: Sequence[str], where: str) -> ImageSource:
    """``source`` with each folder's images labelled by the place of the folder's name in ``classes``.

    Folders may be missing. ``where`` says, for errors, where ``classes`` are from.

    Raises:
        BadInput: the images are in no class folders, or a folder's name is not in the list.
    """
    if source.labels is None or not source.class_names:
        raise BadInput(f"images {source.origin}: in no class folders, which {where} could number")
    # macOS may have a folder's accents as characters of their own. A name that is there as it stands comes first.
    numbers = {_composed(name): number for number, name in enumerate(classes)}
    numbers |= {name: number for number, name in enumerate(classes)}
    places = [numbers.get(name, numbers.get(_composed(name))) for name in source.class_names]
    if unknown := [name for name, place in zip(source.class_names, places, strict=True) if place is None]:
        raise BadInput(f"images {source.origin}: folder {unknown[0]} is no class of {where} ({len(classes)} names)")
    order = np.array(places, dtype=np.int64)
    return replace(source, labels=order[source.labels], class_names=tuple(classes))


def _composed(name: str) -> str:
    """``name`` with each accented letter as one character."""
    return unicodedata.normalize("NFC", name)


def names_by_answers(source: ImageSource, answers: NDArray[np.int64]) -> tuple[str, ...]:
    """The names of a model's outputs in order, where its ``answers``, an output for each image of ``source``, show that
    they are the class folders; else none.

    Two orders of the folders are usual: that of text, as torchvision has it, and timm's, in which numbers are sorted as
    numbers and capitals as small letters. One is taken if the model gives an image its folder for at least half of
    them, and for more than it could by chance; and where both orders differ, also for the images of those folders alone
    whose places do.
    """
    names, labels = source.class_names, source.labels
    if labels is None or not names:
        return ()
    orders = dict.fromkeys((names, tuple(sorted(names, key=lambda name: _natural(name.lower())))))
    # By order: which output each image's folder would be.
    outputs = {order: np.array([order.index(name) for name in names])[labels] for order in orders}
    moved = np.any([each != labels for each in outputs.values()], axis=0)
    for order, expected in outputs.items():
        right = expected == answers
        if _beyond_chance(right, len(names)) and (len(orders) == 1 or _beyond_chance(right[moved], len(names))):
            return order
    return ()


def _beyond_chance(right: NDArray[np.bool_], classes: int) -> bool:
    """Whether at least half is right, and four standard deviations more than of an answer at random."""
    if not len(right):
        return False
    chance = 1 / classes
    return bool(right.mean() >= max(0.5, chance + 4 * math.sqrt(chance * (1 - chance) / len(right))))


def warn_of_numbers(source: ImageSource) -> None:
    """Say so where folders' names are numbers that text puts into another order: which one is right is not known."""
    names = source.class_names
    if names != tuple(sorted(names, key=_natural)):
        logger.warning(
            "images %s: class folders are taken in the order of text (%s, %s, ...), not in that of their numbers; a "
            "model that timm trained on such folders has its outputs in the order of numbers: use --classes FILE",
            source.origin,
            *names[:2],
        )


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
