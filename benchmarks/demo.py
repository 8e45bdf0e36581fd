"""The whole pipeline on the embedded demo model, through the commands a user types, as one table.

Exports at three bit-widths with the plain baseline, RepQ-ViT and the default method, builds the ONNX
Runtime and, where its package is installed, the TensorRT-RTX engine, and evaluates the built ONNX Runtime engine on the
2,000 embedded test images::

    python benchmarks/demo.py [--write-results]

``--write-results`` puts the table between the markers in docs/results.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

from commands import run_command, table_line, write_results
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "out" / "demo"
RUNS = [(bits, method) for bits in ("w8a8", "w6a6", "w4a4") for method in ("minmax", "repq", "best")]
HEADER = ("bits", "method", "top-1 %", "equal codes %", "ONNX MB", "ONNX Runtime", "TensorRT-RTX")

console = Console(stderr=True)


def run(bits: str, method: str, backends: list[str]) -> tuple[str, ...]:
    """One row of the table."""
    onnx_file = OUTPUT / f"demo.{bits}.{method}.onnx"
    exported = run_command("repq-export", "demo", "--bits", bits, "--method", method, "-o", str(onnx_file)).result
    options = [option for backend in backends for option in ("--backend", backend)]
    built = run_command(
        "repq-build-engine", str(onnx_file), *options, "--no-speed-check", "--reference-data", "demo:test"
    ).result
    verdicts = {engine["backend"]: engine["verdict"] for engine in built["engines"]}
    engine = onnx_file.with_suffix(".onnxruntime.engine")
    accuracy = run_command("repq-eval", str(engine), "--data", "demo:test").result
    return (
        bits,
        method,
        f"{accuracy['top1']:.2f}",
        f"{100 * exported['codes_equal_mean']:.3f}",
        f"{exported['bytes'] / 1e6:.2f}",
        verdicts["onnxruntime"],
        verdicts.get("tensorrt-rtx", "not installed"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write-results", action="store_true")
    args = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    backends = ["onnxruntime"]
    if importlib.util.find_spec("tensorrt_rtx_bindings"):
        backends.append("tensorrt-rtx")
    started = time.monotonic()
    with console.status("evaluating the float model"):
        accuracy = run_command("repq-eval", "demo", "--data", "demo:test").result
    rows = [("float", "-", f"{accuracy['top1']:.2f}", "-", "-", "-", "-")]
    for number, (bits, method) in enumerate(RUNS, 1):
        with console.status(f"{bits} {method} ({number} of {len(RUNS)})"):
            rows.append(run(bits, method, backends))
    table = Table(*HEADER, title="embedded ViT on 2,000 Fashion-MNIST test images")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    console.print(f"{time.monotonic() - started:.0f} s; files in {OUTPUT.relative_to(ROOT)}")
    if args.write_results:
        write_results("demo-table", "".join(map(table_line, (HEADER, ("---",) * len(HEADER), *rows))))


if __name__ == "__main__":
    main()
