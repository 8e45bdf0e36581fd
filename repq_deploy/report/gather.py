"""Reading what a report is about: canonical files, engines with their manifests, results of ``repq-bench --json``."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repq_deploy.engines.bench.measure import Measured
from repq_deploy.engines.manifest import read_manifest
from repq_deploy.engines.runner import check_engine
from repq_deploy.engines.source import read_source
from repq_deploy.errors import BadInput
from repq_deploy.export.measures.record import SiteMeasures, recorded_measures
from repq_deploy.export.table import site_table
from repq_deploy.records import decode, parse_json
from repq_deploy.report.facts import BenchFact, FileFact, ModelFact, Report, SiteFact
from repq_deploy.system.files import existing_file

__all__ = ["gather", "site_of_name"]

#: The block in a site's name: ``blocks.3``, ``layers.1.blocks.0``.
_BLOCK = re.compile(r"(.*\b(?:blocks|layers|layer)\.\d+)\.(.+)")
#: Bounds of a bench result.
_MOST_BYTES, _MOST_RESULTS = 2**22, 1000


def gather(files: Sequence[Path]) -> Report:
    """Read all ``files``. Engines of one canonical file, and the file itself, are one model.

    Raises:
        BadInput: a file is missing, damaged, of another kind, or given twice.
    """
    models: dict[str, ModelFact] = {}
    benches: list[BenchFact] = []
    seen: set[Path] = set()
    for path in files:
        if path.resolve() in seen:
            raise BadInput(f"{path}: is named twice; name each file once")
        seen.add(path.resolve())
        if path.suffix == ".json":
            benches.append(_bench(path))
            continue
        found = _engine(path) if path.suffix == ".engine" else _canonical(path)
        models[found.source] = _joined(models[found.source], found) if found.source in models else found
    return Report(tuple(models.values()), tuple(benches))


def site_of_name(name: str, bits: int, kind: str, **measured: Any) -> SiteFact:
    """A site by its name in the graph; the block is the part of it up to the last ``blocks.N``."""
    match = _BLOCK.fullmatch(name)
    block, row = (match[1], match[2]) if match and "downsample" not in name else ("", name)
    return SiteFact(name, block, row, bits, kind, **measured)


def _joined(one: ModelFact, other: ModelFact) -> ModelFact:
    return dataclasses.replace(one, files=one.files + other.files, sites=one.sites or other.sites)


def _canonical(path: Path) -> ModelFact:
    if path.suffix != ".onnx":
        raise BadInput(
            f"{path}: expected an .onnx file of repq-export, an .engine, or a .json file that repq-bench --json printed"
        )
    source = read_source(path)
    measures = _measures(source.metadata, path)
    sites = _measured_sites(measures) or tuple(
        site_of_name(
            row.name, min(max(row.bits, 2), 8), "uniform" if row.kind in ("weight", "activation") else row.kind
        )
        for row in site_table(source.model)
    )
    size = len(source.data) + (0 if source.weights is None else source.weights.stat().st_size)
    file = FileFact(str(path), size, source.sha256)
    return ModelFact(source.metadata, source.sha256, path.name, (file,), sites, measures)


def _engine(path: Path) -> ModelFact:
    existing_file(path, "engine")
    manifest = read_manifest(path)
    check_engine(path, manifest)
    measures = _measures(manifest.metadata, path)
    file = FileFact(str(path), path.stat().st_size, manifest.engine.sha256, manifest)
    source = manifest.source
    return ModelFact(manifest.metadata, source.sha256, source.name, (file,), _measured_sites(measures), measures)


def _measures(metadata: dict[str, str], path: Path) -> SiteMeasures | None:
    try:
        return recorded_measures(metadata)
    except ValueError as error:
        raise BadInput(f"{path}: damaged metadata: {error}; export the model again") from error


def _measured_sites(measures: SiteMeasures | None) -> tuple[SiteFact, ...]:
    if measures is None:
        return ()
    return tuple(
        site_of_name(name, one.bits, one.kind, db=one.db, seen=one.seen, clipped=one.clipped, before=one.before)
        for name, one in measures.sites.items()
    )


def _bench(path: Path) -> BenchFact:
    existing_file(path, "bench result")
    advice = "expected what repq-bench --json printed; an engine's manifest is read when its .engine is named"
    if path.stat().st_size > _MOST_BYTES:
        raise BadInput(f"bench result {path}: {path.stat().st_size} bytes; {advice}")
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not found.keys() >= {"machine", "rounds", "results"}:
            raise ValueError("lacks machine, rounds or results")
        machine, rounds = decode(str, found["machine"], "machine"), decode(int, found["rounds"], "rounds")
        results = decode(tuple[Measured, ...], found["results"], "results")
        _check_results(results)
    except (ValueError, OSError) as error:  # UnicodeDecodeError is a ValueError
        raise BadInput(f"bench result {path}: {error}; {advice}") from error
    return BenchFact(str(path), machine, rounds, results)


def _check_results(results: tuple[Measured, ...]) -> None:
    if not 0 < len(results) <= _MOST_RESULTS:
        raise ValueError(f"holds {len(results)} results, expected 1 to {_MOST_RESULTS}")
    for one in results:
        positive = (one.median_ms, one.p90_ms, one.p99_ms, one.images_per_s, one.speedup)
        if one.batch < 1 or min(positive) <= 0 or one.size_mb < 0 or not all(map(math.isfinite, positive)):
            raise ValueError(f"result {one.label[:60]!r}: a number that cannot be measured")
    if {one.label for one in results if one.batch == results[0].batch} != {one.label for one in results}:
        raise ValueError("not every model was measured at every batch size")
