"""The three small models of ``train.py`` and ``accuracy.py``, and Fashion-MNIST as they take it."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from repq_deploy.calib_data.demo import DEMO_MEAN, DEMO_STD

__all__ = [
    "SUBJECTS",
    "WEIGHTS",
    "Pictures",
    "Subject",
    "build",
    "float_top1",
    "load_trained",
    "pixels",
    "read_pictures",
]

#: Where Debian's package ``dataset-fashion-mnist`` puts its four IDX files. MIT licence.
DATASET = Path("/usr/share/datasets/fashion-mnist")
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Subject:
    """A timm architecture, and the arguments that shrink it: its width and depth, not its number of tokens."""

    architecture: str
    kwargs: dict[str, Any]

    @property
    def side(self) -> int:
        """Height and width of its images in pixels."""
        return int(self.kwargs["img_size"])


#: Patches of 2 x 2 pixels make 14 x 14 tokens of an image, as the large models have at 224 pixels: how large attention
#: probabilities are depends on their number, and what quantizing them costs depends on how large they are.
_COMMON: dict[str, Any] = {"img_size": 28, "patch_size": 2, "num_classes": 10}

SUBJECTS = {
    # Windows of 7 x 7 tokens as in the large ones, plain and shifted; merged into one window.
    "swin": Subject(
        "swin_tiny_patch4_window7_224",
        {
            **_COMMON,
            "window_size": 7,
            "embed_dim": 64,
            "depths": (2, 4),
            "num_heads": (2, 4),
            "drop_path_rate": 0.0,
        },
    ),
    # EVA-02 in small: positions as embeddings and as rotations of q and k, gated MLPs, biases of q and v alone.
    "eva": Subject(
        "eva02_tiny_patch14_224",
        {
            **_COMMON,
            "embed_dim": 96,
            "depth": 6,
            "num_heads": 3,
            "mlp_ratio": 4 / 3,
            "ref_feat_shape": (14, 14),
            "global_pool": "token",
        },
    ),
    # SigLIP's image tower in small: no class token; one learned query pools the tokens by attention.
    "siglip": Subject(
        "vit_base_patch16_siglip_224",
        {**_COMMON, "embed_dim": 96, "depth": 4, "num_heads": 3},
    ),
}


def build(name: str) -> nn.Module:
    """The model of random weights, in float32."""
    subject = SUBJECTS[name]
    return timm.create_model(subject.architecture, pretrained=False, **subject.kwargs)


def load_trained(name: str) -> nn.Module:
    """The trained model, whose float16 weights are widened to float32, in evaluation mode."""
    model = build(name)
    model.load_state_dict({key: tensor.float() for key, tensor in load_file(WEIGHTS / f"{name}.safetensors").items()})
    return model.eval()


def float_top1(name: str) -> float:
    """The trained model's top-1 in percent over the 10,000 test images, as its training measured it."""
    return float(json.loads((WEIGHTS / f"{name}.json").read_text())["test_top1"])


@dataclass(frozen=True)
class Pictures:
    """Images uint8 [N, 28, 28] and their classes int64 [N]."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Pictures:
        return Pictures(self.images.to(device), self.labels.to(device))


def read_pictures(split: str) -> Pictures:
    """The 60,000 images of the split ``train``, or the 10,000 of ``t10k``."""
    images, labels = (_read_idx(DATASET / f"{split}-{part}.gz") for part in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    return Pictures(torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)))


def _read_idx(path: Path) -> np.ndarray:
    """One gzipped IDX file of unsigned bytes: 2 zero bytes, type 8, rank, big-endian sizes, data."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, dtype=">u4", count=rank, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def pixels(images: Tensor, side: int) -> Tensor:
    """uint8 [N, 28, 28] to float [N, 3, side, side]: black around, gray values repeated over the three channels."""
    border = (side - images.shape[-1]) // 2
    padded = nn.functional.pad(images, (border, border, border, border))
    return ((padded.float() / 255 - DEMO_MEAN) / DEMO_STD)[:, None].expand(-1, 3, -1, -1).contiguous()
