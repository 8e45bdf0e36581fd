"""What RepQ-ViT and ``best`` lose on trained models beside plain ViT: Swin, Eva (RoPE, gated MLPs) and SigLIP.

The models are those of ``train.py``; the PyTorch model that ``repq_deploy.quantize`` gives is measured on the 10,000
test images of Fashion-MNIST, calibrated on 128 of its training images, which the seed picks::

    python benchmarks/families/accuracy.py                    # every run that is not there
    python benchmarks/families/accuracy.py --subjects swin    # of one model
    python benchmarks/families/accuracy.py --cases            # and best with other parts, at w4a4 and w3a3
    python benchmarks/families/accuracy.py --cases --methods best "best without rotation online"   # of these alone
    python benchmarks/families/accuracy.py --device cuda      # minutes in place of hours

Every run is one line of ``benchmarks/results/accuracy-families.jsonl`` and is not repeated; the table beside it is made
from the file, and says whether ``best`` loses at most half of what ``repq`` loses, or both less than half a point.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_models import SUBJECTS, Pictures, float_top1, load_trained, pixels, read_pictures
from torch import Tensor, nn

import repq_deploy
from repq_deploy.methods import Method, find_method
from repq_deploy.steps import step

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from commands import table_line

RESULTS = Path(__file__).resolve().parents[1] / "results"
BITS = ("w8a8", "w6a6", "w4a4", "w3a3")
HARD = ("w4a4", "w3a3")
CALIBRATION_IMAGES = 128
#: Both methods may lose less than this many points, whatever their ratio.
NEGLIGIBLE = 0.5
COLUMNS = ("model", "bits", "method", "top-1", "spread", "loss against float", "same class as float %", "seeds")


def _without(step: str) -> Method:
    """``best`` without one of its steps."""
    best = find_method("best")
    return replace(best, name=f"best without {step}", steps=tuple(each for each in best.steps if each.name != step))


def _not_online() -> Method:
    """``best`` without the rotations, of q and k and of products, that a model makes while it runs."""
    best = find_method("best")
    steps = tuple(step("rotate", what="stream") if each.name == "rotate" else each for each in best.steps)
    return replace(best, name="best without rotation online", steps=steps)


def _with_softmax(quantizer: str) -> Method:
    """``best`` with other quantizers of probabilities than powers of two; ``float`` leaves attention in float."""
    return replace(find_method("best"), name=f"best, softmax {quantizer}", softmax=quantizer)


def _balanced(power: float) -> Method:
    """``best`` with another power for what gated MLPs' channels are divided by."""
    best = find_method("best")
    steps = tuple(step("balance", power=power) if each.name == "balance" else each for each in best.steps)
    return replace(best, name=f"best, balance to the power {power:g}", steps=steps)


def _scaled(best: Method, by: str) -> Method:
    """``best`` with a scale for each "head" of q, k and v, where it can be folded, or one for each "tensor" of them, in
    place of that by the site."""
    steps = tuple(
        step("ranges", find="mse", weights=False, attention=by) if each.name == "ranges" else each
        for each in best.steps
    )
    return replace(best, name=f"{best.name}, scales of {by}s", steps=steps)


#: What ``--cases`` adds: what a family that has no rotation, or no centering, or no gates, has to do without; and what
#: powers of two cost as probabilities.
PARTS = (
    *map(_without, ("rotate", "center", "balance")),
    _not_online(),
    _scaled(find_method("best"), "head"),
    _scaled(find_method("best"), "tensor"),
    _scaled(_with_softmax("log2"), "tensor"),
    *map(_balanced, (0.5, 1.0)),
    *map(_with_softmax, ("log2", "log2_max", "log_sqrt2", "adalog", "tan", "uniform", "float")),
)
METHODS = (find_method("repq"), find_method("best"), *PARTS)


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, side: int) -> Tensor:
    """Of uint8 images [N, 28, 28]: float [N, 10]."""
    model.eval()
    return torch.cat([model(pixels(batch, side)) for batch in images.split(250)])


