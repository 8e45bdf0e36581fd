"""Accuracy of every method at every bit-width, through the exported graph in ONNX Runtime.

Two models: the embedded demo, and a ViT-S/14 (timm's ``vit_small_patch14_dinov2`` at 112 pixels with ten classes)
fine-tuned on CIFAR-10, whose folder has ``train`` (calibration) and ``test`` (labelled), one folder a class in each::

    python benchmarks/accuracy.py                                                           # the demo
    python benchmarks/accuracy.py --checkpoint vit_s14_cifar10.safetensors --data cifar10   # the ViT-S

Every run is one line of a JSON file and is not repeated; the Markdown table, the plot and with ``--write-results`` the
table of docs/results.md are made from the file. Runs take minutes, those of ``best-high`` half an hour or more; one
that was killed goes on where it was, and has no calibration time then. ``mixq`` below 8 bits, where weights and
activations have the same width, is an average of that width, which ``repq-search`` spreads over the sites; its
calibration includes the search.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import run_command, table_line, write_results

RESULTS = Path(__file__).parent / "results"
METHODS = ("minmax", "percentile", "repq", "repquant", "dopq", "erq", "mixq", "best", "best-high")
BITS = ("w8a8", "w7a8", "w6a6", "w4a8", "w4a4", "w3a4", "w3a3")
#: What ``--work-dir`` keeps of a calibration that is under way.
_STATES = "calibration-*.safetensors"
#: Where weights and activations have the same width, below 8 bits.
BITS_ALIKE = {f"w{width}a{width}": width for width in range(3, 8)}
FINETUNED = ("vit_small_patch14_dinov2", "--img-size", "112", "--num-classes", "10")
COLUMNS = (
    "bits",
    "method",
    "images",
    "top-1",
    "spread",
    "loss against float",
    "same class as float %",
    "calibration s",
    "peak GB",
    "seeds",
)


@dataclass(frozen=True)
class Subject:
    """What is quantized and on what: arguments of the commands."""

    model: tuple[str, ...]
    calib: str
    test: str
    work: Path

    def data(self, seed: int) -> tuple[str, ...]:
        """Options that export and search have in common."""
        return ("--calib-data", self.calib, "--preset", "paper", "--seed", str(seed))


def subject(checkpoint: Path | None, data: Path | None, work: Path) -> tuple[str, Subject]:
    """The demo, or the fine-tuned ViT-S with its images; and its name."""
    if data is None:
        return "demo", Subject(("demo",), "demo:calib", "demo:test", work / "demo")
    model = (*FINETUNED, "--checkpoint", str(checkpoint))
    return "vit_s14", Subject(model, str(data / "train"), str(data / "test"), work / "vit_s14")


def through_engine(subject: Subject, options: Sequence[str], seed: int) -> dict[str, Any]:
    """Export with ``options``, build the ONNX Runtime engine, and evaluate it on the test images."""
    subject.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.onnx")
        work = ("--work-dir", str(subject.work))
        before = set(subject.work.glob(_STATES))
        exported = run_command("repq-export", *subject.model, *subject.data(seed), *options, *work, "-o", file)
        # A calibration that ends takes its state away: one that was there before had begun in an earlier run.
        resumed = bool(before - set(subject.work.glob(_STATES)))
        build = (
            "repq-build-engine",
            file,
            "--backend",
            "onnxruntime",
            "--no-speed-check",
            "--reference-data",
            subject.test,
        )
        (engine,) = run_command(*build).result["engines"]
        against = ("--against", *subject.model, "--data", subject.test)
        both = run_command("repq-eval", engine["engine"], *against).result
    return {
        "seed": seed,
        "images": exported.result["calibration_images"],
        "top1": both["top1"],
        "float_top1": both["against"]["top1"],
        "agreement": both["agreement"],
        "verdict": engine["verdict"],
        "calibration_s": None if resumed else exported.result["seconds"]["calibrate"],
        "peak_gb": exported.peak_gb,
    }


def measure(subject: Subject, bits: str, method: str, seed: int) -> dict[str, Any]:
    """One method at one bit-width; ``mixq`` with the bits that ``repq-search`` finds."""
    average = BITS_ALIKE.get(bits) if method == "mixq" else None
    if average is None:
        options = ("--bits", bits, "--method", method)
        found = through_engine(subject, options, seed)
    else:
        with tempfile.TemporaryDirectory() as folder:
            recipe = ("--recipe", str(Path(folder) / "recipe.yaml"), "--method", method)
            choices = ",".join(str(width) for width in (*range(average - 1, min(average + 3, 8)), 8))
            work = subject.work / f"search-{bits}-{seed}"
            resumed = work.exists()
            budget = ("--avg-bits", str(average), "--choices", choices, "--work-dir", str(work))
            searched = run_command("repq-search", *subject.model, *subject.data(seed), *budget, *recipe)
            found = through_engine(subject, recipe, seed)
        shutil.rmtree(work)
        found["peak_gb"] = max(found["peak_gb"], searched.peak_gb)
        if found["calibration_s"] is not None:
            found["calibration_s"] = None if resumed else found["calibration_s"] + searched.seconds
    return {"bits": bits, "method": method, **found}


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and spread (largest minus smallest) over the seeds of each method at each bit-width."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["bits"], run["method"]].append(run)
    lines = [table_line(COLUMNS), table_line(["---"] * len(COLUMNS))]
    for (bits, method), group in sorted(groups.items(), key=lambda item: _order(*item[0])):
        top1 = [run["top1"] for run in group]
        times = [run["calibration_s"] for run in group if run["calibration_s"] is not None]
        mean = statistics.mean(top1)
        cells = (
            bits,
            method,
            group[0]["images"],
            f"{mean:.2f}",
            f"{max(top1) - min(top1):.2f}" if len(top1) > 1 else "",
            f"{group[0]['float_top1'] - mean:.2f}",
            f"{statistics.mean(run['agreement'] for run in group):.2f}",
            f"{statistics.mean(times):.0f}" if times else "",
            f"{max(run['peak_gb'] for run in group):.1f}",
            len(group),
        )
        lines.append(table_line([str(cell) for cell in cells]))
    return "".join(lines)


def overview(runs: list[dict[str, Any]]) -> str:
    """Mean top-1, a line for each method and a column for each bit-width."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in runs:
        groups[run["method"], run["bits"]].append(run["top1"])
    lines = [table_line(["method", *BITS]), table_line(["---"] * (len(BITS) + 1))]
    lines.append(table_line(["float", *[f"{runs[0]['float_top1']:.2f}"] * len(BITS)]))
    for method in METHODS:
        cells = [f"{statistics.mean(groups[method, bits]):.2f}" if (method, bits) in groups else "" for bits in BITS]
        if any(cells):
            lines.append(table_line([f"`{method}`", *cells]))
    return "".join(lines)


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Top-1 against bits, a line for each method."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only the plot needs it

    figure, axes = plt.subplots(figsize=(8, 5))
    for method in METHODS:
        points = [
            (BITS.index(bits), statistics.mean(found))
            for bits in BITS
            if (found := [run["top1"] for run in runs if (run["bits"], run["method"]) == (bits, method)])
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=method)
    axes.axhline(runs[0]["float_top1"], color="black", linestyle="--", label="float")
    axes.set_xticks(range(len(BITS)), BITS)
    axes.set_ylabel("top-1 %")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")


