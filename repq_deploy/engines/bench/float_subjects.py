"""``repq-bench --against-float``: the float model beside engines, in the runtime of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.bench.against_float import Speed, float_file
from repq_deploy.engines.bench.measure import BenchPlan, Measured
from repq_deploy.engines.bench.reasons import facts_of, why_not_faster
from repq_deploy.engines.bench.times import FloatTimes
from repq_deploy.engines.manifest import Manifest, read_manifest
from repq_deploy.engines.source import SourceModel
from repq_deploy.errors import BadInput

__all__ = ["AgainstFloat", "Verdict", "check_engines", "with_float_models"]


@dataclass(frozen=True)
class AgainstFloat:
    """The engines of a plan by label, with their manifests, and the file that the float model is made from."""

    source: SourceModel
    engines: dict[str, Manifest]

    def float_label(self, engine: str) -> str:
        """What the float model is called that the engine with this label is compared with."""
        return f"float ({self.engines[engine].backend})"

    def verdicts(self, results: Sequence[Measured], *, threads: int) -> list[Verdict]:
        """What ``results``, which hold the float models, say of each engine, by ``threads`` on as many CPUs."""
        medians = {(one.label, one.batch): one.median_ms for one in results}
        batches = sorted({one.batch for one in results})
        found = []
        for label, manifest in self.engines.items():
            float_label = self.float_label(label)
            times = tuple(FloatTimes(n, medians[label, n], medians[float_label, n]) for n in batches)
            backend = backend_named(manifest.backend)
            slow = not times[0].faster
            reasons = why_not_faster(facts_of(self.source.model, manifest, backend), times) if slow else ()
            found.append(Verdict(label, float_label, Speed(threads if backend.on_cpus else None, times, reasons)))
        return found


@dataclass(frozen=True)
class Verdict:
    """An engine, the float model that it was measured with, and how the two compare, by rising batch."""

    label: str
    float_label: str
    speed: Speed


def check_engines(subjects: Sequence[tuple[str, Path]], source: SourceModel) -> AgainstFloat:
    """The engines among ``subjects``, each known to be built from ``source``; a float model is taken for any of them.

    Raises:
        BadInput: there is none, or one is built from another file.
    """
    engines = {label: read_manifest(path) for label, path in subjects if path.suffix == ".engine"}
    if not engines:
        raise BadInput("--against-float: none of the models is an engine; give at least one")
    for label, manifest in engines.items():
        if source.bits and manifest.source.sha256 != source.sha256:
            raise BadInput(
                f"--against-float {source.path}: engine {label} was built from another file "
                f"({manifest.source.name}); give that one, or build the engine again"
            )
    return AgainstFloat(source, engines)


def with_float_models(plan: BenchPlan, against: AgainstFloat, folder: Path) -> BenchPlan:
    """``plan`` with the float model first, once for each runtime of its engines; its files are written to ``folder``.

    Raises:
        BadInput: no room in ``folder``, or a model that is called as the float model is.
        BuildFailed: a GPU's builder refuses the float model.
    """
    paths = dict(plan.subjects)
    added: dict[str, Path] = {}
    like: dict[str, Path] = {}
    for label, manifest in against.engines.items():
        float_label = against.float_label(label)
        if float_label in added:
            continue
        backend = backend_named(manifest.backend)
        path = folder / f"float-{backend.name}.onnx"
        float_file(against.source, manifest, backend, path)
        added[float_label], like[float_label] = path, paths[label]
    return dataclasses.replace(plan, subjects=(*added.items(), *plan.subjects), opened_like=like)
