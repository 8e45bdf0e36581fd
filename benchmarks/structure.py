"""Does every supported architecture export, build and validate, how long does it take, and how large is it?

Random weights: this is about structure, time, memory and size, not accuracy. Each row is what the commands gave for one
model at one bit-width::

    python benchmarks/structure.py [--models deit_t swin_t] [--bits w6a6] [--output benchmarks/results/structure.md]

Rows that are already in the output are kept, so a run that was interrupted goes on where it was; with ``--work-dir`` a
large model does so within its calibration too. The three large models are measured at one bit-width.
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
    "deit3_small_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_tiny_r_s16_p8_224",
    "vit_relpos_small_patch16_224",
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "vit_pe_core_tiny_patch16_384",
    "beit_base_patch16_224",
    "naflexvit_base_patch16_gap",
    "swinv2_tiny_window8_256",
    "swinv2_cr_tiny_ns_224",
)
LARGE = ("vit_large_patch16_224", "vit_large_patch16_dinov3", "eva_giant_patch14_224")
BITS, LARGE_BITS = ("w6a6", "w4a4"), ("w6a6",)
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
    "build GB",
    "RTX build s",
    "RTX engine MB",
    "TensorRT-RTX",
)


def row(model: str, bits: str, folder: Path, work: Path | None) -> list[str]:
    """Export and build one model; what the commands say about it. Large ones are not built for TensorRT-RTX."""
    file = folder / f"{model}.onnx"
    resumed = [] if work is None else ["--work-dir", str(work / f"{model}-{bits}")]
    exported = run_command(
        *("repq-export", model, "--no-pretrained", "--bits", bits, "--num-calib", "32", "-o", str(file), *resumed)
    )
    build = ("repq-build-engine", str(file), "--no-speed-check", "--backend")
    built = run_command(*build, "onnxruntime")
    rtx = ["-"] * 3
    if model not in LARGE:
        (engine,) = run_command(*build, "tensorrt-rtx").result["engines"]
        rtx = [f"{engine['seconds']:.1f}", f"{engine['bytes'] / 1e6:.1f}", engine["verdict"]]
    for path in folder.iterdir():
        path.unlink()
    return [
        model,
        bits,
        f"{exported.seconds:.0f}",
        f"{exported.peak_gb:.1f}",
        f"{exported.result['bytes'] / 1e6:.1f}",
        f"{exported.result['of_float']:.3f}",
        f"{100 * exported.result['codes_equal_worst']:.4f}",
        built.result["engines"][0]["verdict"],
        f"{built.peak_gb:.1f}",
        *rtx,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=(*MODELS, *LARGE))
    parser.add_argument("--bits", nargs="+", help="instead of those of the table")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--work-dir", type=Path, help="keeps the state of each calibration")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if not args.output.exists():
        title = f"`python benchmarks/structure.py`, random weights, 32 images, {platform.machine()}, two cores.\n\n"
        args.output.write_text(title + table_line(HEADER) + table_line(["---"] * len(HEADER)))
    done = args.output.read_text()
    for model in args.models:
        for bits in args.bits or (LARGE_BITS if model in LARGE else BITS):
            if f"| {model} | {bits} |" in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                text = table_line(row(model, bits, Path(folder), args.work_dir))
            with args.output.open("a") as output:
                output.write(text)
            sys.stderr.write(text)


if __name__ == "__main__":
    main()
