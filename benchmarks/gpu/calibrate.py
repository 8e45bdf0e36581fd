"""Calibrate on this machine's GPU and on its CPU: times, and whether both give the same codes::

    python benchmarks/gpu/calibrate.py OUTPUT.jsonl [--checkpoint vit_s14_cifar10.safetensors --data cifar10]

Each case is a line of OUTPUT, done once. Weights of ``deit_b`` and ``vit_l`` are random: their times do not depend on
them. Accuracies are of the PyTorch model, on the GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repq_deploy.bits import BitWidths
from repq_deploy.calib_data import load_sample, open_images
from repq_deploy.calibrate import calibrate
from repq_deploy.devices import CPU, find_device, predictor
from repq_deploy.evaluation import Target, evaluate
from repq_deploy.methods import find_method
from repq_deploy.models import zoo
from repq_deploy.models.checkpoints import CheckpointFile
from repq_deploy.models.preprocessing import preprocess_of
from repq_deploy.quant.model import QuantizedModel

BATCH = 4


@dataclass(frozen=True)
class Case:
    """A calibration; ``on_cpu``: on both devices, to compare. ``images`` None: as many as the method takes."""

    model: str
    bits: str
    method: str
    on_cpu: bool = True
    images: int | None = None
    seed: int = 0
    high: bool = False


CASES = (
    *(Case("demo", "w4a4", method) for method in ("repq", "best", "erq", "repquant")),
    Case("demo", "w4a4", "dopq", on_cpu=False),
    Case("demo", "w8a8", "best"),
    Case("deit_s", "w4a4", "best"),
    Case("deit_b", "w4a4", "best", images=32),
    Case("vit_large_patch16_224", "w4a4", "best", on_cpu=False, images=32),
)
FINETUNED = "vit_small_patch14_dinov2"
WITH_DATA = (
    Case(FINETUNED, "w4a4", "best"),
    Case(FINETUNED, "w4a4", "repq"),
    Case(FINETUNED, "w8a8", "best"),
    Case(FINETUNED, "w4a4", "dopq", on_cpu=False),
    *(Case(FINETUNED, "w4a4", "best", on_cpu=False, seed=seed, high=True) for seed in (0, 1, 2)),
)


def measure(case: Case, device: torch.device, checkpoint: Path | None, data: Path | None) -> dict[str, Any]:
    """Times by device, peak GPU memory, and the comparison."""
    weights = None if case.model != FINETUNED else CheckpointFile(checkpoint)  # type: ignore[arg-type]
    size, classes = (112, 10) if weights else (None, None)
    spec = zoo.resolve(
        case.model, checkpoint=weights, num_classes=classes, img_size=size, pretrained=case.model == "demo"
    )
    preprocess = preprocess_of(zoo.create(spec, weights, case.seed))
    method = find_method("best-high" if case.high else case.method)
    source = open_images(str(data / "train") if weights and data else "demo:calib")
    count = min(case.images or method.images, len(source))
    images = torch.from_numpy(load_sample(source, preprocess, count=count, seed=case.seed).pixels)
    found: dict[str, Any] = {**vars(case), "count": count, "seconds": {}}
    results = {}
    for where in (device, CPU) if case.on_cpu else (device,):
        model = zoo.create(spec, weights, case.seed)
        if where.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        results[where] = calibrate(
            model, spec, images, bits=BitWidths.parse(case.bits, preset="paper"), method=method, seed=case.seed,
            device=where,
        )  # fmt: skip
        found["seconds"][where.type] = time.monotonic() - started
        if where.type == "cuda":
            found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    test = str(data / "test") if weights and data else "demo:test" if case.model == "demo" else None
    if test is not None:
        found["top1"] = {}
        for where, quantized in results.items():
            target = Target("", "", predictor(quantized, device), preprocess, int(quantized.model.num_classes))
            found["top1"][where.type] = evaluate(target, open_images(test)).target.top1
            quantized.to(CPU)
    if case.on_cpu:
        float_model = zoo.create(spec, weights, case.seed)
        found |= compare(results[device], results[CPU], float_model, images[:BATCH], device)
    return found


@torch.no_grad()
def compare(
    ours: QuantizedModel, theirs: QuantizedModel, float_model: torch.nn.Module, images: Tensor, device: torch.device
) -> dict[str, Any]:
    """How far two calibrations of one model agree, and how far quantizers of one calibration do on two devices."""
    equal = total = 0
    for (_, mine, _), (_, other, _) in zip(ours.linears(), theirs.linears(), strict=True):
        pair = [layer.weight_quantizer.codes(layer.weight) for layer in (mine, other)]
        equal += int((pair[0] == pair[1]).sum())
        total += pair[0].numel()
    scales = [
        float(((mine.scale - other.scale).abs() / other.scale).max())
        for name, mine in ours.quantizers().items()
        for other in (theirs.quantizers()[name],)
        if not name.endswith(".weight")
    ]
    exact = float_model(images)
    logits = [model(images) for model in (ours, theirs)]
    return {
        "weight_codes_equal": equal / total,
        "activation_scales": len(scales),
        "activation_scales_equal_to_1e-5": sum(scale <= 1e-5 for scale in scales),
        "largest_scale_difference": max(scales),
        "logits_apart_over_quantization_error": float((logits[0] - logits[1]).norm() / (logits[1] - exact).norm()),
        **_forced(theirs, images, device),
    }


def _forced(model: QuantizedModel, images: Tensor, device: torch.device) -> dict[str, Any]:
    """Codes on ``device`` of the very inputs that the quantizers had on the CPU."""
    counts = np.zeros(2, np.int64)
    worst = 0

    def look(module: Any, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        nonlocal worst
        here = module.codes(inputs[0])
        there = module.to(device).codes(inputs[0].to(device)).cpu()
        module.to(CPU)
        counts[:] += (int((here == there).sum()), here.numel())
        worst = max(worst, int((here - there).abs().max()))

    handles = [quantizer.register_forward_hook(look) for quantizer in model.quantizers().values()]
    model(images)
    for handle in handles:
        handle.remove()
    return {"codes_of_equal_inputs": int(counts[1]), "of_them_equal": int(counts[0]), "most_apart": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--checkpoint", type=Path, help="the ViT-S/14 fine-tuned on CIFAR-10")
    parser.add_argument("--data", type=Path, help="its images: a folder with train and test")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no case later than this")
    args = parser.parse_args()
    device = find_device(args.device)
    if device.type == "cuda":
        torch.zeros(1, device=device)  # CUDA's start is no part of a calibration
    started = time.monotonic()
    done = args.output.read_text().splitlines() if args.output.exists() else []
    known = [{name: line[name] for name in vars(CASES[0])} for line in map(json.loads, done)]
    for case in (*CASES, *(WITH_DATA if args.data else ())):
        if vars(case) in known or time.monotonic() - started > args.seconds:
            continue
        line = measure(case, device, args.checkpoint, args.data)
        line["gpu"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
        line["torch"] = torch.__version__
        with args.output.open("a") as output:
            output.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
