"""The picture of a benchmark: latency of each model by batch size, with its speed relative to the first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repq_deploy.engines.bench.measure import Measured
from repq_deploy.errors import BackendMissing
from repq_deploy.plots import made_by
from repq_deploy.system.files import atomic_output

__all__ = ["check_plot", "write_plot"]


def check_plot() -> None:
    """BackendMissing where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise BackendMissing("--plot: needs matplotlib; run: pip install 'repq-deploy[plot]'") from error


def write_plot(results: Sequence[Measured], path: Path, *, title: str) -> None:
    """Draw horizontal bars of milliseconds an image, one panel a batch size; the format is ``path``'s suffix."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    batches = sorted({one.batch for one in results})
    rows = len(results) // len(batches)
    figure = Figure(figsize=(5 * len(batches), 1.2 + 0.4 * rows), layout="constrained")
    panels = figure.subplots(1, len(batches), squeeze=False, sharey=True)[0]
    for panel, batch in zip(panels, batches, strict=True):
        shown = [one for one in results if one.batch == batch]
        bars = panel.barh([one.label for one in shown], [one.median_ms / batch for one in shown])
        panel.bar_label(bars, [f"{one.speedup:.2f}x" for one in shown], padding=3)
        panel.set(xlabel="median ms an image", title=f"batch {batch}")
        panel.margins(x=0.15)
    panels[0].invert_yaxis()
    figure.suptitle(title, fontsize="small")
    with atomic_output(path) as temporary:
        kind = path.suffix.lstrip(".").lower() or "png"
        figure.savefig(temporary, format=kind, dpi=150, metadata=made_by(path.with_suffix(f".{kind}")))
