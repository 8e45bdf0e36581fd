"""Recipes: what is written reads back, and what cannot be one is named."""

import pytest

from repq_deploy.errors import BadInput
from repq_deploy.recipes import Recipe, load_recipe, save_recipe


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(bits="w4a4"),
        Recipe(method="mine", softmax="tan", images=256, steps=(("ranges", {"weights": False}), ("fold", {}))),
        Recipe("w4a4," + ",".join(f"blocks.{i}.attn.qkv=w5a5" for i in range(40)), "paper", "repq"),
    ],
)
def test_round_trip(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    save_recipe(recipe, path)
    assert load_recipe(path) == recipe


def test_an_empty_file_is_no_way_to_ask_for_defaults(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("# nothing yet\n")
    with pytest.raises(BadInput, match=r"recipe\.yaml: holds nothing; expected at least one of bits"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bit: w4a4\n", "key 'bit' is unknown; expected bits, preset, method"),
        ("bits: 4\n", "bits is 4, expected text"),
        ("images: 0\n", "images is 0, expected a whole number above 0"),
        ("images: true\n", "images is True"),
        ("bits: w4\n", "recipe .*'w4' is not of the form wXaY"),
        ("preset: papers\n", "preset 'papers'"),
        ("- w4a4\n", "found list"),
        ("bits: 2024-13-45\n", "not a recipe in YAML"),
        ("bits: w4a4\nbits: w8a8\n", "key .bits. is there twice"),
        ("steps: []\n", "steps is empty"),
        ("bits: [\n", "not a recipe in YAML"),
        ("!!python/object/apply:os.system ['true']\n", "not a recipe in YAML"),
    ],
)
def test_what_is_no_recipe_is_named(text, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        load_recipe(path)


def test_a_number_without_a_point_is_a_number(tmp_path):
    """YAML 1.1 has it as text."""
    path = tmp_path / "recipe.yaml"
    path.write_text("steps:\n  - reconstruct: {weight_rate: 1e-3, unit: block}\n")
    assert load_recipe(path).steps == (("reconstruct", {"weight_rate": 1e-3, "unit": "block"}),)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load_recipe(tmp_path / "none.yaml")


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases"),
        ("[" * 5000, "nested too deeply"),
        ("bits: " + "x" * 2_000_000, "expected a text of at most"),
        (f"bits: {list(range(1000))}", "bits is .* expected text"),
        ("? " + "x" * 5000 + "\n: 1", "is unknown"),
    ],
)
def test_what_would_take_memory_or_screens_is_one_short_line(tmp_path, text, words):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(BadInput, match=words) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert len(str(caught.value)) < 500
