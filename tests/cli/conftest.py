"""Running a command in process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Finished:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """``call(main, *arguments)`` runs a console script's function."""

    def _call(main: Callable[[], None], *arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Finished(code, *capsys.readouterr())

    return _call


@pytest.fixture(autouse=True)
def untimed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds are many here, and not timed against the float model, save where a test asks for ``timed_build``."""
    if "timed_build" not in request.fixturenames:
        monkeypatch.setattr("repq_deploy.engines.api.check_speed", lambda engine, manifest, source: None)


@pytest.fixture
def timed_build() -> None:
    """Let a test's builds be timed against the float model, as a user's are."""
