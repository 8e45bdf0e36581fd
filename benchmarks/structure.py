"""Does every supported architecture export, build and validate, how long does it take, and how large is it?

Random weights: this is about structure, time, memory and size, not accuracy. Each row is what the commands gave for one
model at one bit-width::

    python benchmarks/structure.py [--models deit_t swin_t] [--output benchmarks/results/structure.md]

Rows that are already in the output are kept, so a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path

from commands import run_command, table_line

MODELS = (
    "deit_t",
    "deit_s",
    "deit_b",
    "vit_s",
    "vit_b",
    "swin_t",
    "swin_s",
    "swin_b",
    "vit_small_patch14_dinov2",
)
BITS = ("w6a6", "w4a4")
RESULTS = Path(__file__).parent / "results" / "structure.md"
HEADER = (
    "model",
    "bits",
    "export s",
    "export GB",
    "ONNX MB",
    "of float",
    "equal codes at worst %",
    "ONNX Runtime",
    "RTX build s",
    "RTX engine MB",
    "TensorRT-RTX",
)


def row(model: str, bits: str, folder: Path) -> list[str]:
    """Export and build one model; what the commands say about it."""
    file = folder / f"{model}.onnx"
    exported = run_command(
        "repq-export", model, "--no-pretrained", "--bits", bits, "--num-calib", "32", "-o", str(file)
    )
    built = {}
    for backend in ("onnxruntime", "tensorrt-rtx"):
        (engine,) = run_command("repq-build-engine", str(file), "--backend", backend, "--no-speed-check").result[
            "engines"
        ]
        built[backend] = engine
    for path in folder.iterdir():
        path.unlink()
    rtx = built["tensorrt-rtx"]
    return [
        model,
        bits,
        f"{exported.seconds:.0f}",
        f"{exported.peak_gb:.1f}",
        f"{exported.result['bytes'] / 1e6:.1f}",
        f"{exported.result['of_float']:.3f}",
        f"{100 * exported.result['codes_equal_worst']:.4f}",
        built["onnxruntime"]["verdict"],
        f"{rtx['seconds']:.1f}",
        f"{rtx['bytes'] / 1e6:.1f}",
        rtx["verdict"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if not args.output.exists():
        title = f"`python benchmarks/structure.py`, random weights, 32 images, {platform.machine()}, two cores.\n\n"
        args.output.write_text(title + table_line(HEADER) + table_line(["---"] * len(HEADER)))
    done = args.output.read_text()
    for model in args.models:
        for bits in BITS:
            if f"| {model} | {bits} |" in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                text = table_line(row(model, bits, Path(folder)))
            with args.output.open("a") as output:
                output.write(text)
            sys.stderr.write(text)


if __name__ == "__main__":
    main()
