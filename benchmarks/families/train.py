"""Train one of three small models of other families than the demo's on Fashion-MNIST, from random weights.

Run by hand; the results are committed. Fashion-MNIST (Zalando, MIT licence) comes from Debian's package
``dataset-fashion-mnist``::

    apt-get install dataset-fashion-mnist
    python benchmarks/families/train.py swin --device cuda
    python benchmarks/families/train.py eva --device cuda
    python benchmarks/families/train.py siglip --device cuda

Writes ``weights/<name>.safetensors`` (float16) and ``weights/<name>.json``: architecture, seed, epochs, versions, the
device, and the accuracy of these float16 weights over the 10,000 test images. The seed fixes images and first weights;
sums on a GPU still differ from run to run in their last bits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time

import timm
import torch
from safetensors.torch import save_file
from small_models import SUBJECTS, WEIGHTS, Pictures, build, pixels, read_pictures
from torch import Tensor, nn


def augment(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and move each by up to ``shift`` pixels. uint8 [N, H, W] in and out."""
    count, height, width = images.shape
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    images = torch.where(mirrored[:, None, None], images.flip(-1), images)
    padded = nn.functional.pad(images, (shift, shift, shift, shift))
    top, left = torch.randint(0, 2 * shift + 1, (2, count, 1, 1), generator=generator)
    rows = (top + torch.arange(height)[None, :, None]).to(images.device)
    columns = (left + torch.arange(width)[None, None, :]).to(images.device)
    return padded[torch.arange(count, device=images.device)[:, None, None], rows, columns]


@torch.no_grad()
def accuracy(model: nn.Module, pictures: Pictures, side: int) -> float:
    """Top-1 in percent."""
    model.eval()
    batches = zip(pictures.images.split(500), pictures.labels.split(500), strict=True)
    hits = sum(int((model(pixels(images, side)).argmax(-1) == labels).sum()) for images, labels in batches)
    return 100 * hits / len(pictures.labels)


def train(
    name: str, epochs: int, batch_size: int, learning_rate: float, shift: int, seed: int, device: torch.device
) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    subject = SUBJECTS[name]
    training, test = (read_pictures(split).to(device) for split in ("train", "t10k"))
    some = Pictures(test.images[:2000], test.labels[:2000])
    model = build(name).to(device)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    per_epoch = len(training.labels) // batch_size
    steps = epochs * per_epoch
    warmup = min(per_epoch // 2, steps // 10)

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    started = time.monotonic()
    for epoch in range(epochs):
        model.train()
        order = torch.randperm(len(training.labels), generator=generator)[: per_epoch * batch_size].to(device)
        for picked in order.split(batch_size):
            batch = pixels(augment(training.images[picked], shift, generator), subject.side)
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(batch)
            loss = nn.functional.cross_entropy(logits.float(), training.labels[picked], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        minutes = (time.monotonic() - started) / 60
        top1 = accuracy(model, some, subject.side)
        print(
            f"{name}: epoch {epoch + 1}/{epochs}: {top1:.2f} %, {minutes:.1f} min",
            file=sys.stderr,
            flush=True,
        )
    model.half().float()  # what is kept is float16, so that is what is measured
    record = {
        "architecture": subject.architecture,
        "kwargs": subject.kwargs,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "test_top1": accuracy(model, test, subject.side),
        "test_images": len(test.labels),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "shift": shift,
        "seed": seed,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }
    WEIGHTS.mkdir(exist_ok=True)
    tensors = {key: tensor.half().cpu().contiguous() for key, tensor in model.state_dict().items()}
    save_file(tensors, WEIGHTS / f"{name}.safetensors")
    (WEIGHTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SUBJECTS)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--shift", type=int, default=2, help="pixels an image is moved by at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu takes hours")
    args = parser.parse_args()
    settings = (args.epochs, args.batch_size, args.learning_rate, args.shift, args.seed)
    train(args.name, *settings, torch.device(args.device))


if __name__ == "__main__":
    main()
