"""Every command of README.md, docs and examples does what its page says, or its page says why no test runs it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer

from repq_deploy.cli.shell.verbs import VERBS
from tests.docs.outputs import difference
from tests.docs.pages import NEVER_RUN, ROOT, Block, Command, blocks, pages, programs
from tests.docs.running import SCRIPTS, Ended, lay_out

_BLOCKS = {page: blocks(page.read_text(encoding="utf-8")) for page in pages()}


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _runs(each: list[Block]) -> bool:
    """Whether any of the commands is one that a test runs."""
    lines = [command.text for block in each if block.reason is None for command in block.commands]
    return any(name not in NEVER_RUN for line in lines for name, *_ in programs(line))


def _to_run() -> Iterator[Any]:
    for page, found in _BLOCKS.items():
        if _runs(found):
            marks = () if page == ROOT / "README.md" else pytest.mark.slow
            yield pytest.param(page, id=_name(page), marks=marks)


@pytest.mark.skipif(sys.platform == "win32", reason="pages are written for a POSIX shell")
@pytest.mark.parametrize("page", [*_to_run()])
def test_commands_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    kept = Path(os.environ["REPQ_TESTS_EXPORTED"]) / "pages"
    kept.mkdir(exist_ok=True)
    place = lay_out(page, tmp_path, kept)
    try:
        for block in _BLOCKS[page]:
            for command in block.commands if block.reason is None else ():
                _check(place.run(command), command, f"{_name(page)}:{block.line}: {command.text}")
    finally:
        place.stop()


def _check(ended: Ended, command: Command, where: str) -> None:
    if ended.code == 3:
        pytest.skip(f"{where}: {ended.errors}")  # a backend's package is missing
    assert ended.code in (0, None), f"{where}\n{ended.output}{ended.errors}"
    if command.output and ended.code is not None:
        measures = any(name == "repq-bench" for name, *_ in programs(command.text))
        found = difference(command.output, ended.output, any_number=measures)
        assert found is None, f"{where}\n{found}\n\nall that it printed:\n{ended.output}"


@pytest.mark.parametrize("page", [pytest.param(page, id=_name(page)) for page, found in _BLOCKS.items() if found])
def test_commands_have_the_options_that_the_page_gives_them(page: Path) -> None:
    for block in _BLOCKS[page]:
        assert block.reason is None or len(block.reason.split()) > 1, f"{_name(page)}:{block.line}: no reason"
        for command in block.commands:
            for words in programs(command.text):
                if words[0] in SCRIPTS:
                    _read(words, f"{_name(page)}:{block.line}: {command.text}")


def _read(words: list[str], where: str) -> None:
    """Let a command of ours read its command line, and do nothing more."""
    name, *rest = words
    module = SCRIPTS[name].partition(":")[0]
    if name == "repq":
        if rest and rest[0].startswith("-"):
            assert rest[0] in ("--help", "--version", "--show-completion", "--install-completion"), where
            return
        verbs = {verb.name: verb.module for verb in VERBS}
        assert rest and rest[0] in verbs, where
        module = verbs[rest.pop(0)]
    try:
        with suppress(typer.Exit):  # of --help
            importlib.import_module(module).main.parser().make_context(name, rest)
    except Exception as error:  # typer has several, of its own click
        pytest.fail(f"{where}\n{getattr(error, 'message', error)}")


def test_what_is_never_run_has_a_reason() -> None:
    assert all(len(reason.split()) > 2 for reason in NEVER_RUN.values())


def test_every_example_is_in_the_index() -> None:
    index = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    folders = sorted(path.parent.name for path in (ROOT / "examples").glob("*/README.md"))
    assert folders and [name for name in folders if f"({name}/README.md)" not in index] == []
