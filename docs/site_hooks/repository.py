"""Pages of ``docs/`` link to files elsewhere in the repository; the site takes those along, under ``repository/``.

Links are written as a code host follows them, relative to the file they stand in. The site has no host to point to, so
every linked file becomes a part of it: Markdown and source become pages, a folder becomes a list of its files (or its
README), anything else is copied. A link that leads nowhere is left as it is, and a strict build fails on it.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

#: Where the files from outside ``docs/`` stand in the site.
FOLDER = "repository"
_LANGUAGES = {".py": "python", ".yml": "yaml", ".yaml": "yaml", ".toml": "toml", ".sh": "bash", ".c": "c", ".txt": ""}
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(\))")

#: What the site calls a file of the repository -> its path there.
_sources: dict[str, Path] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file outside ``docs/`` that a page links to, and those that these link to."""
    root = Path(config.docs_dir).parent
    _sources.clear()
    pending = [Path(file.abs_src_path or "") for file in files.documentation_pages()]
    while pending:
        page = pending.pop()
        for target in _targets(page, root):
            name = _site_name(target, root)
            if _is_inside(target, Path(config.docs_dir)) or name in _sources:
                continue
            _sources[name] = target
            files.append(_file(target, name, config))
            if target.suffix == ".md":
                pending.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Point the links of a page to where the site has their files."""
    docs = Path(config.docs_dir)
    root, here = docs.parent, page.file.src_uri
    source = _sources.get(here, docs / here)

    def moved(match: re.Match[str]) -> str:
        target = _resolved(source, match[2], root)
        if target is None or (_is_inside(target, docs) and here not in _sources):
            return match[0]
        name = target.relative_to(docs).as_posix() if _is_inside(target, docs) else _site_name(target, root)
        anchor = match[3] or ""
        return f"{match[1]}{os.path.relpath(name, os.path.dirname(here) or '.')}{anchor}{match[4]}"  # noqa: PTH120

    return "\n".join(_LINK.sub(moved, line) if is_text else line for line, is_text in _lines(markdown))


def _lines(markdown: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is text and not code."""
    fence = ""
    for line in markdown.split("\n"):
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and found[1] == fence:
            fence = ""
            yield line, False
            continue
        yield line, not fence


def _targets(page: Path, root: Path) -> Iterator[Path]:
    """The files of the repository that ``page`` links to."""
    for line, is_text in _lines(page.read_text(encoding="utf-8")):
        for match in _LINK.finditer(line) if is_text else ():
            if (target := _resolved(page, match[2], root)) is not None:
                yield target


def _resolved(page: Path, link: str, root: Path) -> Path | None:
    """The file of the repository that ``link`` on ``page`` leads to; None where there is none."""
    target = Path(os.path.normpath(page.parent / link))
    if target.is_dir() and (target / "README.md").is_file():
        target /= "README.md"
    return target if _is_inside(target, root) and target.exists() else None


def _is_inside(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder)


def _site_name(path: Path, root: Path) -> str:
    name = f"{FOLDER}/{path.relative_to(root).as_posix()}"
    if path.is_dir():
        return f"{name}/files.md"
    return f"{name}.md" if path.suffix in _LANGUAGES or not path.suffix else name


def _file(path: Path, name: str, config: MkDocsConfig) -> File:
    """The site's file for one of the repository's."""
    title = path.relative_to(Path(config.docs_dir).parent).as_posix()
    if path.is_dir():
        content = f"# `{title}`\n\n{''.join(_entries(path))}"
    elif name == f"{FOLDER}/{title}":
        return File.generated(config, name, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV)
    else:
        language, text = _LANGUAGES.get(path.suffix, ""), path.read_text(encoding="utf-8")
        content = f"# `{title}`\n\n~~~~{language}\n{text}~~~~\n"
    return File.generated(config, name, content=content, inclusion=InclusionLevel.NOT_IN_NAV)


def _entries(folder: Path) -> Iterator[str]:
    """A line for each file of ``folder``, with the first line of its docstring."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.name.startswith("."):
            continue
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.suffix == ".py" else None
        yield f"* `{path.name}`{f': {docstring.splitlines()[0]}' if docstring else ''}\n"
