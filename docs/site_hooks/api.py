"""The Python interface, put in place of a marker when the site is built: one entry for each name of ``repq_deploy``.

``mkdocstrings`` makes the entries of signatures and docstrings, which it reads without importing anything.
"""

from __future__ import annotations

from typing import Any

import repq_deploy

MARKER = "<!-- site: every public name -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a directive of mkdocstrings for every public name in place of the marker."""
    entries = "\n".join(f"::: repq_deploy.{name}\n" for name in repq_deploy.__all__)
    return markdown.replace(MARKER, entries)