def _order(bits: str, method: str) -> tuple[int, int]:
    return BITS.index(bits), METHODS.index(method)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--bits", nargs="+", default=BITS, choices=BITS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work-dir", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--plot", action="store_true", help="also draw the plot; needs matplotlib")
    parser.add_argument("--write-results", action="store_true", help="also replace the table of docs/results.md")
    args = parser.parse_args()
    if (args.checkpoint is None) != (args.data is None):
        parser.error("--checkpoint and --data belong together")
    name, chosen = subject(args.checkpoint, args.data, args.work_dir)
    file = RESULTS / f"accuracy-{name}.jsonl"
    runs = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in args.seeds:
        for bits in args.bits:
            for method in args.methods:
                if any((run["bits"], run["method"], run["seed"]) == (bits, method, seed) for run in runs):
                    continue
                run = measure(chosen, bits, method, seed)
                print(run, flush=True)
                runs.append(run)
                with file.open("a") as output:
                    output.write(json.dumps(run) + "\n")
    title = (
        f"`python benchmarks/accuracy.py`, model {name}, preset `paper`; float top-1 {runs[0]['float_top1']:.2f}.\n\n"
    )
    file.with_suffix(".md").write_text(title + table(runs))
    if args.write_results:
        write_results("accuracy-table", overview(runs))
    if args.plot:
        plot(runs, file.with_suffix(".png"))


if __name__ == "__main__":
    main()
