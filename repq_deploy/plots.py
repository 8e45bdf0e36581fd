"""Plots, as files. They need matplotlib, an extra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.system.files import atomic_output, check_writable

__all__ = ["Point", "check_plot", "plot_against_size"]

FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Point:
    """An allocation in the plot: MB of weights at their stated bits, its objective, and top-1 in percent if known."""

    megabytes: float
    objective: float
    top1: float | None = None


def check_plot(path: Path) -> None:
    """Refuse early a plot that could not be written.

    Raises:
        BadInput: another suffix than .png, .svg or .pdf, or no such folder.
        BackendMissing: matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"plot {path}: suffix {path.suffix!r}; expected one of {', '.join(FORMATS)}")
    check_writable(path)
    _figure()


def made_by(path: Path) -> dict[str, str]:
    """Metadata of a picture at ``path``: that it is ours, and may be replaced."""
    return {"Software" if path.suffix.lower() == ".png" else "Creator": "repq-deploy"}


def plot_against_size(searched: Sequence[Point], uniform: Sequence[Point], chosen: Point, path: Path) -> None:
    """Draw the objective, and where it was measured top-1, of allocations against the size of their weights."""
    with_accuracy = any(point.top1 is not None for point in searched)
    figure = _figure()(figsize=(6, 7 if with_accuracy else 4), layout="constrained")
    axes: Any = figure.subplots(2 if with_accuracy else 1, sharex=True, squeeze=False)[:, 0]
    series = [("allocated", searched, "o-"), ("same bits everywhere", uniform, "s--"), ("saved", [chosen], "*")]
    for label, points, style in series:
        axes[0].plot([p.megabytes for p in points], [p.objective for p in points], style, label=label)
        known = [p for p in points if p.top1 is not None]
        if known:
            axes[1].plot([p.megabytes for p in known], [p.top1 for p in known], style, label=label)
    axes[0].set(yscale="log", ylabel="objective: weighted squared error of the logits")
    axes[0].legend()
    if with_accuracy:
        axes[1].set(ylabel="top-1 (%)")
    axes[-1].set(xlabel="weights at their stated bits (MB)")
    with atomic_output(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower()[1:], dpi=150, metadata=made_by(path))


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BackendMissing(
            "--plot needs the package matplotlib, which is not installed; pip install matplotlib"
        ) from error
    return Figure
