"""What a shell may offer for the next word of a command line.

A shell's script (``shell.scripts``) runs the command itself with the words so far and ``ASKED`` set in the environment,
and reads a line for each word to offer: the word, and where there is one a tab and what it means.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from repq_deploy.cli.shell.values import values_of

__all__ = ["ASKED", "FILES", "answer", "complete"]

#: The environment variable that asks for completions in place of work; its value is the shell's name.
ASKED = "_REPQ_COMPLETE"

#: In place of a word: the names of files are to be offered too.
FILES = ":files"

#: A word to offer, and what it means.
Offer = tuple[str, str]


def answer(offers: Iterable[Offer]) -> None:
    """Write what ``complete`` gives, for the shell's script."""
    sys.stdout.writelines(f"{word}\t{meaning}\n" if meaning else f"{word}\n" for word, meaning in offers)


def complete(parameters: Sequence[Any], words: Sequence[str]) -> list[Offer]:
    """What may stand for the last of ``words``, which is being typed and may be empty, after the others.

    Args:
        parameters: typer's, of the command: options with ``opts``, ``secondary_opts``, ``is_flag`` and ``help``, and
            arguments.
        words: those after the command's name.

    Returns:
        Words that begin as the last one does, sorted; ``FILES`` among them where a file's name may stand there.
    """
    options = {
        name: one for one in parameters if one.param_type_name == "option" for name in (*one.opts, *one.secondary_opts)
    }
    *before, current = _joined(words) or [""]
    if current.startswith("-") and "=" in current:
        name, _, begun = current.partition("=")
        return [(f"{name}={word}", meaning) for word, meaning in _values(name, options, begun) if word != FILES]
    if before and _takes_value(before[-1], options):
        return _values(before[-1], options, current)
    if current.startswith("-"):
        taken = {id(options[word.partition("=")[0]]) for word in before if word.partition("=")[0] in options}
        free = ((name, one) for name, one in options.items() if one.multiple or id(one) not in taken)
        named = [(name, _first_sentence(one.help or "")) for name, one in free if name.startswith("--")]
        named.append(("--help", "Show the options, and exit."))
        return sorted(offer for offer in dict(named).items() if offer[0].startswith(current))
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    given, skip = 0, False
    for word in before:
        if not skip and not word.startswith("-"):
            given += 1
        skip = not skip and _takes_value(word, options)
    if not arguments or (given >= len(arguments) and arguments[-1].nargs == 1):
        return []
    return _begun(values_of(arguments[min(given, len(arguments) - 1)].name.upper()), current)


def _joined(words: Sequence[str]) -> list[str]:
    """The words without the ``=`` at which Bash splits them: ``--method``, ``=``, ``be`` are two words."""
    return [word for place, word in enumerate(words) if word != "=" or place == len(words) - 1 or place == 0]


def _takes_value(word: str, options: dict[str, Any]) -> bool:
    return word in options and not options[word].is_flag


def _values(name: str, options: dict[str, Any], begun: str) -> list[Offer]:
    if not _takes_value(name, options):
        return []
    return _begun(values_of(max(options[name].opts, key=len)), "" if begun == "=" else begun)


def _begun(values: Iterable[str], current: str) -> list[Offer]:
    return [(value, "") for value in values if value == FILES or value.startswith(current)]


def _first_sentence(text: str) -> str:
    """What an option's help says first, short enough for a menu."""
    return text.partition(". ")[0].partition(": ")[0].rstrip(".")[:80]
