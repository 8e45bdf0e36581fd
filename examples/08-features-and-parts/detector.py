"""A detector with a Vision Transformer in it: the transformer is quantized, the rest stays in float, one file has both.

The backbone is the demo model; the heads are not trained, as this is about the way and not about boxes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import repq_deploy as rq

BLOCKS = (1, 3, 5)


class Detector(nn.Module):
    """A box and the scores of ten classes at every patch, from three maps of a backbone [N, 96, h, w]."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.laterals = nn.ModuleList([nn.Conv2d(96, 32, 1) for _ in BLOCKS])
        self.smooth = nn.Conv2d(32, 32, 3, padding=1)
        self.boxes, self.scores = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 10, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(images)
        mixed = torch.stack([lateral(one) for lateral, one in zip(self.laterals, maps, strict=True)]).sum(dim=0)
        found = self.smooth(mixed).relu()
        return {"boxes": self.boxes(found).flatten(2), "scores": self.scores(found).flatten(2)}


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    encoder = rq.load_model("demo", features=rq.Features(BLOCKS, "maps"))
    detector = Detector(encoder.network).eval()
    images = rq.load_images("demo:calib", encoder, count=128)
    expected = detector(torch.from_numpy(images.pixels[:16]))

    # The whole detector runs over the images; what its backbone is given calibrates the backbone.
    quantized = rq.quantize(detector, images, bits="w8a8", part="backbone")

    # Nothing but the lateral convolutions reads the maps, so they can take the backbone's rotation back at no cost.
    rq.fold_taps(
        quantized.model, [(lateral, (block,)) for lateral, block in zip(detector.laterals, BLOCKS, strict=True)]
    )

    rq.export_onnx(quantized, "detector.onnx", images, whole=detector, part="backbone")

    # The exported file is for tools to rewrite: run as it is, 8-bit weights saturate on CPUs without VNNI.
    run, _ = rq.open_engine(rq.build_engine("detector.onnx", "onnxruntime").engine)
    for name, found in run(images.pixels[:16]).items():
        error = np.linalg.norm(found - expected[name].numpy()) / expected[name].norm()
        print(f"{name} {list(found.shape)}: relative error {error:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
