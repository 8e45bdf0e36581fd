"""Which images to calibrate on when one's own are not at hand: the same model calibrated on each kind::

    python benchmarks/calibration_images.py OUTPUT.jsonl --checkpoint vit_s14_cifar10.safetensors --data cifar10

DATA has ``train`` and ``test``. Each line of OUTPUT is one calibration, done once; accuracies are the PyTorch model's,
on all test images. ``--table`` prints the means over seeds instead.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repq_deploy.api import load_images, quantize
from repq_deploy.calib_data import ImageSource, open_images
from repq_deploy.calib_data.photos import photo_crops
from repq_deploy.calibration.synthetic import synthetic_images
from repq_deploy.devices import find_device, predictor
from repq_deploy.evaluation import Target, evaluate
from repq_deploy.models.loading import FloatModel, load_model

MODEL = "vit_small_patch14_dinov2"
#: The fewest pixels of a crop's side; None: as sharp as the photographs are.
SHARPNESS = {"sharp": None, "16 up": 16, "32 up": 32, "64 up": 64}
Images = Callable[[FloatModel, int, int, torch.device], Tensor]


def crops(blurriest: int | None) -> ImageSource:
    found = photo_crops(blurriest)
    return ImageSource(
        "photos", tuple(found), None, (), lambda name: found[name].image(), lambda name: found[name].content()
    )


def of_photos(blurriest: int | None) -> Images:
    return lambda model, count, seed, device: torch.from_numpy(
        load_images(crops(blurriest), model, count=count, seed=seed).pixels
    )


def all_at(side: int) -> Images:
    """Every crop reduced to one sharpness: what could be had if the images' were known."""

    def images(model: FloatModel, count: int, seed: int, device: torch.device) -> Tensor:
        found = photo_crops(None)
        source = ImageSource(
            "photos", tuple(found), None, (), lambda name: found[name].image().resize((side, side), 4), lambda name: b""
        )
        return torch.from_numpy(load_images(source, model, count=count, seed=seed).pixels)

    return images


def confident(blurriest: int | None, *, of: int = 4) -> Images:
    """Of ``of`` times as many crops those on which the float model is surest, as many of each class as can be."""

    def images(model: FloatModel, count: int, seed: int, device: torch.device) -> Tensor:
        pixels = torch.from_numpy(load_images(crops(blurriest), model, count=of * count, seed=seed).pixels)
        network = copy.deepcopy(model.network).to(device).eval()
        with torch.no_grad():
            sure = torch.cat([network(batch.to(device)).softmax(-1).cpu() for batch in pixels.split(64)])
        best, classes = sure.max(-1)
        rank = torch.empty_like(classes)
        for label in classes.unique():
            members = (classes == label).nonzero().flatten()
            rank[members[best[members].argsort(descending=True)]] = torch.arange(len(members))
        return pixels[(rank - best).argsort()[:count]]

    return images


def own(data: Path) -> Images:
    return lambda model, count, seed, device: torch.from_numpy(
        load_images(open_images(data / "train"), model, count=count, seed=seed).pixels
    )


def synthetic(model: FloatModel, count: int, seed: int, device: torch.device) -> Tensor:
    height, width = model.preprocess.size  # type: ignore[union-attr]
    network = copy.deepcopy(model.network)
    return synthetic_images(network, (3, height, width), count, classes=10, seed=seed, device=device)


def mixed(first: Images, second: Images) -> Images:
    return lambda model, count, seed, device: torch.cat(
        [first(model, count // 2, seed, device), second(model, count - count // 2, seed, device)]
    )[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]


def kinds(data: Path) -> dict[str, Images]:
    found: dict[str, Images] = {"own": own(data), "shoes": lambda model, count, seed, device: torch.from_numpy(
        load_images(open_images("demo:calib"), model, count=count, seed=seed).pixels)}  # fmt: skip
    found |= {f"photos {name}": of_photos(blurriest) for name, blurriest in SHARPNESS.items()}
    found |= {f"confident {name}": confident(blurriest) for name, blurriest in SHARPNESS.items()}
    found |= {"photos at 32": all_at(32), "synthetic": synthetic, "mixed": mixed(of_photos(32), synthetic)}
    return found


def measure(case: tuple[str, int, str, str, int], data: Path, checkpoint: Path, device: torch.device) -> dict[str, Any]:
    kind, count, bits, method, seed = case
    model = load_model(MODEL, checkpoint=checkpoint, num_classes=10, img_size=112)
    started = time.monotonic()
    images = kinds(data)[kind](model, count, seed, device)
    made = time.monotonic()
    quantized = quantize(model, images, bits=bits, method=method, seed=seed, device=device)
    calibrated = time.monotonic()
    target = Target("", "", predictor(quantized, device), model.preprocess, 10)  # type: ignore[arg-type]
    top1 = evaluate(target, open_images(data / "test")).target.top1
    return {"top1": top1, "make": round(made - started, 1), "calibrate": round(calibrated - made, 1)}


def table(lines: list[dict[str, Any]]) -> str:
    found: dict[tuple[Any, ...], list[float]] = {}
    for line in lines:
        found.setdefault((line["bits"], line["method"], line["kind"], line["count"]), []).append(line["top1"])
    text = ["| bits | method | images | how many | top-1 | by seed |", "| --- | --- | --- | --- | --- | --- |"]
    for (bits, method, kind, count), tops in sorted(found.items(), key=lambda item: (item[0][:2], -np.mean(item[1]))):
        seeds = ", ".join(f"{top:.2f}" for top in tops)
        text.append(f"| {bits} | {method} | {kind} | {count} | {statistics.mean(tops):.2f} | {seeds} |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cases", nargs="+", default=[], help="KIND:COUNT:BITS:METHOD:SEED each")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no case later than this")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.output.read_text().splitlines()] if args.output.exists() else []
    if args.table:
        print(table(lines))
        return
    device, started, names = find_device(args.device), time.monotonic(), ("kind", "count", "bits", "method", "seed")
    for text in args.cases:
        kind, count, bits, method, seed = text.split(":")
        case = (kind, int(count), bits, method, int(seed))
        known = any(tuple(line[name] for name in names) == case for line in lines)
        if known or time.monotonic() - started > args.seconds:
            continue
        line = dict(zip(names, case, strict=True)) | measure(case, args.data, args.checkpoint, device)
        line["device"] = str(device)
        with args.output.open("a") as output:
            output.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
