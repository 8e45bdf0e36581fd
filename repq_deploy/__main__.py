"""``python -m repq_deploy``: the same as ``repq``."""

from __future__ import annotations

from repq_deploy.cli.main import main

if __name__ == "__main__":
    main()
