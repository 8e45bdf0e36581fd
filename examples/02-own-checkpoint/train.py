"""Trains timm's ViT-Tiny on five kinds of clothes, and leaves what a training usually leaves.

Into the folder that it is run in it writes ``photos/train`` and ``photos/val``, a folder of PNG images for each class,
and ``best.pt``, a checkpoint of ``torch.save`` with the weights beside what else a trainer keeps. The images are those
that come with repq-deploy (Fashion-MNIST, Zalando, MIT licence).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from repq_deploy.calib_data.demo import demo_images

#: The classes in the order of the model's outputs, and their numbers in Fashion-MNIST.
CLASSES = dict(zip(Path("classes.txt").read_text().split(), (1, 8, 5, 9, 2), strict=True))
SIZE, EPOCHS, BATCH = 32, 4, 50


def write_photos() -> None:
    """Every fourth image of a class is for evaluation."""
    with np.load(demo_images("test")) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    for name, number in CLASSES.items():
        for place, image in enumerate(images[labels == number]):
            folder = Path("photos", "val" if place % 4 == 0 else "train", name)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{place:03d}.png")


def load(split: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The images of a split as timm prepares them for this model, float32 [N, 3, SIZE, SIZE], and their classes [N]."""
    transform = create_transform(**resolve_data_config({"img_size": SIZE}, model=model), is_training=False)
    files = [
        (path, label) for label, name in enumerate(CLASSES) for path in sorted(Path("photos", split, name).iterdir())
    ]
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path, _ in files])
    return images, torch.tensor([label for _, label in files])


def main() -> None:
    torch.manual_seed(0)
    write_photos()
    model = timm.create_model("vit_tiny_patch16_224", num_classes=len(CLASSES), img_size=SIZE)
    train_x, train_y = load("train", model)
    val_x, val_y = load("val", model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, epochs=EPOCHS, steps_per_epoch=-(-len(train_x) // BATCH)
    )
    for _ in range(EPOCHS):
        model.train()
        for picked in torch.randperm(len(train_x)).split(BATCH):
            loss = nn.functional.cross_entropy(model(train_x[picked]), train_y[picked], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        top1 = 100 * (model(val_x).argmax(-1) == val_y).float().mean().item()
    torch.save({"epoch": EPOCHS, "arch": "vit_tiny_patch16_224", "state_dict": model.state_dict()}, "best.pt")
    sys.stdout.write(f"best.pt: top-1 {top1:.2f} % on {len(val_x)} images\n")


if __name__ == "__main__":
    main()
