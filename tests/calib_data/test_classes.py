"""Lists of classes: what they make of folders' labels, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from repq_deploy.calib_data import open_images
from repq_deploy.calib_data.classes import in_order_of, read_classes, warn_of_numbers
from repq_deploy.errors import BadInput


def folders(root, names):
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / name / "0.png")
    return open_images(root)


@pytest.mark.parametrize(("count", "said"), [(10, False), (12, True)])
def test_numbered_class_folders_in_the_order_of_text_are_said(tmp_path, caplog, count, said):
    warn_of_numbers(folders(tmp_path, map(str, range(count))))
    assert ("in the order of text (0, 1, ...)" in caplog.text) is said


def test_labels_are_places_in_the_list_and_folders_may_be_missing(tmp_path):
    source = folders(tmp_path / "images", ["10", "2", "a b"])
    (tmp_path / "classes.txt").write_text("0\n2\n10\na b\nlast\n")
    names = read_classes(tmp_path / "classes.txt")
    ordered = in_order_of(source, names, "--classes classes.txt")
    assert dict(zip(ordered.names, ordered.labels.tolist(), strict=True)) == {
        "10/0.png": 2,
        "2/0.png": 1,
        "a b/0.png": 3,
    }
    assert ordered.class_names == ("0", "2", "10", "a b", "last")
    assert ordered.select([1]).labels.tolist() == [1]


def test_accents_may_be_characters_of_their_own_on_either_side(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    source = folders(tmp_path, [decomposed, "\u00e4"])
    ordered = in_order_of(source, ["x", "a\u0308", composed], "--classes")
    assert dict(zip(ordered.names, ordered.labels.tolist(), strict=True)) == {
        f"{decomposed}/0.png": 2,
        "\u00e4/0.png": 1,
    }
    # Where both are there, each is itself.
    ordered = in_order_of(source, [decomposed, composed, "\u00e4"], "--classes")
    assert sorted(ordered.labels.tolist()) == [0, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no names; expected one a line"),
        ("a\n\nb\n", "line 2 is empty"),
        ("a\nb\na\n", "'a' is there twice"),
        ("a\nb\x1b[31m\n", "line 2 is not printable"),
        (b"\xff", "not a readable text"),
    ],
)
def test_other_texts_are_refused(tmp_path, text, message):
    path = tmp_path / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput, match=message):
        read_classes(path)


def test_images_that_a_list_cannot_number(tmp_path):
    source = folders(tmp_path / "images", ["a", "b"])
    with pytest.raises(BadInput, match=r"folder b is no class of --classes \(2 names\)"):
        in_order_of(source, ["a", "c"], "--classes")
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8), labels=[0, 1])
    with pytest.raises(BadInput, match="in no class folders"):
        in_order_of(open_images(tmp_path / "x.npz"), ["a", "b"], "--classes")
