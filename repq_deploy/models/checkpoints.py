"""Reading a checkpoint without running code from it, and fitting it to a model with one clear line per misfit.

A checkpoint is a safetensors file, or one of ``torch.save`` that ``torch.load(weights_only=True)`` accepts; its content
decides, not its suffix. The layouts are those that timm, DeiT, Lightning and ``torch.compile`` leave behind.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from repq_deploy.errors import BadInput, first_line
from repq_deploy.models.families import find_family, known_family
from repq_deploy.system.files import existing_file, sha256_of

__all__ = ["Checkpoint", "CheckpointFile", "check_fit", "load_into", "own_image_size", "read_checkpoint"]

#: Where training scripts put the weights: averaged ones, then those of the last step.
_AVERAGED = ("state_dict_ema", "model_ema")
_RAW = ("state_dict", "model")
#: Weights lie this deep in other records, at most.
_DEPTH = 8
#: What wrappers put before every name: DistributedDataParallel, torch.compile, Lightning modules.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
#: What a Lightning module holds beside its model: losses and metrics.
_EXTRAS = ("criterion.", "loss.", "loss_fn.", "metrics.", "train_metrics.", "val_metrics.", "test_metrics.")


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint file, and which of its weights to take: with ``ema`` the averaged ones, if there are some, and only
    those whose names begin with ``prefix``, which is removed."""

    path: Path
    ema: bool = True
    prefix: str = ""

    def sha256(self) -> str:
        """Identifies the weights: the file's SHA-256, hashed with ``ema`` and ``prefix`` if these are not default."""
        digest = sha256_of(existing_file(self.path, "checkpoint"))
        usual = self == CheckpointFile(self.path)
        return digest if usual else hashlib.sha256(f"{digest} {self.ema} {self.prefix}".encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by parameter name, floating-point ones in float32, and notes for the user: what was taken or left out."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def read_checkpoint(file: CheckpointFile) -> Checkpoint:
    """Read the weights of a checkpoint.

    ``{"model": ...}``, ``{"state_dict": ...}`` and their averaged versions are unwrapped, also when nested; prefixes of
    wrappers are dropped, and what a Lightning module holds beside its model.

    Raises:
        BadInput: no such file, a damaged file, a pickle that needs code to be run, no tensors in it, a tensor that is
            sparse or without data, or one that holds NaN or infinity.
    """
    path = existing_file(file.path, "checkpoint")
    tensors, notes = _unwrapped(_content(path), ema=file.ema)
    if not tensors:
        raise BadInput(f"checkpoint {path}: holds no tensors; expected a state dict, plain or under 'model'")
    odd = [name for name, tensor in tensors.items() if tensor.layout != torch.strided or tensor.is_meta]
    if odd:
        raise BadInput(f"checkpoint {path}: sparse tensors or tensors without data, {_first(odd)}; save dense weights")
    odd = [name for name, tensor in tensors.items() if tensor.is_quantized or tensor.is_complex()]
    if odd:
        raise BadInput(f"checkpoint {path}: quantized or complex tensors, {_first(odd)}; save floating-point weights")
    tensors = _renamed(tensors, file.prefix, path, notes)
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise BadInput(f"checkpoint {path}: NaN or infinity in {_first(broken)}; export an intact checkpoint")
    return Checkpoint(tensors, tuple(notes))


def own_image_size(model: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """Height and width in pixels of the images that a checkpoint's position embeddings are for; None where they are
    those of ``model``, or cannot be resized."""
    family = known_family(model)
    return None if family is None else family.own_image_size(model, tensors)


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not those of ``model``, whose own may be without data. ``path`` is for the messages.

    Raises:
        BadInput: missing or unexpected names, another shape, position embeddings that cannot be resized, or integers
            where the model has floating-point weights.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    if missing or unexpected:
        parts = [f"missing {_first(missing)}"] * bool(missing) + [f"unexpected {_first(unexpected)}"] * bool(unexpected)
        raise BadInput(f"checkpoint {path}: {'; '.join(parts)}; {_prefix_advice(expected, tensors)}")
    integers = [
        name for name, own in expected.items() if own.is_floating_point() and not tensors[name].is_floating_point()
    ]
    if integers:
        kind = tensors[integers[0]].dtype
        raise BadInput(f"checkpoint {path}: {_first(integers)} of {kind}; expected floating point")
    fitting = tensors if own_image_size(model, tensors) is None else find_family(model).resized(model, tensors)
    misfits = [name for name, own in expected.items() if fitting[name].shape != own.shape]
    if misfits:
        name = misfits[0]
        raise BadInput(
            f"checkpoint {path}: {name} is {list(tensors[name].shape)}, the model has {list(expected[name].shape)} "
            f"({len(misfits)} tensors differ); check that it is of this model"
        )


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> tuple[str, ...]:
    """Copy all ``tensors``, and nothing else, into ``model``; return notes for the user on what was made to fit.

    Position embeddings of another image size are resized as timm does it.

    Raises:
        BadInput: as ``check_fit``.
    """
    check_fit(model, tensors, path)
    notes: tuple[str, ...] = ()
    if (size := own_image_size(model, tensors)) is not None:
        family = find_family(model)
        tensors = family.resized(model, tensors)
        sides = "x".join(map(str, dict.fromkeys(family.image_sides(model)[0])))
        notes = (f"position embeddings resized from {size} to {sides} pixels",)
    model.load_state_dict(dict(tensors))
    return notes


def _content(path: Path) -> Any:
    """What the file holds; its first bytes tell which kind it is."""
    with path.open("rb") as stream:
        head = stream.read(9)
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header <= path.stat().st_size:
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise BadInput(f"checkpoint {path}: not a readable safetensors file ({first_line(error, 120)})") from error
    _refuse_compressed(path)
    # Training scripts, DeiT's and timm's among them, leave their parsed arguments beside the weights: plain data.
    try:
        safe = torch.serialization.safe_globals([argparse.Namespace])
        # A stream has no suffix that torch could go by.
        with safe, warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")  # torch advises on pickle protocols; the errors below say what matters
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if head[:2] != b"PK" and head[:1] != b"\x80":
            raise BadInput(f"checkpoint {path}: not a readable safetensors or PyTorch file") from error
        raise BadInput(
            f"checkpoint {path}: not weights only; loading it could run code, so it is refused; "
            "save the state dict alone, best as .safetensors"
        ) from error
    except Exception as error:  # torch raises whatever a damaged file happens to trip: IndexError, EOFError, ...
        raise BadInput(f"checkpoint {path}: not a readable PyTorch file ({first_line(error, 120)})") from error


def _refuse_compressed(path: Path) -> None:
    """torch.save stores what it packs as it is; megabytes that somebody compressed may unpack to gigabytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):  # of torch's older format, or damaged: torch says what is wrong
        return
    if compressed:
        raise BadInput(f"checkpoint {path}: a compressed archive; expected one that torch.save wrote")


def _unwrapped(content: Any, *, ema: bool) -> tuple[dict[str, Tensor], list[str]]:
    notes: list[str] = []
    for _ in range(_DEPTH):
        if not isinstance(content, Mapping):
            break
        found = [key for key in (*_AVERAGED, *_RAW) if isinstance(content.get(key), Mapping)]
        usable = [key for key in found if ema or key not in _AVERAGED]
        if not usable:
            return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}, notes
        if found[0] in _AVERAGED and len(found) > 1:
            notes.append(
                f"took {usable[0]}, the averaged weights, as timm does; --no-ema takes the others"
                if ema
                else f"took {usable[0]}, not the averaged weights of {found[0]}"
            )
        content = content[usable[0]]
    return {}, notes


def _renamed(tensors: dict[str, Tensor], prefix: str, path: Path, notes: list[str]) -> dict[str, Tensor]:
    """The tensors under the names that the model has."""
    if prefix:
        kept = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if not kept:
            raise BadInput(f"checkpoint {path}: no name begins with {prefix!r}; names are {_first(list(tensors))}")
        if len(kept) < len(tensors):
            notes.append(f"left out {len(tensors) - len(kept)} tensors whose names do not begin with {prefix!r}")
        return kept
    extras = [name for name in tensors if name.startswith(_EXTRAS)]
    if extras and len(extras) < len(tensors):
        notes.append(f"left out {_first(extras)}, which a training module holds beside its model")
        tensors = {name: tensor for name, tensor in tensors.items() if name not in extras}
    while wrapper := next((one for one in _WRAPPERS if all(name.startswith(one) for name in tensors)), None):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _prefix_advice(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """The prefix under which most of the expected names are in a checkpoint, and the option that takes it off."""
    found = Counter(
        name.removesuffix(own) for name in tensors for own in expected if name.endswith(f".{own}")
    ).most_common(1)
    if found and found[0][1] > len(expected) / 2:
        return f"its names begin with {found[0][0]!r}: use --checkpoint-prefix {found[0][0]}"
    return "check that it is of this model"


def _first(names: list[str]) -> str:
    """The first three of ``names``, and how many there are."""
    listed = ", ".join(name[:80] for name in names[:3])
    return f"{listed}{', ...' if len(names) > 3 else ''} ({len(names)} tensor{'s' * (len(names) > 1)})"
