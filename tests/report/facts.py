"""A small model of known numbers, as a report has it."""

from __future__ import annotations

from repq_deploy.engines.bench.measure import Measured
from repq_deploy.evaluation import Evaluation, Figures
from repq_deploy.export.measures.record import SiteMeasure, SiteMeasures, Spread
from repq_deploy.report.facts import BenchFact, Changes, FileFact, ModelFact, Report, Scored
from repq_deploy.report.gather import site_of_name

#: What no page may show as HTML.
HOSTILE = "<script>alert(1)</script>"


def measures(blocks: int = 2) -> SiteMeasures:
    sites = {"patch_embed.proj.input": SiteMeasure(8, "uniform", 50.0, Spread(-1.0, 1.0), 0.0)}
    for block in range(blocks):
        before, after = (0.5, 1.0, 2.0, 4.0, 16.0), (2.0, 2.5, 3.0, 3.5, 4.0)
        folded = SiteMeasure(4, "uniform", 21.0 - block, Spread(-2, 2, after), 0.01, Spread(-8, 8, before))
        sites[f"blocks.{block}.attn.qkv.input"] = folded
        sites[f"blocks.{block}.attn.qkv.weight"] = SiteMeasure(4, "uniform", None)
        sites[f"blocks.{block}.attn.p"] = SiteMeasure(4, "log2", 9.0 + block, Spread(0.0, 1.0))
    return SiteMeasures(4, 4_000_000, 1000, 3, 0, sites)


def measured(label: str, median: float, speedup: float, batch: int = 1) -> Measured:
    return Measured(label, batch, 9, median, 2 * median, 3 * median, 1e3 * batch / median, None, 4.0, speedup, None)


def report(blocks: int = 2, *, hostile: str = "") -> Report:
    """One canonical file with a confusion, and one benchmark."""
    recorded = measures(blocks)
    sites = tuple(
        site_of_name(name, one.bits, one.kind, db=one.db, seen=one.seen, clipped=one.clipped, before=one.before)
        for name, one in recorded.sites.items()
    )
    figures = Figures(100, 90.0, 3.0, None, 10.0)
    changes = Changes(3, ((0, 0, 50), (1, 1, 47), (0, 1, 2), (2, 0, 1)), ("cat", "dog", f"bird{hostile}"))
    scored = Scored("data", Evaluation(figures, figures, 97.0, -1.5, 0.4), "float.onnx", changes, "same: {:.2f} %")
    file = FileFact(f"model{hostile}.onnx", 500_000, "ab" * 32, None, scored)
    metadata = {"repq.model": f"tiny{hostile}", "repq.bits": "w4a4", "repq.method": "best", **recorded.entry()}
    results = (measured("float.onnx", 4.0, 1.0), measured(f"model{hostile}", 2.0, 2.0))
    bench = BenchFact("bench.json", "a machine", 3, results)
    return Report((ModelFact(metadata, "cd" * 32, "model.onnx", (file,), sites, recorded),), (bench,))
