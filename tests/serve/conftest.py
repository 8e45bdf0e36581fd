"""An engine that is built once, and a server of it that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

for _name in ("uvicorn", "starlette", "grpc", "tritonclient", "prometheus_client"):
    pytest.importorskip(_name, reason="the extra `serve` is not installed")

from repq_deploy.serve.settings import ServeSettings  # noqa: E402
from tests.serve.running import Live, build_tiny, running  # noqa: E402


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def live(engine: Path) -> Iterator[Live]:
    with running(ServeSettings(engines={"tiny": engine}, max_body_mb=0.1)) as found:
        yield found
