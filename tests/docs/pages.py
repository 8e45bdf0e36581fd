"""The commands on a page of documentation, and what the page says that they print.

A fenced block without a language, or with ``console`` or ``bash``, holds commands. Where a line begins with ``$ ``,
only such lines are commands and those below each are its output; otherwise every line is a command. ``\\`` at a line's
end continues it, ``#`` begins a comment, and ``&`` behind ``repq-serve`` lets it serve the commands below it. The HTML
comment ``<!-- not run: REASON -->`` right before a block keeps it from being run.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NEVER_RUN", "PROGRAMS", "ROOT", "Block", "Command", "blocks", "pages", "programs"]

ROOT = Path(__file__).resolve().parents[2]

#: Programs of others that pages name and no test runs, and why.
NEVER_RUN = {
    "pip": "installs into the environment that the tests run in, from a network",
    "git": "fetches from a network",
    "make": "its targets are environments and the whole suite",
    "docker": "needs a daemon, and fetches images from a network",
    "apt": "changes the system",
    "apt-get": "changes the system",
    "sudo": "changes the system",
    "trtexec": "comes with TensorRT, and needs a GPU",
    "ray": "starts a cluster",
    "mkdocs": "has its own job, with warnings as errors",
    "pre-commit": "fetches its hooks from a network",
}

#: Programs beside the commands of this package that a page may run.
PROGRAMS = frozenset({"python", "cat", "cp", "curl", "head", "ls", "mkdir"})

_BLOCK = re.compile(
    r"(?:^[ ]*<!-- not run: (?P<reason>[^\n]*?) -->[ ]*\n\s*?)?"
    r"^(?P<indent>[ ]*)(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Command:
    """One command as a shell takes it, and the lines that the page shows below it, if any."""

    text: str
    output: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """The commands of one fenced block. ``reason``: why they are not run, or None."""

    line: int
    commands: tuple[Command, ...]
    reason: str | None = None


def pages() -> list[Path]:
    """Every page whose commands are tested."""
    folders = ("docs/**", "examples", "examples/*")  # below an example may lie packages that it has fetched
    return [ROOT / "README.md", *(page for folder in folders for page in sorted(ROOT.glob(f"{folder}/*.md")))]


def blocks(text: str) -> list[Block]:
    """The blocks of commands on a page, in order."""
    return [
        Block(
            text.count("\n", 0, match.start("fence")) + 1,
            tuple(_commands(textwrap.dedent(match["text"]).splitlines())),
            match["reason"],
        )
        for match in _BLOCK.finditer(text)
        if match["language"].strip() in ("", "bash", "console")
    ]


def _commands(lines: list[str]) -> list[Command]:
    prompts = any(line.startswith("$ ") for line in lines)
    found: list[tuple[str, list[str]]] = []
    open_line = False
    for line in lines:
        if open_line:
            found[-1] = (found[-1][0] + "\n" + line.removeprefix("> "), [])
        elif line.startswith("$ ") or not prompts:
            found.append((line.removeprefix("$ "), []))
        else:
            assert found, f"output before the first command: {line}"
            found[-1][1].append(line)
            continue
        open_line = line.endswith("\\")
    return [Command(text, tuple(output)) for text, output in found if shlex.split(text, comments=True)]


def programs(command: str) -> list[list[str]]:
    """The programs that a line starts, each with its arguments; variables set before one are left out."""
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;()"):
            found.append([])
        elif found[-1] or not re.match(r"\w+=", word):
            found[-1].append(word)
    return [each for each in found if each]
