"""The options of every command, put in place of a marker when the site is built: what each ``--help`` prints itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig

MARKER = "<!-- site: the help of every command -->"
_COLUMNS = "96"


def on_page_markdown(markdown: str, config: MkDocsConfig, **_: Any) -> str:
    """Put the help of every command of ``pyproject.toml`` in place of the marker."""
    if MARKER not in markdown:
        return markdown
    root = Path(config.config_file_path).parent
    scripts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    return markdown.replace(
        MARKER, "\n".join(f"## {name}\n\n~~~~text\n{_help(name, scripts[name])}~~~~\n" for name in scripts)
    )


def _help(name: str, entry: str) -> str:
    """What ``name --help`` prints; ``entry`` is ``module:function``."""
    module, _, function = entry.partition(":")
    program = f"import sys; from {module} import {function} as main; sys.argv = [{name!r}, '--help']; main()"
    plain = {**os.environ, "COLUMNS": _COLUMNS, "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=plain, check=True)
    return done.stdout.strip("\n") + "\n"
