"""Writing HTML: everything that comes from a file passes through ``tag`` or ``text``, which escape it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["Html", "missing", "number", "percent", "scrolled", "section", "table", "tag", "text"]


class Html(str):
    """Text that is HTML already."""


def text(value: object) -> Html:
    """``value`` as HTML: escaped unless it is HTML, and without control characters."""
    if isinstance(value, Html):
        return value
    plain = "".join(one if one.isprintable() or one == "\n" else "�" for one in str(value))
    return Html(html.escape(plain))


def tag(name: str, /, *inner: object, **attributes: object) -> Html:
    """An element. A trailing underscore of an attribute's name is dropped, other underscores become hyphens; None
    leaves the attribute out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("meta", "link", "line", "rect", "circle", "path", "br"):
        return Html(f"<{name}{said}/>")
    return Html(f"<{name}{said}>{''.join(map(text, inner))}</{name}>")


def section(title: str, *inner: object) -> Html:
    """A part of the page with a heading."""
    return tag("section", tag("h2", title), *inner)


def missing(what: str, command: str | None = None) -> Html:
    """A sentence on what is not there, and the command that would give it."""
    return tag("p", what, *([" ", tag("code", command)] if command else []), class_="missing")


def scrolled(label: str, *inner: object) -> Html:
    """What may be wider than a narrow screen: it scrolls by itself, with the keyboard too."""
    return tag("div", *inner, class_="scroll", tabindex="0", role="region", aria_label=label)


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str, numbers: int = 0) -> Html:
    """A table, of whose columns the last ``numbers`` are numbers."""
    first = len(heads) - numbers

    def cell(name: str, index: int, value: object, **more: object) -> Html:
        return tag(name, value, class_="n" if index >= first else None, **more)

    head = tag("tr", *(cell("th", index, value, scope="col") for index, value in enumerate(heads)))
    body = (tag("tr", *(cell("td", index, value) for index, value in enumerate(row))) for row in rows)
    return scrolled(caption, tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body)))


def number(value: float | None, digits: int = 3) -> str:
    """``value`` with so many significant digits, without an exponent where that is short; a dash for None."""
    if value is None:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        short = f"{value:.{digits}g}"
        return f"{value:.0f}" if "e" in short else short
    return f"{value:.{digits - 1}e}"


def percent(value: float | None, digits: int = 2) -> str:
    """A share from 0 to 1 in percent."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"
