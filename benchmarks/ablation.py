"""What each part of the methods is worth: the papers' ablations, through the exported graph in ONNX Runtime.

Each row is a recipe of steps (``repq_deploy.steps``) that differs from the row above it in its group by one thing::

    python benchmarks/ablation.py [--checkpoint vit_s14_cifar10.safetensors --data cifar10] [--bits w4a4]

Every run is one line of a JSON file and is not repeated; the Markdown table is made from the file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from accuracy import RESULTS, subject, through_engine
from commands import table_line

from repq_deploy.recipes import Recipe, save_recipe

_FLOAT_WEIGHTS = {"ranges": {"weights": False}}
_TIGHT = {"ranges": {"search": "mse", "weights": False}}
_ROTATED = {"rotate": {"what": "stream"}}
_ROUNDED = {"weights": {"rounding": "gptq"}}
_COMPENSATED = {"weights": {"ridge": 1.0, "rounding": "gptq"}}

#: Group, row, probabilities, steps.
ROWS: tuple[tuple[str, str, str, list[Any]], ...] = (
    ("RepQ-ViT", "one scale a tensor, uniform probabilities", "uniform", [{"ranges": {"post_norm": "tensor"}}, "fold"]),
    ("RepQ-ViT", "channel-wise post-norm inputs, folded", "uniform", ["ranges", "fold"]),
    ("RepQ-ViT", "and log2 probabilities", "log2", ["ranges", "fold"]),
    ("RepQ-ViT", "and log-sqrt2 probabilities: repq", "log_sqrt2", ["ranges", "fold"]),
    ("DopQ-ViT", "repq with tangent probabilities", "tan", ["ranges", "fold"]),
    ("RepQuant", "reconstructed weights", "log_sqrt2", [_FLOAT_WEIGHTS, "fold", _ROUNDED]),
    ("RepQuant", "and dual clipping: repquant", "log_sqrt2", [_FLOAT_WEIGHTS, "dual_clip", "fold", _ROUNDED]),
    ("ERQ", "Aqer alone", "log_sqrt2", [_FLOAT_WEIGHTS, "fold", {"weights": {"ridge": 1.0}}]),
    (
        "ERQ",
        "Aqer and Wqer: erq",
        "log_sqrt2",
        [_FLOAT_WEIGHTS, "fold", {"weights": {"ridge": 1.0, "rounding": "refined"}}],
    ),
    (
        "ERQ",
        "erq, each layer behind the float model",
        "log_sqrt2",
        [_FLOAT_WEIGHTS, "fold", {"weights": {"ridge": 1.0, "rounding": "refined", "prefix": "float"}}],
    ),
    (
        "Mix-QViT",
        "clipped channels, the same bits everywhere",
        "log_sqrt2",
        [{"ranges": {"post_norm": "clipped"}}, "fold"],
    ),
    ("best", "not rotated", "log_sqrt2", [_FLOAT_WEIGHTS, "fold", _COMPENSATED]),
    ("best", "rotated stream", "log_sqrt2", [_ROTATED, _FLOAT_WEIGHTS, "fold", _COMPENSATED]),
    ("best", "and centered keys and values", "log_sqrt2", [_ROTATED, "center", _FLOAT_WEIGHTS, "fold", _COMPENSATED]),
    (
        "best",
        "and log2 probabilities (uniform from 6 bits on)",
        "by_bits",
        [_ROTATED, "center", _FLOAT_WEIGHTS, "fold", _COMPENSATED],
    ),
    ("best", "and tighter ranges: best", "by_bits", [_ROTATED, "center", _TIGHT, "fold", _COMPENSATED]),
)


def table(runs: list[dict[str, Any]]) -> str:
    """One line a run, in the order of ``ROWS``."""
    columns = ("part of", "recipe", "top-1", "loss against float", "same class as float %")
    lines = [table_line(columns), table_line(["---"] * len(columns))]
    for group, row, _, _ in ROWS:
        for run in runs:
            if (run["group"], run["row"]) == (group, row):
                loss = run["float_top1"] - run["top1"]
                lines.append(table_line([group, row, f"{run['top1']:.2f}", f"{loss:.2f}", f"{run['agreement']:.2f}"]))
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--work-dir", type=Path, default=Path("build/accuracy"))
    args = parser.parse_args()
    if (args.checkpoint is None) != (args.data is None):
        parser.error("--checkpoint and --data belong together")
    name, chosen = subject(args.checkpoint, args.data, args.work_dir)
    file = RESULTS / f"ablation-{name}-{args.bits}.jsonl"
    runs = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for group, row, softmax, steps in ROWS:
        if any((run["group"], run["row"]) == (group, row) for run in runs):
            continue
        with tempfile.TemporaryDirectory() as folder:
            recipe = Path(folder) / "recipe.yaml"
            listed = tuple((one, {}) if isinstance(one, str) else next(iter(one.items())) for one in steps)
            save_recipe(Recipe(bits=args.bits, method="recipe", softmax=softmax, steps=listed), recipe)
            options = ("--recipe", str(recipe), "--num-calib", "32")
            runs.append({"group": group, "row": row, **through_engine(chosen, options, seed=0)})
        print(runs[-1], flush=True)
        with file.open("a") as output:
            output.write(json.dumps(runs[-1]) + "\n")
    title = f"`python benchmarks/ablation.py --bits {args.bits}`, model {name}, preset `paper`, 32 calibration images; "
    file.with_suffix(".md").write_text(f"{title}float top-1 {runs[0]['float_top1']:.2f}.\n\n{table(runs)}")


if __name__ == "__main__":
    main()
