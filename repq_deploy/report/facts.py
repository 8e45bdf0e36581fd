"""What a report is made of: plain values, gathered from files before any HTML is written."""

from __future__ import annotations

from dataclasses import dataclass, replace

from repq_deploy.engines.bench.measure import Measured
from repq_deploy.engines.manifest import Manifest
from repq_deploy.evaluation import Evaluation
from repq_deploy.export.measures.record import SiteMeasures, Spread

__all__ = ["BenchFact", "Changes", "FileFact", "ModelFact", "Report", "Scored", "SiteFact"]


@dataclass(frozen=True)
class SiteFact:
    """One quantizer.

    Attributes:
        name: as in the graph, such as ``blocks.0.attn.qkv.input``.
        block: the part of the name that says the block; empty outside of blocks.
        row: the rest of the name.
        db, seen, clipped, before: as in ``SiteMeasure``; None where the file records nothing.
    """

    name: str
    block: str
    row: str
    bits: int
    kind: str
    db: float | None = None
    seen: Spread | None = None
    clipped: float | None = None
    before: Spread | None = None

    @property
    def is_weight(self) -> bool:
        return self.name.endswith(".weight")

    @property
    def short_bits(self) -> str:
        """As ``--bits`` writes them: ``w4`` or ``a4``."""
        return f"{'w' if self.is_weight else 'a'}{self.bits}"


@dataclass(frozen=True)
class Changes:
    """Where two targets decide otherwise: ``counts`` of images by (what the other decides, what this one decides), in
    falling order of the count, only for pairs that occur; ``names`` of the outputs, empty where they have none."""

    outputs: int
    counts: tuple[tuple[int, int, int], ...]
    names: tuple[str, ...] = ()

    def name(self, output: int) -> str:
        return self.names[output] if output < len(self.names) else str(output)


@dataclass(frozen=True)
class Scored:
    """What running a file over images found. ``against`` is the name of the second target; None without one."""

    data: str
    evaluation: Evaluation
    against: str | None = None
    changes: Changes | None = None
    agreeing: str = ""


@dataclass(frozen=True)
class FileFact:
    """A canonical file (``manifest`` None) or an engine. ``bytes`` is its size."""

    path: str
    bytes: int
    sha256: str
    manifest: Manifest | None = None
    scored: Scored | None = None

    @property
    def kind(self) -> str:
        return "canonical ONNX" if self.manifest is None else f"engine for {self.manifest.backend}"


@dataclass(frozen=True)
class ModelFact:
    """A model: what its metadata record, its quantizers, and the files about it. ``source`` is the hash of the
    canonical file, and ``source_name`` its name."""

    metadata: dict[str, str]
    source: str
    source_name: str
    files: tuple[FileFact, ...]
    sites: tuple[SiteFact, ...] = ()
    measures: SiteMeasures | None = None

    @property
    def name(self) -> str:
        return self.metadata.get("repq.model", "model")

    @property
    def bits(self) -> str:
        return self.metadata.get("repq.bits", "") or "float"

    def with_files(self, *files: FileFact) -> ModelFact:
        return replace(self, files=files)

    def worst(self, count: int) -> tuple[SiteFact, ...]:
        """The sites with the most error for their signal, the worst first."""
        known = [site for site in self.sites if site.db is not None]
        return tuple(sorted(known, key=lambda site: (site.db or 0.0, site.name))[:count])


@dataclass(frozen=True)
class BenchFact:
    """A result of ``repq-bench --json``. The first of ``results`` is what the others are compared with."""

    path: str
    machine: str
    rounds: int
    results: tuple[Measured, ...]

    @property
    def baseline(self) -> str:
        return self.results[0].label

    @property
    def batches(self) -> tuple[int, ...]:
        return tuple(sorted({one.batch for one in self.results}))

    def of_batch(self, batch: int) -> tuple[Measured, ...]:
        return tuple(one for one in self.results if one.batch == batch)


@dataclass(frozen=True)
class Report:
    """Everything on the page, in the order of the command line."""

    models: tuple[ModelFact, ...]
    benches: tuple[BenchFact, ...]
