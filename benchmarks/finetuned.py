"""Accuracy of a fine-tuned ViT at every step of the pipeline: PyTorch, canonical ONNX, built engine.

The model is timm's ``vit_small_patch14_dinov2`` at 112 pixels with ten classes, fine-tuned on CIFAR-10; the data is a
folder with ``train`` (calibration) and ``test`` (labelled), one folder a class in each::

    python benchmarks/finetuned.py --checkpoint vit_s14_cifar10.safetensors --data cifar10 [--runs w4a4:repq ...]

All runs use the ``paper`` preset, 32 calibration images and seed 0. Rows already in the output are kept.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from commands import run_command, table_line

RESULTS = Path(__file__).parent / "results" / "finetuned.md"
MODEL = ("vit_small_patch14_dinov2", "--img-size", "112", "--num-classes", "10")
RUNS = ("w8a8:repq", "w6a6:repq", "w4a4:repq", "w4a4:percentile", "w4a4:minmax")
HEADER = (
    "bits",
    "method",
    "calibration s",
    "PyTorch top-1",
    "canonical ONNX top-1",
    "engine top-1",
    "engine and PyTorch: same class %",
    "engine minus PyTorch, points (standard error)",
    "verdict",
)


def row(bits: str, method: str, checkpoint: Path, data: Path, folder: Path) -> list[str]:
    """Export, build and evaluate once."""
    onnx_file, torch_file = folder / "vit.onnx", folder / "vit.safetensors"
    exported = run_command(
        "repq-export",
        *MODEL,
        *("--checkpoint", str(checkpoint), "--calib-data", str(data / "train"), "--num-calib", "32", "--seed", "0"),
        *("--bits", bits, "--preset", "paper", "--method", method),
        *("-o", str(onnx_file), "--save-quantized", str(torch_file)),
    ).result
    images = str(data / "test")
    build = (
        "repq-build-engine",
        str(onnx_file),
        "--backend",
        "onnxruntime",
        "--no-speed-check",
        "--reference-data",
        images,
    )
    (engine,) = run_command(*build).result["engines"]
    canonical = run_command("repq-eval", str(onnx_file), "--data", images).result
    both = run_command("repq-eval", engine["engine"], "--against", str(torch_file), "--data", images).result
    difference, error = both["top1_difference"], both["top1_difference_standard_error"]
    return [
        bits,
        method,
        f"{exported['seconds']['calibrate']:.1f}",
        f"{both['against']['top1']:.2f}",
        f"{canonical['top1']:.2f}",
        f"{both['top1']:.2f}",
        f"{both['agreement']:.2f}",
        f"{difference:+.2f} ({error:.2f})",
        engine["verdict"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", default=RUNS, metavar="BITS:METHOD")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if not args.output.exists():
        options = ("--checkpoint", str(args.checkpoint), "--data", str(args.data / "test"))
        top1 = run_command("repq-eval", *MODEL, *options).result["top1"]
        title = f"`python benchmarks/finetuned.py`: ViT-S/14, CIFAR-10, 2,000 test images. Float top-1 {top1:.2f}.\n\n"
        args.output.write_text(title + table_line(HEADER) + table_line(["---"] * len(HEADER)))
    for run in args.runs:
        bits, method = run.split(":")
        if f"| {bits} | {method} |" in args.output.read_text():
            continue
        with tempfile.TemporaryDirectory() as folder:
            text = table_line(row(bits, method, args.checkpoint, args.data, Path(folder)))
        with args.output.open("a") as output:
            output.write(text)


if __name__ == "__main__":
    main()
