"""A folder of a Hugging Face model: ``config.json``, weights in one file or several, and how images are prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from repq_deploy.errors import BadInput
from repq_deploy.models.checkpoints import CheckpointFile, read_checkpoint
from repq_deploy.models.libraries.hf import twin_of_config
from repq_deploy.models.libraries.hf_processor import USUAL, overlay_of
from repq_deploy.models.libraries.twin import Twin
from repq_deploy.records import parse_json
from repq_deploy.system.files import existing_file, sha256_of

__all__ = ["CONFIG", "PROCESSOR", "WEIGHTS", "ModelFolder", "files_of_index"]

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
#: Under which names weights lie, the first one first; an index names several files.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_MOST_BYTES = 10**8


@dataclass(frozen=True)
class ModelFolder:
    """The folder at ``path`` of a model that messages call ``name``."""

    path: Path
    name: str

    def twin(self) -> Twin:
        """The timm model that computes the same, with its preprocessing.

        Raises:
            BadInput: a file is missing, or is not what it should be, or the model type is not supported.
        """
        twin = twin_of_config(_read(self.path / CONFIG), f"model {self.name}")
        overlay, size = dict(USUAL), None
        if (self.path / PROCESSOR).is_file():
            overlay, size = overlay_of(_read(self.path / PROCESSOR), f"model {self.name}: {PROCESSOR}")
        of_images = {"img_size": list(size)} if twin.any_size and size is not None else {}
        return replace(twin, kwargs={**twin.kwargs, **of_images, "pretrained_cfg_overlay": overlay})

    def notes(self) -> tuple[str, ...]:
        """What was decided that the folder does not say."""
        return () if (self.path / PROCESSOR).is_file() else (f"no {PROCESSOR}: took mean and standard deviation 0.5",)

    def weights(self) -> dict[str, Tensor]:
        """The tensors under the names that the files have, floating-point ones in float32.

        Raises:
            BadInput: as ``read_checkpoint`` does; or there are no weights.
        """
        tensors: dict[str, Tensor] = {}
        for file in self._weight_files():
            tensors.update(read_checkpoint(CheckpointFile(file)).tensors)
        return tensors

    def sha256(self) -> str:
        """Identifies configuration and weights."""
        files = [existing_file(self.path / CONFIG, "model"), *self._weight_files()]
        return hashlib.sha256(" ".join(sha256_of(file) for file in files).encode()).hexdigest()

    def _weight_files(self) -> list[Path]:
        found = next((self.path / name for name in WEIGHTS if (self.path / name).is_file()), None)
        if found is None:
            raise BadInput(f"model {self.name}: no weights in {self.path}; expected {' or '.join(WEIGHTS)}")
        return [self.path / name for name in files_of_index(found)] if found.suffix == ".json" else [found]


def files_of_index(path: Path) -> list[str]:
    """The names of the weight files that an index at ``path`` lists; they lie beside it.

    Raises:
        BadInput: it is no such index.
    """
    parts = _read(path).get("weight_map")
    names = sorted(set(parts.values())) if isinstance(parts, dict) and all(map(_is_name, parts.values())) else []
    if not names:
        raise BadInput(f"{path}: no index of weights; expected a weight_map from tensors to files beside it")
    return names


def _is_name(name: Any) -> bool:
    """Whether ``name`` is that of a file, and no path out of the folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:")


def _read(path: Path) -> Mapping[str, Any]:
    if existing_file(path, "model").stat().st_size > _MOST_BYTES:
        raise BadInput(f"{path}: {path.stat().st_size} bytes; expected a JSON text")
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not readable JSON ({error})") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path}: expected a JSON object")
    return found