def measure(
    name: str,
    bits: str,
    method: Method,
    seed: int,
    training: Pictures,
    test: Pictures,
    floats: Tensor,
    device: torch.device,
) -> dict[str, Any]:
    """One calibration, and its accuracy; ``floats`` is the float model's logits of the test images.

    The images lie on the CPU for ``training``, and on ``device`` for ``test``.
    """
    side = SUBJECTS[name].side
    order = torch.randperm(len(training.labels), generator=torch.Generator().manual_seed(seed))
    images = pixels(training.images[order[:CALIBRATION_IMAGES]], side)
    started = time.monotonic()
    quantized = repq_deploy.quantize(
        load_trained(name), images, bits=bits, preset="paper", method=method, seed=seed, inplace=True, device=device
    )
    seconds = time.monotonic() - started
    outputs = logits(quantized.to(device), test.images, side)
    classes = outputs.argmax(-1)
    return {
        "model": name,
        "bits": bits,
        "method": method.name,
        "seed": seed,
        "images": CALIBRATION_IMAGES,
        "top1": _percent(classes == test.labels),
        "float_top1": _percent(floats.argmax(-1) == test.labels),
        "agreement": _percent(classes == floats.argmax(-1)),
        "logits_db": round(_sqnr(floats, outputs), 2),
        "calibration_s": round(seconds, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
    }


def _sqnr(expected: Tensor, found: Tensor) -> float:
    """Signal to quantization noise of the logits, in dB."""
    return float(10 * torch.log10(expected.square().sum() / (found - expected).square().sum()))


def _percent(hits: Tensor) -> float:
    return 100 * int(hits.sum()) / len(hits)


Groups = dict[tuple[str, str, str], list[dict[str, Any]]]


def grouped(runs: list[dict[str, Any]]) -> Groups:
    """The runs of all seeds, by model, bits and method, in the order of the table."""
    groups: Groups = defaultdict(list)
    for run in runs:
        groups[run["model"], run["bits"], run["method"]].append(run)
    names = [method.name for method in METHODS]

    def place(key: tuple[str, str, str]) -> tuple[int, int, int]:
        return list(SUBJECTS).index(key[0]), BITS.index(key[1]), names.index(key[2])

    return {key: groups[key] for key in sorted(groups, key=place)}


def loss(group: list[dict[str, Any]]) -> float:
    """Points of top-1 that are lost against the float model: the mean over seeds."""
    return statistics.mean(run["float_top1"] - run["top1"] for run in group)


def table(groups: Groups) -> str:
    """Mean and spread (largest minus smallest) over the seeds of each method at each bit-width."""
    lines = [table_line(COLUMNS), table_line(["---"] * len(COLUMNS))]
    for (model, bits, method), group in groups.items():
        top1 = [run["top1"] for run in group]
        agreement = statistics.mean(run["agreement"] for run in group)
        figures = (statistics.mean(top1), max(top1) - min(top1), loss(group), agreement)
        lines.append(table_line([model, bits, method, *(f"{figure:.2f}" for figure in figures), str(len(group))]))
    return "".join(lines)


def verdicts(groups: Groups) -> str:
    """A line for each model and hard bit-width: what both methods lose, and whether that is accepted."""
    columns = ("model", "bits", "repq loses", "best loses", "of repq's loss", "accepted")
    lines = [table_line(columns), table_line(["---"] * len(columns))]
    for model in SUBJECTS:
        for bits in HARD:
            both = [groups.get((model, bits, method)) for method in ("repq", "best")]
            if both[0] is None or both[1] is None:
                continue
            theirs, ours = loss(both[0]), loss(both[1])
            accepted = ours <= theirs / 2 or max(theirs, ours) < NEGLIGIBLE
            share = f"{100 * ours / theirs:.0f} %" if theirs > 0 else ""
            lines.append(table_line([model, bits, f"{theirs:.2f}", f"{ours:.2f}", share, "yes" if accepted else "no"]))
    return "".join(lines)


def write_table(runs: list[dict[str, Any]], path: Path) -> None:
    groups = grouped(runs)
    floats = ", ".join(f"{name} {float_top1(name):.2f}" for name in SUBJECTS if any(key[0] == name for key in groups))
    devices = " and ".join(sorted({run["device"] for run in runs}))
    title = (
        f"`python benchmarks/families/accuracy.py --cases`, on {devices}, preset `paper`, "
        f"{CALIBRATION_IMAGES} calibration images, PyTorch model, 10,000 test images (standard error about 0.3); "
        f"float top-1: {floats}.\n"
    )
    path.write_text(f"{title}\n{verdicts(groups)}\n{table(groups)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--bits", nargs="+", default=BITS, choices=BITS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cases", action="store_true", help="also best with other parts, at w4a4 and w3a3")
    names = [method.name for method in METHODS]
    parser.add_argument("--methods", nargs="+", default=names, choices=names)
    parser.add_argument("--device", default="cpu", help="where PyTorch computes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    file = RESULTS / "accuracy-families.jsonl"
    runs = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(run["model"], run["bits"], run["method"], run["seed"]) for run in runs}
    training, test = read_pictures("train"), read_pictures("t10k").to(device)
    for name in args.subjects:
        floats = logits(load_trained(name).to(device), test.images, SUBJECTS[name].side)
        for seed in args.seeds:
            for bits in args.bits:
                for method in METHODS if args.cases and bits in HARD else METHODS[:2]:
                    if (name, bits, method.name, seed) in done or method.name not in args.methods:
                        continue
                    runs.append(measure(name, bits, method, seed, training, test, floats, device))
                    print(runs[-1], flush=True)
                    with file.open("a") as output:
                        output.write(json.dumps(runs[-1]) + "\n")
    write_table(runs, file.with_suffix(".md"))


if __name__ == "__main__":
    main()
