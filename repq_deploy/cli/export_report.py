"""What ``repq-export`` says at its end, and what it would do under ``--dry-run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repq_deploy.bits import BitWidths
from repq_deploy.cli.common import hardware_note
from repq_deploy.cli.streams import say

__all__ = ["plan_of", "print_float", "print_plan", "print_result"]


def print_float(result: dict[str, Any]) -> None:
    verb = "would write" if result["dry_run"] else "wrote"
    say(f"{verb} {result['output']}: {result['model']} in float")


def print_result(result: dict[str, Any]) -> None:
    seconds = result["seconds"]
    say(
        f"wrote {result['output']}: {result['model']} {result['bits']} by {result['method']}, "
        f"{result['bytes'] / 1e6:.1f} MB ({result['of_float']:.3f} of float)",
        f"codes equal in PyTorch and ONNX Runtime: {100 * result['codes_equal_mean']:.4f} % over {result['sites']} "
        f"sites, at worst {100 * result['codes_equal_worst']:.4f} % ({result['worst_site']})",
        f"calibrated in {seconds['calibrate']:.1f} s ({result['device']}), exported and proved in "
        f"{seconds['export']:.1f} s",
        *hardware_note(result["bits"]),
        f"next: repq-build-engine {result['output']}",
    )


def plan_of(spec: Any, widths: BitWidths, method: str, output: Path) -> dict[str, Any]:
    """The bits of every site, without weights or images."""
    from repq_deploy.models.zoo import build_architecture
    from repq_deploy.quant.model import wrap

    quantized = wrap(build_architecture(spec), spec, widths, softmax="uniform")
    sites = {site.name: str(widths.of(site.name, site.role)) for site, _, _ in quantized.linears()}
    sites |= {s.name: f"a{widths.of(s.name, 'attention').activation}" for s in quantized.sites.attentions}
    return {"model": spec.to_dict(), "method": method, "preset": widths.preset, "output": str(output), "sites": sites}


def print_plan(plan: dict[str, Any]) -> None:
    lines = [f"{name:40} {bits}" for name, bits in plan["sites"].items()]
    say(*lines, f"would write {plan['output']} by {plan['method']}, {plan['preset']}")
