"""A served model held against an engine: it has to give the engine's reference outputs, in any row of any batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repq_deploy.cli.answers.build import rows_words
from repq_deploy.cli.serving.served import ServedTarget
from repq_deploy.engines.batching import Profile, Runner
from repq_deploy.engines.judge import judge
from repq_deploy.engines.manifest import Manifest, read_manifest
from repq_deploy.engines.prove_engine import FAILED
from repq_deploy.engines.reference import Reference, read_reference, run_batches
from repq_deploy.errors import BadInput
from repq_deploy.evaluation import Target
from repq_deploy.remote.address import is_address

__all__ = ["Record", "failed", "proof_lines", "prove", "record_for"]


@dataclass(frozen=True)
class Record:
    """What lies beside an engine, which itself need not run here."""

    engine: str
    manifest: Manifest
    reference: Reference


def record_for(target: str, reference: Path | None, against: str | None) -> Record | None:
    """What a served ``target`` is held against: ``reference``, or else ``against`` where it is an engine.

    Raises:
        BadInput: the target is not served; or the manifest or the reference is missing, or of another model.
    """
    if not is_address(target):
        if reference is not None:
            raise BadInput(f"--reference {reference}: is for a served model, as in http://HOST:PORT/MODEL")
        return None
    named = str(reference) if reference is not None else against
    if named is None or not named.endswith(".engine"):
        if reference is not None:
            raise BadInput(f"--reference {reference}: expected an engine's name, which ends in .engine")
        return None
    manifest = read_manifest(Path(named))
    beside = Path(named).with_name(manifest.reference)
    found = read_reference(beside)
    if found.source_sha256 != manifest.source.sha256:
        raise BadInput(f"reference {beside}: belongs to another model than engine {named}; copy both again")
    return Record(named, manifest, found)


def prove(opened: Sequence[Target], record: Record) -> dict[str, Any]:
    """The verdict on the first of ``opened``, and, where the second is the same engine, whether both give the same
    bits: ``{"reference": engine, "validation": ..., "equal_to_engine": True}``.

    Raises:
        BadInput: the served model takes other images, or gives another number of outputs.
    """
    served, manifest = opened[0], record.manifest
    if not isinstance(served, ServedTarget):
        raise TypeError(f"{served.name} is not served")
    if served.input != manifest.input or served.outputs != manifest.outputs:
        raise BadInput(
            f"{served.name}: takes {served.input} and gives {served.outputs} numbers, {record.engine} takes "
            f"{manifest.input} and gives {manifest.outputs}: it is of another model"
        )
    largest = served.largest_batch
    profile = Profile(1, min(manifest.profile.opt, largest), largest)
    validation = judge(served.predict, manifest, record.reference, profile)
    engine = next((each.predict for each in opened[1:] if each.name == record.engine), None)
    equal = None if engine is None else _same_bits(served.predict, engine, record.reference)
    return {"reference": record.engine, "validation": asdict(validation), "equal_to_engine": equal}


def proof_lines(proof: Mapping[str, Any]) -> list[str]:
    """What ``prove`` found, in words."""
    validation = proof["validation"]
    figures, rows = validation["figures"], validation["rows"]
    lines = []
    if figures is not None:
        lines.append(
            f"reference of {proof['reference']}, {figures['images']} images: SQNR {figures['sqnr_db']:.1f} dB "
            f"({validation['tolerance']['min_sqnr_db']:.1f} required), error max {figures['max_abs_error']:.3g}"
        )
    if rows is not None:
        lines.append(rows_words(rows))
    if proof["equal_to_engine"] is not None:
        lines.append(f"equal to the engine run here, to the bit: {'yes' if proof['equal_to_engine'] else 'no'}")
    return [*lines, f"{validation['verdict']}: {validation['reason']}"]


def failed(proof: Mapping[str, Any] | None) -> bool:
    """Whether the served model is not what it should be."""
    return proof is not None and proof["validation"]["verdict"] == FAILED


def _same_bits(served: Runner, engine: Runner, reference: Reference) -> bool:
    ours, theirs = (run_batches(run, reference.images) for run in (served, engine))
    return ours.tobytes() == theirs.tobytes()
