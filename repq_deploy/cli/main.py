"""``repq``: the commands as verbs of one, so that ``repq export`` is ``repq-export``. Imports a verb when it is run."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from repq_deploy import __version__
from repq_deploy.cli.shell.completion import ASKED, answer
from repq_deploy.cli.shell.verbs import VERBS, Verb
from repq_deploy.errors import BadInput

__all__ = ["main"]

_OPTIONS = {
    "--version": "Show the version of repq-deploy, and exit.",
    "--show-completion": "Print the script that lets bash, zsh or fish complete the commands' words.",
    "--install-completion": "Let bash, zsh or fish load that script from now on.",
    "--help": "Show this, and exit.",
}


def main() -> None:
    """Run the words of ``sys.argv``: a verb with its own, or an option."""
    words = sys.argv[1:]
    verb = next((one for one in VERBS if words[:1] == [one.name]), None)
    if verb is not None and (len(words) > 1 or ASKED not in os.environ):
        # Whatever looks at the words sees those of the command that the verb is.
        sys.argv = [f"repq-{verb.name}", *words[1:]]
        import_module(verb.module).main(f"repq {verb.name}")
    elif ASKED in os.environ:
        answer(_offers(words))
    else:
        # It takes a moment to import, which completion should not.
        from repq_deploy.cli.entry import run

        sys.exit(run(lambda: _own(words), "repq"))


def _own(words: Sequence[str]) -> int:
    """What ``repq`` does itself; the exit code."""
    from repq_deploy.cli.shell.scripts import install, script_for
    from repq_deploy.cli.streams import say

    match words:
        case []:
            raise BadInput(f"expected a verb: {', '.join(verb.name for verb in VERBS)}; see repq --help")
        case ["--help", *_]:
            say(*_help())
        case ["--version"]:
            say(f"repq {__version__}")
        case ["--show-completion", *shell] if len(shell) <= 1:
            say(*script_for(*shell).splitlines())
        case ["--install-completion", *shell] if len(shell) <= 1:
            say(*install(*shell))
        case [word, *_] if word in _OPTIONS:
            raise BadInput(f"{word}: has more words after it than it takes; see repq --help")
        case [word, *_] if word.startswith("-"):
            raise BadInput(f"No such option: {word}; see repq --help")
        case [word, *_]:
            near = difflib.get_close_matches(word.removeprefix("repq-"), [verb.name for verb in VERBS], n=1)
            meant = f"did you mean {near[0]}?" if near else f"expected {', '.join(verb.name for verb in VERBS)}"
            raise BadInput(f"{word[:40]!r}: no such verb; {meant} See repq --help")
    return 0


def _help() -> list[str]:
    lines = ["Usage: repq VERB [OPTIONS] ...", "", "  From a Vision Transformer to a low-bit engine.", "", "Verbs:"]
    lines += [f"  {verb.name:22}{verb.summary}" for verb in VERBS]
    lines += ["", "Options:", *(f"  {name:22}{text}" for name, text in _OPTIONS.items())]
    return [*lines, "", "repq VERB --help shows the options of a verb."]


def _offers(words: Sequence[str]) -> list[tuple[str, str]]:
    """What may stand for the word that is being typed, where that is the first, or follows an option."""
    *before, current = words or [""]
    if before:
        shells = ("bash", "fish", "zsh") if before[0] in ("--show-completion", "--install-completion") else ()
        return [(shell, "") for shell in shells if shell.startswith(current)] if len(before) == 1 else []
    verbs: Sequence[Verb] = () if current.startswith("-") else VERBS
    offers = [(verb.name, verb.summary) for verb in verbs] + list(_OPTIONS.items() if current.startswith("-") else ())
    return [(word, meaning) for word, meaning in offers if word.startswith(current)]
