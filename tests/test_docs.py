"""What the documentation says of methods and quantizers is what the code has, and no page is without a menu entry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from repq_deploy.methods import METHODS
from repq_deploy.quant.softmax import SOFTMAX_KINDS
from repq_deploy.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
STEPS = re.compile(r"<!-- steps of ([\w-]+) -->\n```yaml\n(.*?)```", re.DOTALL)

#: Method to the recipe that its page shows.
SHOWN = dict(STEPS.findall("".join(page.read_text("utf-8") for page in (DOCS / "concepts").glob("*.md"))))


def test_every_method_of_a_paper_has_its_page():
    assert set(METHODS) - set(SHOWN) == {"minmax", "percentile"}


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_the_steps_that_a_page_shows_are_the_methods(name, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"method: of_the_page\n{SHOWN[name]}", encoding="utf-8")
    shown, method = load_recipe(recipe), METHODS[name]
    assert (shown.softmax, shown.images) == (method.softmax, method.images)
    assert [(step, dict(options)) for step, options in shown.steps or ()] == [
        (step.name, dict(step.options)) for step in method.steps
    ]


def test_every_quantizer_of_probabilities_is_explained():
    page = (DOCS / "concepts" / "probabilities.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) - {"softmax"} == set(SOFTMAX_KINDS)


def test_the_menu_lists_every_page():
    menu = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(menu) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["strict"] is True


def test_nothing_is_fetched_from_elsewhere():
    """The site has no fonts, scripts or diagrams that come from a network."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8") + "".join(page.read_text("utf-8") for page in DOCS.rglob("*.md"))
    assert not re.findall(r"```mermaid|\$\$|extra_javascript|!\[[^\]]*\]\(https?:", text)
