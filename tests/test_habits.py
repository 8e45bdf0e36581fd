"""What a project of this kind has beside its code: each file is one that its reader accepts, and says what is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from repq_deploy import __version__

ROOT = Path(__file__).resolve().parents[1]
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def check_people(people: list[dict[str, str]]) -> None:
    assert people
    for one in people:
        assert {"name"} == one.keys() or {"family-names", "given-names"} == one.keys()


def test_the_citation_is_of_format_1_2_0():
    """The required fields of the format's schema, and what it says of the types of those that are here."""
    cited = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software" and cited["license"] == "Apache-2.0"
    check_people(cited["authors"])
    assert cited["version"] == __version__
    assert all(isinstance(cited[name], str) for name in ("message", "title", "abstract", "version"))
    assert len(cited["references"]) == 5
    for paper in cited["references"]:
        assert {"type", "title", "authors", "year", "url"} <= paper.keys()
        assert ("journal" in paper) == (paper["type"] == "article")
        assert ("collection-title" in paper) == (paper["type"] == "conference-paper")
        assert paper["type"] in ("article", "conference-paper")
        assert isinstance(paper["year"], int)
        assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", paper["url"])
        check_people(paper["authors"])


def test_the_papers_are_those_of_the_methods():
    cited = {paper["url"].rpartition("/")[2] for paper in read(ROOT / "CITATION.cff")["references"]}
    named = {
        number
        for path in (ROOT / "repq_deploy" / "methods").glob("*.py")
        for number in re.findall(r"arXiv (\d{4}\.\d{5})", path.read_text(encoding="utf-8").partition('"""\n')[0])
    }
    assert named <= cited


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_for_an_issue(path):
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in asked} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(part["attributes"]["label"] for part in asked)
    names = [part["id"] for part in asked]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[\w-]+", name) for name in names)
    assert any(part.get("validations", {}).get("required") for part in asked)


def test_there_is_a_form_for_each_kind():
    assert [path.stem for path in FORMS] == ["accuracy", "bug", "model"]
    assert "repq versions" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")


def test_hooks_before_a_commit_are_what_lint_runs():
    hooks = [hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert all(repo["repo"] == "local" for repo in read(ROOT / ".pre-commit-config.yaml")["repos"])  # no network
    assert all(hook["language"] == "system" for hook in hooks)
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    for hook in hooks:
        assert f"$(BIN)/{hook['entry'].removesuffix(' --fix')}" in lint
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^ruff==", pinned, re.MULTILINE) and re.search(r"^mypy==", pinned, re.MULTILINE)


def test_workflows_name_what_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        assert read(path)["jobs"]
        for script in re.findall(r"python (\w+/\w+\.py)", text):
            assert (ROOT / script).is_file()
        for command in re.findall(r"\brepq-[a-z-]+(?= --help)", text):
            assert command in project["scripts"]


def test_every_target_that_is_named_is_made():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(
        r"(?:`|^)make ([a-z][\w-]*)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(named) > 5 and set(named) <= set(targets)
