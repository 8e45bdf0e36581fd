"""An engine that is built once, and a server of it that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

#: Without the extra ``serve`` there is nothing to test here.
_MISSING = [
    name for name in ("uvicorn", "starlette", "grpc", "tritonclient", "prometheus_client") if not find_spec(name)
]
collect_ignore_glob = ["*.py"] if _MISSING else []

if not _MISSING:
    from repq_deploy.serve.settings import ServeSettings
    from tests.serve.running import Live, build_tiny, running


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def live(engine: Path) -> Iterator[Live]:
    with running(ServeSettings(engines={"tiny": engine}, max_body_mb=0.1)) as found:
        yield found
