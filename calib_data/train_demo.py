"""Train the embedded demo model: a small Vision Transformer on Fashion-MNIST.

Run once, by hand; the result is committed. Fashion-MNIST (Zalando, MIT licence) comes from Debian's package
``dataset-fashion-mnist``, which installs four IDX files under ``/usr/share/datasets/fashion-mnist``::

    apt-get install dataset-fashion-mnist
    python calib_data/train_demo.py
    python calib_data/train_demo.py --resume --epochs 8 --learning-rate 3e-4 --shift 0

Writes ``vit_demo.safetensors`` (float16), ``calib.npz`` (256 training images), ``test.npz`` (the first 2,000 test
images) and ``training.json`` (accuracy on all 10,000 test images, seed, versions) into
``repq_deploy/calib_data/demo/``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repq_deploy.calib_data.demo import DEMO_ARCHITECTURE, DEMO_KWARGS, DEMO_MEAN, DEMO_STD, DEMO_WEIGHTS

DATASET = Path("/usr/share/datasets/fashion-mnist")
OUTPUT = DEMO_WEIGHTS.parent


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes: 2 zero bytes, type 8, rank, big-endian sizes, data."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, dtype=">u4", count=rank, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def normalize(images: Tensor) -> Tensor:
    """uint8 [N, 28, 28] to float [N, 3, 28, 28], the gray value repeated over the three channels."""
    scaled = (images.float() / 255 - DEMO_MEAN) / DEMO_STD
    return scaled[:, None].expand(-1, 3, -1, -1)


def augment(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and move each by up to ``shift`` pixels. uint8 [N, 28, 28] in and out."""
    count, height, width = images.shape
    mirrored = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None], images.flip(-1), images)
    padded = nn.functional.pad(images, (shift, shift, shift, shift))
    top, left = torch.randint(0, 2 * shift + 1, (2, count, 1, 1), generator=generator)
    rows = top + torch.arange(height)[None, :, None]
    columns = left + torch.arange(width)[None, None, :]
    return padded[torch.arange(count)[:, None, None], rows, columns]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    model.eval()
    hits = sum(
        int((model(normalize(images[i : i + 500])).argmax(-1) == labels[i : i + 500]).sum())
        for i in range(0, len(images), 500)
    )
    return 100 * hits / len(images)


def train(epochs: int, batch_size: int, learning_rate: float, shift: int, seed: int, resume: bool) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    train_x, train_y, test_x, test_y = (
        torch.from_numpy(read_idx(DATASET / f"{name}.gz").copy())
        for name in (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        )
    )
    train_y, test_y = train_y.long(), test_y.long()
    model = timm.create_model(DEMO_ARCHITECTURE, pretrained=False, **DEMO_KWARGS)
    stages = []
    if resume:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(DEMO_WEIGHTS).items()})
        stages = json.loads((OUTPUT / "training.json").read_text())["stages"]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=learning_rate
    )
    per_epoch = len(train_x) // batch_size
    steps, warmup = epochs * per_epoch, per_epoch

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    started = time.monotonic()
    for epoch in range(epochs):
        model.train()
        for picked in torch.randperm(len(train_x), generator=generator)[: per_epoch * batch_size].split(batch_size):
            batch = normalize(augment(train_x[picked], shift, generator))
            loss = nn.functional.cross_entropy(model(batch), train_y[picked], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        minutes = (time.monotonic() - started) / 60
        print(
            f"epoch {epoch + 1}/{epochs}: {accuracy(model, test_x[:2000], test_y[:2000]):.2f} %, {minutes:.1f} min",
            file=sys.stderr,
            flush=True,
        )
    model.half().float()  # what is shipped is float16, so that is what is measured
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "shift": shift,
        "seed": seed,
    }
    figures: dict[str, object] = {
        "test_top1": accuracy(model, test_x, test_y),
        "test_images": len(test_x),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "stages": [*stages, settings],
    }
    OUTPUT.mkdir(exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, DEMO_WEIGHTS)
    picked = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(seed))[:256]
    np.savez_compressed(OUTPUT / "calib.npz", images=train_x[picked].numpy(), labels=train_y[picked].byte().numpy())
    np.savez_compressed(OUTPUT / "test.npz", images=test_x[:2000].numpy(), labels=test_y[:2000].byte().numpy())
    (OUTPUT / "training.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded demo model on Fashion-MNIST.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--shift", type=int, default=2, help="pixels an image is moved by at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the weights that are there")
    args = parser.parse_args()
    train(args.epochs, args.batch_size, args.learning_rate, args.shift, args.seed, args.resume)


if __name__ == "__main__":
    main()
