"""The benchmark of codes sees every fold: it stands in for a function by name, which may move."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


def test_every_fold_is_checked(monkeypatch: pytest.MonkeyPatch, benchmark: Callable[[str], ModuleType]) -> None:
    codes = benchmark("codes")
    monkeypatch.setattr(codes.fold, "fold_post_norm", codes.fold_post_norm)  # what row() replaces is put back
    name, bits, folds, fold_equal, sites, *_ = codes.row("demo", "w4a4")
    assert (name, bits) == ("demo", "w4a4")
    assert int(folds) == 12  # two in each of six blocks
    assert float(fold_equal) == 100
    assert int(sites) > 12
