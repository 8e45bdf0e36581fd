"""The proofs that are made before an engine is built. A proof that fails says what is wrong: a pass or a kernel.

The passes are compared in arithmetic that saturates on no CPU, and the kernels in the very graph that a session will
run. The figures go into the manifest. ``repq_deploy.export.prove_lowering`` and ``prove_kernels`` say how graphs are
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repq_deploy.engines.backends import Backend
from repq_deploy.engines.backends.onnxruntime import open_reference
from repq_deploy.engines.manifest import KernelCodes
from repq_deploy.engines.prove_engine import sqnr_db
from repq_deploy.engines.reference import Reference, run_batches
from repq_deploy.engines.source import SourceModel
from repq_deploy.errors import BuildFailed

if TYPE_CHECKING:
    import onnx

    from repq_deploy.export.prove_kernels import CodeFigures
    from repq_deploy.export.prove_lowering import Stretch

__all__ = ["Proofs", "prove"]


@dataclass(frozen=True)
class Proofs:
    """The figures of the manifest of the same names; see ``Manifest``."""

    lowering_sqnr_db: float
    kernel_codes: KernelCodes | None
    rounded_sqnr_db: float | None


def prove(
    source: SourceModel,
    backend: Backend,
    lowered: onnx.ModelProto,
    reference: Reference,
    *,
    allow_rounding: bool,
    runs_here: bool,
) -> Proofs:
    """Compare the float32 ``lowered`` graph with the canonical one, first on the reference runtime, then, if it
    ``runs_here``, on the engine's own kernels. If rounding is allowed, kernels are not compared and no figure can fail.

    Raises:
        BuildFailed: the passes changed what the graph computes; or the runtime's kernels compute something else.
            Logits alone would not tell: at few bits they drift too far.
    """
    # The exporter's dependencies are needed for a build only, not to open an engine.
    from repq_deploy.export.lowering import exact_anywhere  # noqa: PLC0415
    from repq_deploy.export.prove_lowering import compare_lowering  # noqa: PLC0415

    # No name holds the exact graph, which is as large as the model, while kernels are compared.
    stretches = compare_lowering(source.model, exact_anywhere(lowered), reference.images)
    lowering_db = min(one.sqnr_db for one in stretches)
    if allow_rounding:
        run = open_reference(source, data=exact_anywhere(lowered).SerializeToString())
        return Proofs(lowering_db, None, sqnr_db(reference.logits, run_batches(run, reference.images)))
    if failure := _failure(stretches):
        raise BuildFailed(
            f"lowering {source.path.name} for {backend.name} changed what it computes: {failure}; "
            "a pass is wrong, not your model: please report it"
        )
    codes = _prove_kernels(source, backend, lowered, reference) if runs_here else None
    return Proofs(lowering_db, codes, None)


def _prove_kernels(
    source: SourceModel, backend: Backend, lowered: onnx.ModelProto, reference: Reference
) -> KernelCodes:
    from repq_deploy.export.lowering import Lowering, lower, saturation_of  # noqa: PLC0415

    found = _compare_kernels(source, backend, lowered, reference)
    if found.holds:
        return KernelCodes(found.sites, found.codes, found.different, found.unexplained)
    runtime = f"{backend.name} {backend.version()}"
    said = f"{found.unexplained} of {found.codes} codes differ, most at {found.worst}"
    saturating = saturation_of(lowered).products
    if saturating:
        safe, _ = lower(source.model, backend.passes(Lowering(sums_in_16_bits=True)))
        if _compare_kernels(source, backend, safe, reference).holds:
            raise BuildFailed(
                f"{runtime} saturates on this CPU: {said}; {saturating} products of {source.path.name} have sums that "
                "do not fit 16 bits; build with --cpu any"
            )
    raise BuildFailed(
        f"{runtime}'s kernels do not compute the graph of {source.path.name} on this CPU: {said}; the passes are "
        "proven right, so take another --backend or another version of the runtime"
    )


def _compare_kernels(
    source: SourceModel, backend: Backend, lowered: onnx.ModelProto, reference: Reference
) -> CodeFigures:
    from repq_deploy.export.prove_kernels import compare_codes  # noqa: PLC0415

    served = backend.served_graph(lowered)
    return compare_codes(source.model, served, reference.images, kernels=backend.load_graph)


def _failure(stretches: Sequence[Stretch]) -> str | None:
    """The worst of the stretches that do not hold, in words; None where all hold."""
    failing = [one for one in stretches if not one.holds()]
    if not failing:
        return None
    worst = min(failing, key=lambda one: one.sqnr_db)
    return f"SQNR {worst.sqnr_db:.1f} dB at {worst.end!r}, too little for rounding"
