"""Reading a checkpoint without running code from it, and fitting it to a model with one clear line per misfit.

A checkpoint is a ``.safetensors`` file, or a ``.pt``, ``.pth`` or ``.bin`` file that ``torch.load(weights_only=True)``
accepts.
"""

from __future__ import annotations

import argparse
import math
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from repq_deploy.errors import BadInput
from repq_deploy.files import existing_file

__all__ = ["CHECKPOINT_SUFFIXES", "load_into", "read_checkpoint"]

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by parameter name, floating-point ones as float32.

    ``{"model": ...}`` and ``{"state_dict": ...}`` are unwrapped, also when nested, and a ``module.`` prefix is dropped.

    Raises:
        BadInput: no such file, a suffix that is none of the four, a damaged file, a pickle that needs code to be run,
            no tensors in it, or a tensor that holds NaN or infinity.
    """
    existing_file(path, "checkpoint")
    if path.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise BadInput(f"checkpoint {path}: suffix {path.suffix!r}; expected one of {', '.join(CHECKPOINT_SUFFIXES)}")
    content = _safetensors(path) if path.suffix.lower() == ".safetensors" else _pickled(path)
    tensors = _unwrapped(content)
    if not tensors:
        raise BadInput(f"checkpoint {path}: holds no tensors; expected a state dict, plain or under 'model'")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise BadInput(f"checkpoint {path}: NaN or infinity in {_first(broken)}; export an intact checkpoint")
    return tensors


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy ``tensors`` into ``model``, all of them and nothing else. ``path`` is for the messages.

    Raises:
        BadInput: position embeddings of another image size, missing or unexpected names, or another shape.
    """
    expected = model.state_dict()
    _check_image_size(model, tensors, path)
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    if missing or unexpected:
        parts = [f"missing {_first(missing)}"] * bool(missing) + [f"unexpected {_first(unexpected)}"] * bool(unexpected)
        raise BadInput(f"checkpoint {path}: {'; '.join(parts)}; check that it is of this model")
    misfits = [name for name, tensor in tensors.items() if tensor.shape != expected[name].shape]
    if misfits:
        name = misfits[0]
        raise BadInput(
            f"checkpoint {path}: {name} is {list(tensors[name].shape)}, the model has {list(expected[name].shape)} "
            f"({len(misfits)} tensors differ); check that it is of this model"
        )
    model.load_state_dict(tensors)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"checkpoint {path}: not a readable safetensors file ({_one_line(error)})") from error


def _pickled(path: Path) -> Any:
    # Training scripts, DeiT's and timm's among them, leave their parsed arguments beside the weights: plain data.
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch advises on pickle protocols; the errors below say what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"checkpoint {path}: not weights only; loading it could run code, so it is refused; "
            "save the state dict alone, best as .safetensors"
        ) from error
    except Exception as error:  # torch raises whatever a damaged file happens to trip: IndexError, EOFError, ...
        raise BadInput(f"checkpoint {path}: not a readable PyTorch file ({_one_line(error)})") from error


def _unwrapped(content: Any) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        content = inner
    return {}


def _check_image_size(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Position embeddings [1, prefix + patches, channels] that differ in length only are of another image size."""
    ours, theirs = getattr(model, "pos_embed", None), tensors.get("pos_embed")
    if ours is None or theirs is None or theirs.ndim != 3 or ours.shape[::2] != theirs.shape[::2]:
        return
    if ours.shape[1] == theirs.shape[1]:
        return
    embed: Any = model.patch_embed
    patches = theirs.shape[1] - (ours.shape[1] - embed.num_patches)
    side = math.isqrt(max(patches, 0))
    advice = f"use --img-size {side * embed.patch_size[0]}" if side * side == patches else "check the model"
    raise BadInput(
        f"checkpoint {path}: pos_embed has {theirs.shape[1]} positions, the model at "
        f"{embed.img_size[0]}x{embed.img_size[1]} pixels has {ours.shape[1]}; {advice}"
    )


def _first(names: list[str]) -> str:
    """The first three of ``names``, and how many there are."""
    listed = ", ".join(names[:3])
    return f"{listed}{', ...' if len(names) > 3 else ''} ({len(names)} tensor{'s' * (len(names) > 1)})"


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__
