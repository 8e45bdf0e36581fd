"""Running the commands of an example that need more than others: a compiler, Node, a network."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace

from tests.docs.outputs import difference
from tests.docs.pages import ROOT, blocks
from tests.docs.running import Page

__all__ = ["logits_of", "run_example"]


def run_example(
    page: Page,
    example: str,
    heading: str = "",
    *,
    programs: tuple[str, ...] = (),
    variables: Mapping[str, str] | None = None,
    network: bool = False,
) -> Page:
    """Run the commands of ``example``'s page in the checkout of ``page``; they have to print what it shows.

    What a reason keeps from the pages' own test is run here. With a ``heading``: those below it and before the first.
    """
    page = replace(
        page,
        folder=page.folder.parent / example,
        allowed=frozenset(programs),
        variables=variables or {},
        network=network,
    )
    text = (ROOT / "examples" / example / "README.md").read_text(encoding="utf-8")
    if heading:
        before, *sections = text.split("\n## ")
        text = before + next(section for section in sections if section.startswith(f"{heading}\n"))
    for block in blocks(text):
        for command in block.commands:
            ended = page.run(command)
            assert ended.code in (0, None), f"{example}: {command.text}\n{ended.output}{ended.errors}"
            if command.output and ended.code is not None:
                found = difference(command.output, ended.output)
                assert found is None, f"{example}: {command.text}\n{found}\n{ended.output}"
    return page


def logits_of(page: Page, *command: str) -> list[list[float]]:
    """What a program prints with ``--logits``: a line for each image, its name and its numbers."""
    done = subprocess.run(command, cwd=page.folder, capture_output=True, text=True, check=True)
    return [[float(number) for number in line.partition(":")[2].split()] for line in done.stdout.splitlines()]
