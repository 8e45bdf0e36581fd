"""The benchmark of codes sees every fold: it stands in for a function by name, which may move."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_fold_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    codes = importlib.import_module("codes")
    monkeypatch.setattr(codes.STEP, "fold_post_norm", codes.fold_post_norm)  # what row() replaces is put back
    name, bits, folds, fold_equal, sites, *_ = codes.row("demo", "w4a4")
    for module in ("codes", "commands"):
        sys.modules.pop(module, None)
    assert (name, bits) == ("demo", "w4a4")
    assert int(folds) == 12  # two in each of six blocks
    assert float(fold_equal) == 100
    assert int(sites) > 12
