"""Measurements of a search that are kept: one small file each, in a folder for all that its result depends on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from repq_deploy.bits import SiteBits
from repq_deploy.devices import CPU
from repq_deploy.errors import BadInput
from repq_deploy.search.space import SearchSite
from repq_deploy.system.files import read_kept

__all__ = ["BATCH", "Measurement", "measurement_file", "read_measurement", "result_folder"]

FORMAT = 3
#: Images that go through the model at once; sums of floats depend on it.
BATCH = 32

#: A site and its bits.
Measurement = tuple[SearchSite, SiteBits]


def result_folder(work_dir: Path, model: nn.Module, images: Tensor, preset: str, device: torch.device = CPU) -> Path:
    """The folder of ``work_dir`` for all results that depend on nothing else but the site and its bits.

    Raises:
        BadInput: it cannot be made.
    """
    digest = hashlib.sha256(f"{FORMAT} {preset} {torch.__version__} {BATCH} {device.type}".encode())
    for name, tensor in [*model.state_dict().items(), ("images", images)]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    folder = work_dir / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"work folder {work_dir}: {error.strerror or error}; name another") from error
    return folder


def measurement_file(folder: Path, item: Measurement) -> Path:
    return folder / f"{item[0].name}@{item[1]}.json"


def read_measurement(path: Path) -> float | None:
    """A measurement kept by an earlier run; None where there is none that can be read, to measure it again."""
    kept = read_kept(path)
    error = kept.get("error") if isinstance(kept, dict) else None
    return error if isinstance(error, float) else None
