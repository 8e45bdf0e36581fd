"""How long does TensorRT-RTX take to build each variant without a GPU, and how large is the engine?

Random weights: this is about time, size and whether it builds::

    python benchmarks/builds.py [--models deit_s] [--folder build/gpu] [--output benchmarks/results/builds.md]

It builds what ``benchmarks/gpu/prepare.py`` builds, into the same folder. Rows that are already in the output are kept,
so a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "gpu"))

from commands import table_line
from prepare import build
from variants import FLOAT, MODELS, VARIANTS, Variant

RESULTS = Path(__file__).parent / "results" / "builds.md"
HEADER = ("model", "bits", "attention", "products in", "target", "build s", "engine MB", "lowering dB", "verdict")
TITLE = f"""`python benchmarks/builds.py`: TensorRT-RTX, {platform.machine()} without a GPU, two cores, random weights.
Seconds are lowering, its proof on ONNX Runtime, and the build. Lowering dB: how near the lowered graph stays to the
canonical one in float32; 200 is equal."""


def cells(model: str, variant: Variant) -> list[str]:
    """The columns that name a row."""
    compute = "fp16" if variant.bits == FLOAT else variant.compute + ", rounded" * variant.allow_rounding
    return [model, variant.bits, variant.attention, compute, variant.target or "default"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if not args.output.exists():
        args.output.write_text(f"{TITLE}\n\n{table_line(HEADER)}{table_line(['---'] * len(HEADER))}")
    done = args.output.read_text()
    for model in args.models:
        for variant in VARIANTS:
            names = cells(model, variant)
            if f"| {' | '.join(names)} |" in done:
                continue
            built = build(model, variant, args.folder)
            manifest = built["manifest"]
            figures = [f"{built['seconds']:.1f}", f"{built['bytes'] / 1e6:.1f}", f"{manifest['lowering_sqnr_db']:.0f}"]
            text = table_line([*names, *figures, built["verdict"]])
            with args.output.open("a") as output:
                output.write(text)
            sys.stderr.write(text)


if __name__ == "__main__":
    main()
