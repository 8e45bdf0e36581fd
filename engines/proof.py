"""What is proven before an engine is built: that the lowered graph, and the kernels, compute the canonical graph.

The figures go into the manifest. How graphs are compared: ``repq_deploy.export.equivalence``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repq_deploy.engines.ort import open_reference
from repq_deploy.engines.reference import Reference, run_batches
from repq_deploy.engines.select import Backend
from repq_deploy.engines.source import SourceModel
from repq_deploy.engines.validate import smallest_activation_bits, sqnr_db
from repq_deploy.errors import BuildFailed

if TYPE_CHECKING:
    import onnx

    from repq_deploy.export.equivalence import Stretch

__all__ = ["Proofs", "prove"]


@dataclass(frozen=True)
class Proofs:
    """The figures of the manifest of the same names; see ``Manifest``."""

    lowering_sqnr_db: float
    kernels_sqnr_db: float | None
    rounded_sqnr_db: float | None


def prove(
    source: SourceModel, backend: Backend, lowered: onnx.ModelProto, reference: Reference, *, allow_rounding: bool
) -> Proofs:
    """Compare the float32 ``lowered`` graph with the canonical one, on the same runtime and on its own.

    Where rounding is allowed, the figures are no condition.

    Raises:
        BuildFailed: the passes changed what the graph computes; or the runtime, where it can be run here, computes
            something else. Logits alone would not tell: at few bits they drift too far.
    """
    # The exporter's dependencies are needed for a build only, not to open an engine.
    from repq_deploy.export.equivalence import (  # noqa: PLC0415
        LEAST_SQNR_DB,
        compare_lowering,
        expect,
        least_kernels_sqnr_db,
    )

    expected = expect(source.model, lowered, reference.images)
    stretches = compare_lowering(expected, lowered)
    lowering_db = _lowest(stretches)
    if allow_rounding:
        run = open_reference(source, data=lowered.SerializeToString())
        return Proofs(lowering_db, None, sqnr_db(reference.logits, run_batches(run, reference.images)))
    if failure := _failure(stretches, LEAST_SQNR_DB):
        raise BuildFailed(
            f"lowering {source.path.name} for {backend.name} changed what it computes: {failure}; "
            "please report this model"
        )
    if not backend.portable:
        return Proofs(lowering_db, None, None)
    stretches = compare_lowering(expected, lowered, kernels=backend.run_graph)
    if failure := _failure(stretches, least_kernels_sqnr_db(smallest_activation_bits(source.bits))):
        raise BuildFailed(
            f"{backend.name} {backend.version()} does not compute the graph of {source.path.name}: {failure}; "
            "take another --backend, and please report this model"
        )
    return Proofs(lowering_db, _lowest(stretches), None)


def _lowest(stretches: Sequence[Stretch]) -> float:
    return min(one.sqnr_db for one in stretches)


def _failure(stretches: Sequence[Stretch], least_db: float) -> str | None:
    """The worst of the stretches that do not hold, in words; None where all hold."""
    failing = [one for one in stretches if not one.holds(least_db)]
    if not failing:
        return None
    worst = min(failing, key=lambda one: one.sqnr_db)
    return f"SQNR {worst.sqnr_db:.1f} dB at {worst.end!r}, expected at least {least_db:.0f}"
