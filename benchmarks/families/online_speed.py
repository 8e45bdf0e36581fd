"""What ``best`` adds to a model with RoPE or gated MLPs costs in speed: engines at w4a4, with and without.

q and k are rotated behind RoPE, and what fc2 reads in gated MLPs, by products in float that no weight absorbs; each
head of q, k and v has a scale, and probabilities are powers of two of the largest of their row. Random weights; each
model, its two engines and the float model are measured in turn by ``repq-bench``::

    python benchmarks/families/online_speed.py [--models eva02_tiny_patch14_224]

Every model has its lines in ``benchmarks/results/online-speed.md``; those that are there for this CPU are not
measured again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from commands import run_command, table_line

from repq_deploy.methods import find_method
from repq_deploy.recipes import Recipe, save_recipe
from repq_deploy.steps import step

RESULTS = Path(__file__).resolve().parents[1] / "results" / "online-speed.md"
#: RoPE alone, RoPE and a gated MLP, and both in the smallest width, where the rotation of a group costs most.
MODELS = ("vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3", "eva02_tiny_patch14_224")
BATCHES = (1, 8)
HEADER = ("CPU", "model", "batch", "float ms", "without", "with", "with, of the time without")


def cpu() -> str:
    """What decides the speed of products of bytes."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return next((name for name in ("avx512_vnni", "avx_vnni", "avx512f", "avx2") if f" {name} " in flags), "other")


def recipe(path: Path, *, online: bool) -> Path:
    """``best`` at w4a4; not ``online``: without rotations that weights do not absorb, and as models without RoPE."""
    best = find_method("best")
    steps, softmax = best.steps, best.softmax
    if not online:
        steps = tuple(step("rotate", what="stream") if one.name == "rotate" else one for one in steps)
        softmax = "by_bits"
    listed = tuple((one.name, dict(one.options)) for one in steps)
    save_recipe(Recipe(bits="w4a4", method="best", softmax=softmax, steps=listed), path)
    return path


def rows(model: str, folder: Path) -> list[list[str]]:
    """Export and build twice, measure, a line for each batch."""
    engines = []
    for name in ("without", "with"):
        file = folder / f"{name}.onnx"
        chosen = ("--recipe", str(recipe(folder / f"{name}.yaml", online=name == "with")))
        run_command("repq-export", model, "--no-pretrained", *chosen, "--num-calib", "32", "-o", str(file))
        built = run_command("repq-build-engine", str(file), "--backend", "onnxruntime", "--no-speed-check")
        engines.append(f"{name}={built.result['engines'][0]['engine']}")
    of_float = str(folder / "float.onnx")
    run_command("repq-export", model, "--no-pretrained", "--float", "-o", of_float)
    results = run_command("repq-bench", f"float={of_float}", *engines).result["results"]
    found = []
    for batch in BATCHES:
        floats, without, with_ = (one["median_ms"] for one in results if one["batch"] == batch)
        ratios = (floats / without, floats / with_, with_ / without)
        found.append([model, str(batch), f"{floats:.1f}", *(f"{ratio:.2f}" for ratio in ratios)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    args = parser.parse_args()
    if not RESULTS.exists():
        title = "`python benchmarks/families/online_speed.py`, ONNX Runtime, random weights, two cores; "
        title += "speed relative to float.\n\n"
        RESULTS.write_text(title + table_line(HEADER) + table_line(["---"] * len(HEADER)), encoding="utf-8")
    for model in args.models:
        if f"| {cpu()} | {model} |" in RESULTS.read_text(encoding="utf-8"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            text = "".join(table_line([cpu(), *row]) for row in rows(model, Path(folder)))
        with RESULTS.open("a", encoding="utf-8") as output:
            output.write(text)
        sys.stderr.write(text)


if __name__ == "__main__":
    main()
