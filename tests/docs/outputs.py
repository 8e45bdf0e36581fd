"""Whether what a command printed is what a page shows.

Lines are compared in order, white space as one space. ``...`` as a line stands for any lines, inside a line for any
text. Numbers are compared by what they count: seconds, bytes, speeds, ratios of them and versions are another
machine's, and any number will do, as will decibels: which codes on ties fall otherwise, if any, is the processor's, and
what they have to reach is the command's to check; percentages and points agree within 1.5; whole numbers within 3 or
one in a hundred; others within a tenth. A digit inside a word, as in ``w4a4``, is part of the word.
"""

from __future__ import annotations

import math
import re

__all__ = ["difference"]

_NUMBER = r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?(?=x\b|\W|$)"
_FREE = re.compile(r"\s*(?:s|ms|min|kB|MB|GB|MiB|GiB|images/s|x|times|dB)(?!\w)")
_POINTS = re.compile(r"\s*(?:%|points)")


def difference(shown: tuple[str, ...], printed: str, *, any_number: bool = False) -> str | None:
    """What is shown and was not printed, or the reverse; None where they agree.

    ``any_number``: all that is printed are measurements of a machine, as ``repq-bench``'s tables are.
    """
    lines = [line for line in printed.splitlines() if line.strip()]
    expected = [line for line in shown if line.strip()]
    furthest = 0
    # The places in `lines` where the shown lines so far can end.
    ends, skipping = {0}, False
    for line in expected:
        if line.strip() == "...":
            skipping = True
            continue
        starts = set(range(min(ends), len(lines))) if skipping else ends
        ends = {place + 1 for place in starts if place < len(lines) and _line_agrees(line, lines[place], any_number)}
        skipping = False
        if not ends:
            there = lines[furthest] if furthest < len(lines) else "nothing more"
            return f"shown: {line.strip()}\nprinted: {there.strip()}"
        furthest = max(ends)
    if skipping or len(lines) in ends:
        return None
    return f"printed, and not shown: {lines[furthest]}"


def _line_agrees(shown: str, printed: str, any_number: bool) -> bool:
    shown = shown.strip()
    numbers = list(re.finditer(_NUMBER, shown))
    pattern, place = "", 0
    for number in numbers:
        pattern += _words(shown[place : number.start()]) + rf"({_NUMBER})"
        place = number.end()
    match = re.fullmatch(pattern + _words(shown[place:]), printed.strip())
    return match is not None and all(
        any_number or _number_agrees(number[0], found, shown[number.end() :])
        for number, found in zip(numbers, match.groups(), strict=True)
    )


def _words(text: str) -> str:
    """A pattern for the text between two numbers."""
    escaped = (re.escape(part) for part in re.split(r"(?:\s+)", text))
    return r"\s+".join(escaped).replace(re.escape("..."), ".*?")


def _number_agrees(shown: str, found: str, behind: str) -> bool:
    if _FREE.match(behind) or shown.count(".") > 1:
        return True
    here, there = (float(text.replace(",", "")) for text in (shown, found))
    if _POINTS.match(behind):
        return abs(here - there) <= 1.5
    if re.fullmatch(r"[-+]?[\d,]+", shown):
        return math.isclose(here, there, rel_tol=0.01, abs_tol=3)
    return math.isclose(here, there, rel_tol=0.1)
