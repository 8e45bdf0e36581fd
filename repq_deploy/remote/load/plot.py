"""``repq-bench URL --plot``: latency over throughput."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repq_deploy.plots import made_by
from repq_deploy.remote.load.measure import Direct, LoadResult
from repq_deploy.system.files import atomic_output

__all__ = ["write_load_plot"]


def write_load_plot(results: Sequence[LoadResult], direct: Sequence[Direct], path: Path, *, title: str) -> None:
    """Draw a point for each loop and the engine's own, and a line of the 99th percentile above each.

    The format is ``path``'s suffix.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    for batch in sorted({one.batch for one in results}):
        shown = [one for one in results if one.batch == batch and one.median_ms is not None]
        x, medians, highs = zip(*((one.images_per_s, one.median_ms, one.p99_ms) for one in shown), strict=True)
        above = [high - median for high, median in zip(highs, medians, strict=True)]
        panel.errorbar(x, medians, yerr=[[0] * len(above), above], fmt="o", capsize=3, label=f"server, batch {batch}")
        for one in shown:
            panel.annotate(f" {one.loop}", (one.images_per_s, one.median_ms), fontsize="small")
    if direct:
        speeds, own = [one.images_per_s for one in direct], [one.median_ms for one in direct]
        panel.plot(speeds, own, "s", label="engine, called directly")
        for each in direct:
            panel.annotate(f" batch {each.batch}", (each.images_per_s, each.median_ms), fontsize="small")
    panel.set(xlabel="images/s", ylabel="ms: median, and p99 above it")
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.margins(x=0.2)
    panel.legend(fontsize="small")
    figure.suptitle(title, fontsize="small")
    with atomic_output(path) as temporary:
        kind = path.suffix.lstrip(".").lower() or "png"
        figure.savefig(temporary, format=kind, dpi=150, metadata=made_by(path.with_suffix(f".{kind}")))
