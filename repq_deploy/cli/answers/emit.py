"""``repq-build-engine --emit-onnx``: plans, writes and prints the folder for a named TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repq_deploy.cli.common import console, hardware_note, show
from repq_deploy.cli.streams import say

if TYPE_CHECKING:
    from repq_deploy.engines.api import BuildSettings
    from repq_deploy.exchange.emit import EmitPlan, Emitted

__all__ = ["emit"]


def emit(plan: EmitPlan, settings: BuildSettings, *, as_json: bool, dry_run: bool) -> None:
    """Do what ``plan`` says, or with ``dry_run`` say it."""
    from repq_deploy.engines.reference import make_reference
    from repq_deploy.exchange.emit import emit_planned

    if dry_run:
        entry = {"dry_run": True, "folder": str(plan.folder), "tensorrt": plan.release}
        show(entry, as_json=as_json, text=lambda: say(f"would write {plan.folder} for TensorRT {plan.release}"))
        return
    with console.status("running the reference"):
        reference = make_reference(plan.source, data=settings.reference_data, seed=settings.seed)
    with console.status(f"lowering for TensorRT {plan.release}"):
        emitted = emit_planned(plan, reference)
    answer = {"folder": str(emitted.folder), "files": [path.name for path in emitted.files], **emitted.record}
    show({"emitted": answer}, as_json=as_json, text=lambda: _print(plan, emitted))


def _print(plan: EmitPlan, emitted: Emitted) -> None:
    record = emitted.record
    passes = ", ".join(f"{one['name']} {one['changed']}" for one in record["passes"])
    say(
        f"passes (places changed): {passes}",
        "lowered graph against canonical, both in float32, in its weakest stretch: "
        f"SQNR {record['lowering_sqnr_db']:.0f} dB",
        f"wrote {emitted.folder}: {', '.join(path.name for path in emitted.files)}",
        f"for TensorRT {plan.release}: opset {record['opset']}, {record['precision']} around "
        f"{plan.source.bits or 'float'} in {record['compute']}; its parser's list has every operator and type",
    )
    say(*hardware_note(plan.source.bits))
    say(
        "WRITTEN, NOT BUILT: no engine was built from it here",
        f"next, on the machine it is for, in {emitted.folder.name}: sh build.sh && sh check.sh",
    )
    say(*(f"  {command}" for command in emitted.commands.values()))
