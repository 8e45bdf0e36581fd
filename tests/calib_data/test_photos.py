"""The photographs: free, few bytes, each with its author; their crops are always the same ones."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from repq_deploy.calib_data import open_images, photos
from repq_deploy.calib_data.photos import CROPS, photo_crops

FOLDER = photos._FOLDER


def test_there_are_enough_photographs_in_few_bytes_and_each_has_an_author_and_a_free_licence():
    files = sorted(path.name for path in FOLDER.glob("*.jpg"))
    assert len(files) >= 60
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 4_000_000
    rows = re.findall(r"^\| (\S+\.jpg) \| (.+?) \| (.+?) \| <(https?://\S+)> \|$", (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8"), re.MULTILINE)  # fmt: skip # noqa: E501
    assert sorted(name for name, *_ in rows) == files
    assert {licence for _, _, licence, _ in rows} <= {"CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "public domain"}


def test_crops_lie_in_their_photograph_and_are_of_all_sizes():
    crops = photo_crops().values()
    assert len(crops) == CROPS
    sizes = {name: photos._size(FOLDER / name) for name in {crop.photo for crop in crops}}
    shares = []
    for crop in crops:
        left, upper, right, lower = crop.box
        width, height = sizes[crop.photo]
        assert 0 <= left < right <= width and 0 <= upper < lower <= height and right - left == lower - upper
        assert photos.BLURRIEST <= crop.side <= right - left
        shares.append((right - left) ** 2 / min(width, height) ** 2)
    assert min(shares) >= photos.SMALLEST * 0.95 and max(shares) <= 1
    assert np.histogram(shares, bins=4, range=(photos.SMALLEST, 1))[0].min() > CROPS / 5
    used = Counter(crop.photo for crop in crops)
    assert len(used) == len(sizes) and max(used.values()) - min(used.values()) <= 1


def test_a_crop_is_the_photograph_there_reduced_to_its_side():
    crop = next(crop for crop in photo_crops(None).values() if crop.side > 100)
    assert crop.side == crop.box[2] - crop.box[0]
    whole = np.asarray(photos._photo(crop.photo))
    left, upper, right, lower = crop.box
    np.testing.assert_array_equal(np.asarray(crop.image()), whole[upper:lower, left:right])
    blurred = next(crop for crop in photo_crops().values() if 2 * crop.side < crop.box[2] - crop.box[0])
    assert blurred.image().size == (blurred.side, blurred.side)


def test_photos_are_a_source_of_images_whose_hash_is_of_what_is_shown():
    source = open_images("photos")
    assert len(source) == CROPS and source.labels is None
    assert source.read(3).mode == "RGB"
    assert source.select([0, 1]).sha256 == open_images("photos").select([1, 0]).sha256
    assert source.select([0, 1]).sha256 != source.select([0, 2]).sha256


def test_a_folder_called_photos_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    photo_crops()["00000"].image().save(tmp_path / "photos" / "mine.png")
    assert open_images("photos").names == ("mine.png",)
