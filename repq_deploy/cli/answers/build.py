"""What ``repq-build-engine`` prints about engines that it would build, has built or has validated."""

from __future__ import annotations

from typing import Any

from repq_deploy.cli.common import hardware_note
from repq_deploy.cli.streams import say

__all__ = ["print_engines", "print_plans", "rows_words"]


def print_plans(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        smallest, best, largest = entry["batch"]
        say(
            f"would build {entry['engine']}: backend {entry['backend']} {entry['version']} ({entry['why']})",
            f"  {entry['precision']} around {entry['bits']} in {entry['compute']}, batch {smallest} to {largest}, "
            f"tuned for {best}, {_target_words(entry['target'], entry['cpu'])}",
            *_form_words(entry),
        )
        say(*hardware_note(entry["bits"]))


def print_engines(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        manifest = entry["manifest"]
        validation, figures = manifest["validation"], manifest["validation"]["figures"]
        if "why" in entry:
            say(f"backend {entry['backend']} {manifest['versions'][entry['backend']]}: {entry['why']}")
            passes = ", ".join(f"{one['name']} {one['changed']}" for one in manifest["passes"])
            say(f"passes (places changed): {passes or 'none'}")
            proof = f"SQNR {manifest['lowering_sqnr_db']:.0f} dB"
            say(f"lowered graph against canonical, both in float32, in its weakest stretch: {proof}")
            if (codes := manifest["kernel_codes"]) is not None:
                say(
                    f"codes of {entry['backend']}'s own kernels against the canonical graph's: {codes['codes']} at "
                    f"{codes['sites']} sites, {codes['different']} differ, {codes['unexplained']} of them not on a tie"
                )
            say(
                f"wrote {entry['engine']}: {entry['bytes'] / 1e6:.1f} MB in {entry['seconds']:.1f} s, "
                f"{manifest['precision']} around {manifest['metadata'].get('repq.bits', 'unknown bits')} "
                f"in {manifest['compute']}, "
                f"{_target_words(manifest['target'], manifest['cpu'])}",
                *_form_words({**entry, **manifest}),
            )
        say(*hardware_note(manifest["metadata"].get("repq.bits", "")))
        if figures is not None:
            say(
                f"against ONNX Runtime on {figures['images']} images ({manifest['reference_inputs']}): "
                f"SQNR {figures['sqnr_db']:.1f} dB ({_tolerance_words(validation['tolerance'])}), "
                f"cosine {figures['cosine']:.6f}, error max {figures['max_abs_error']:.3g} "
                f"mean {figures['mean_abs_error']:.3g}"
                + ("" if figures["agreement"] is None else f", decided alike {100 * figures['agreement']:.0f} %")
            )
        if validation["rows"] is not None:
            say(rows_words(validation["rows"]))
        say(f"{validation['verdict']}: {validation['reason']}")
        if entry.get("speed") is not None:
            say(*entry["speed"]["words"])
        if entry.get("triton") is not None:
            say(f"wrote {entry['triton']}: a version of the model in a repository of Triton")
        say(*_next(entry))
        say(*_exchange_words(entry))


def rows_words(rows: dict[str, Any]) -> str:
    """``rows`` of a validation, as a line."""
    sizes, most = ", ".join(map(str, rows["batches"])), rows["max_difference"]
    found = f"differ by up to {most:.3g}" if most else "are equal"
    return f"equal images in other rows, in batches of {sizes}: outputs {found}"


def _next(entry: dict[str, Any]) -> list[str]:
    if entry["verdict"] == "PASSED":
        return [f"next: repq-eval {entry['engine']} --data FOLDER"]
    if entry["verdict"] == "BUILT, NOT RUN":
        return [f"next, on the machine it is for: repq-build-engine --validate-only {entry['engine']}"]
    manifest = entry["manifest"]
    if manifest["precision"] == "fp16":
        return [f"next: repq-build-engine {manifest['source']['name']} --backend {entry['backend']} --precision fp32"]
    from repq_deploy.engines.backends.onnxruntime import BACKEND as REFERENCE

    if entry["backend"] == REFERENCE.name:
        return []
    again = f"repq-build-engine {manifest['source']['name']} --backend {REFERENCE.name}"
    return [f"next: {again}, to see if the graph is right"]


def _exchange_words(entry: dict[str, Any]) -> list[str]:
    """The commands that compare an engine with what ``--exchange`` wrote."""
    if "exchange" not in entry:
        return []
    folder, commands = entry["exchange"]["folder"], entry["exchange"]["commands"]
    if not commands:
        return [f"wrote {folder}: Polygraphy has no runner for {entry['backend']}"]
    return [f"wrote {folder}; to compare with it:", *(f"  {command}" for command in commands.values())]


def _target_words(target: str | None, cpu: str | None) -> str:
    from repq_deploy.engines.cpu import KIND_WORDS

    if cpu is not None:
        return f"for {KIND_WORDS.get(cpu, cpu)}"
    return f"for {target}" if target is not None else "for the builder's default GPUs"


def _form_words(entry: dict[str, Any]) -> list[str]:
    """Why an engine is for these CPUs, and what to do for others."""
    if entry["cpu"] is None:
        return []
    if entry["cpu"] == "any":
        return [f"any CPU: {entry['form']}"]
    return [
        f"not any CPU: {entry['form']}. --cpu any builds a slower file that is exact everywhere; "
        "repq-export --bits w7a8 gives one that is exact and fast everywhere"
    ]


def _tolerance_words(tolerance: dict[str, float]) -> str:
    return (
        f"{tolerance['min_sqnr_db']:.1f} required, {tolerance['rounding_sqnr_db']:.1f} by rounding its constants alone"
    )
