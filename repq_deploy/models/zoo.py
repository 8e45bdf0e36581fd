"""From a model's name to a timm model: aliases, checkpoints, and the record of what is to be built.

A name is one of the papers' short names (``deit_s``), any timm id (``vit_small_patch14_dinov2``, with or without a
``.tag``), ``demo``, the model embedded in this package, or that of a model of another library, whose folder
``models.libraries.sources`` has found. Whether a model's family can be quantized is
``models.families``' question; this module only builds it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from repq_deploy.bounds import check_arguments, largest
from repq_deploy.errors import BadInput
from repq_deploy.models.architecture import ModelSpec, as_asked, build_architecture, build_timm
from repq_deploy.models.checkpoints import CheckpointFile, check_fit, load_into, own_image_size, read_checkpoint
from repq_deploy.models.hub import Report
from repq_deploy.models.libraries.folder import ModelFolder
from repq_deploy.models.libraries.twin import Twin
from repq_deploy.models.pretrained import downloaded
from repq_deploy.models.taps import Features
from repq_deploy.system.files import sha256_of

__all__ = [
    "ALIASES",
    "ModelSpec",
    "build_architecture",
    "create",
    "resolve",
    "spec_of_twin",
    "with_features",
    "with_tensors",
]

#: The papers' short names.
ALIASES = {
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "vit_t": "vit_tiny_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
    "vit_l": "vit_large_patch16_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
}


def resolve(
    name: str,
    *,
    checkpoint: CheckpointFile | ModelFolder | None = None,
    num_classes: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    pretrained: bool = True,
) -> ModelSpec:
    """Decide which model ``name`` means and where its weights come from. Nothing is downloaded; a checkpoint is read,
    and it fits the model.

    Args:
        checkpoint: a file with the weights, or the folder of another library's model, which says its sizes too; hashed
            into the spec.
        num_classes: at least 0; default: as many as the checkpoint's head has, else what timm says.
        img_size: pixels of both sides, or height and width; default: the checkpoint's, else timm's.
        pretrained: with neither a checkpoint nor this, weights are random.

    Raises:
        BadInput: an unknown name, a checkpoint that cannot be read, does not fit or has another number of classes, or
            weights that do not exist as asked for.
    """
    if num_classes is not None and not 0 <= num_classes <= largest("num_classes"):
        raise BadInput(f"--num-classes {num_classes}: expected 0 to {largest('num_classes')}")
    sides = [img_size] if isinstance(img_size, int) else list(img_size or ())
    if not all(1 <= side <= largest("img_size") for side in sides):
        raise BadInput(f"--img-size {'x'.join(map(str, sides))}: expected 1 to {largest('img_size')} pixels a side")
    # As JSON has it, so that a spec is what is read of it again.
    options: dict[str, Any] = {"num_classes": num_classes, "img_size": sides if len(sides) > 1 else img_size}
    asked = {key: value for key, value in options.items() if value is not None}
    if isinstance(checkpoint, ModelFolder):
        return _resolve_folder(checkpoint, asked, pretrained)
    if name == "demo":
        return _resolve_demo(asked, checkpoint, pretrained)
    timm_id = ALIASES.get(name, name)
    config = _pretrained_config(timm_id, name)
    if checkpoint is not None:
        tensors = read_checkpoint(checkpoint).tensors
        classes = _head_classes(config, tensors, checkpoint.path, num_classes)
        asked |= {} if classes is None else {"num_classes": classes}
        spec = ModelSpec(name, timm_id, asked, checkpoint.sha256(), "checkpoint")
        return _fitted(spec, tensors, checkpoint.path)
    if not pretrained:
        return ModelSpec(name, timm_id, asked, None, "random")
    if not config.has_weights:
        raise BadInput(f"model {name}: timm has no pretrained weights for it; use --checkpoint FILE or --no-pretrained")
    if num_classes not in (None, 0, config.num_classes):
        raise BadInput(
            f"model {name}: pretrained weights have {config.num_classes} classes, --num-classes says {num_classes}; "
            "use --checkpoint FILE of a fine-tuned model"
        )
    # The tag is timm's name for the weights: without it another timm version could mean others.
    return ModelSpec(name, f"{config.architecture}.{config.tag}" if config.tag else timm_id, asked, None, "pretrained")


def create(
    spec: ModelSpec,
    checkpoint: CheckpointFile | ModelFolder | None = None,
    seed: int = 0,
    *,
    note: Callable[[str], None] = lambda text: None,
    report: Report = lambda done, total: None,
) -> nn.Module:
    """Build the model of ``spec`` with its weights, in evaluation mode.

    Args:
        checkpoint: the file or folder that ``resolve`` was given, for a spec whose weights are a checkpoint's.
        seed: of random weights; the global random state is left as it was.
        note: called with what was taken from the checkpoint, left out or made to fit, unless that is all of it; and
            where the hub is out of reach and its cache was taken.
        report: called during a download with the bytes that are there and those in all, 0 where these are not known.

    Raises:
        BadInput: the checkpoint is missing, has changed or does not fit, the download fails, or timm cannot build the
            model with these arguments.
    """
    return as_asked(_create(spec, checkpoint, seed, note, report), spec)


def _create(
    spec: ModelSpec,
    checkpoint: CheckpointFile | ModelFolder | None,
    seed: int,
    note: Callable[[str], None],
    report: Report,
) -> nn.Module:
    """The whole model of ``spec``, with its head."""
    if spec.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_timm(spec, pretrained=False)
    if spec.weights == "pretrained":
        config = _pretrained_config(spec.timm_id, spec.name)
        return downloaded(config, spec.name, lambda: build_timm(spec, pretrained=True), report=report, note=note)
    if spec.weights == "demo":
        from repq_deploy.calib_data.demo import DEMO_WEIGHTS  # noqa: PLC0415 - the core needs no data package otherwise

        checkpoint = CheckpointFile(DEMO_WEIGHTS)
    if checkpoint is None:
        raise BadInput(f"model {spec.name}: its weights are a checkpoint's; use --checkpoint FILE")
    if (found := checkpoint.sha256()) != spec.checkpoint_sha256:
        raise BadInput(f"checkpoint {checkpoint.path}: SHA-256 is {found}, expected {spec.checkpoint_sha256}")
    if isinstance(checkpoint, ModelFolder):
        for text in checkpoint.notes():
            note(f"model {spec.name}: {text}")
        return with_tensors(spec, checkpoint.twin(), checkpoint.weights(), checkpoint.path)
    read = read_checkpoint(checkpoint)
    model = build_timm(spec, pretrained=False)
    for text in (*read.notes, *load_into(model, read.tensors, checkpoint.path)):
        note(f"checkpoint {checkpoint.path.name}: {text}")
    return model


def with_features(spec: ModelSpec, features: Features) -> ModelSpec:
    """``spec`` of the same model, which gives ``features``.

    Raises:
        BadInput: the model cannot give them.
    """
    with torch.device("meta"):
        build_architecture(found := replace(spec, features=features))
    return found


def with_tensors(spec: ModelSpec, twin: Twin, theirs: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The model of ``spec`` with the tensors of another library's model.

    Raises:
        BadInput: they are not those of such a model; ``path`` and the model's name are for the message.
    """
    model = build_timm(spec, pretrained=False)
    load_into(model, twin.tensors(theirs, model, f"model {spec.name}"), path)
    return model


def _resolve_folder(folder: ModelFolder, asked: Mapping[str, Any], pretrained: bool) -> ModelSpec:
    twin = folder.twin()
    if (classes := asked.get("num_classes")) not in (None, twin.kwargs["num_classes"]):
        raise BadInput(f"model {folder.name}: has {twin.kwargs['num_classes']} classes, --num-classes says {classes}")
    spec = spec_of_twin(folder.name, twin, asked)
    if not pretrained:
        return replace(spec, weights="random")
    spec = replace(spec, checkpoint_sha256=folder.sha256())
    with torch.device("meta"):
        model = build_timm(spec, pretrained=False)
    check_fit(model, twin.tensors(folder.weights(), model, f"model {folder.name}"), folder.path)
    return spec


def spec_of_twin(name: str, twin: Twin, asked: Mapping[str, Any]) -> ModelSpec:
    """The record of a model of another library, at the sizes that are ``asked`` for.

    Raises:
        BadInput: its sizes are out of bounds.
    """
    own = twin.kwargs["img_size"]
    size = [3, own, own] if isinstance(own, int) else [3, *own]
    overlay = {**twin.kwargs.get("pretrained_cfg_overlay", {}), "input_size": size}
    kwargs = {**twin.kwargs, **asked, "pretrained_cfg_overlay": overlay}
    try:
        check_arguments(kwargs)
    except ValueError as error:
        raise BadInput(f"model {name}: {error}") from error
    return ModelSpec(name, twin.timm_id, kwargs, None, "checkpoint")


def _fitted(spec: ModelSpec, tensors: Mapping[str, Tensor], checkpoint: Path) -> ModelSpec:
    """``spec`` at the image size of its checkpoint, unless it says one; the tensors fit it."""
    with torch.device("meta"):
        model = build_timm(spec, pretrained=False)
        if "img_size" not in spec.kwargs and (size := own_image_size(model, tensors)) is not None:
            spec = replace(spec, kwargs={**spec.kwargs, "img_size": size})
            model = build_timm(spec, pretrained=False)
    check_fit(model, tensors, checkpoint)
    return spec


def _resolve_demo(asked: dict[str, Any], checkpoint: CheckpointFile | None, pretrained: bool) -> ModelSpec:
    from repq_deploy.calib_data.demo import (  # noqa: PLC0415 - see create
        DEMO_ARCHITECTURE,
        DEMO_KWARGS,
        DEMO_MEAN,
        DEMO_STD,
        DEMO_WEIGHTS,
    )

    differing = [key for key, value in asked.items() if value != DEMO_KWARGS[key]]
    if differing:
        raise BadInput(f"model demo: {differing[0]} is {DEMO_KWARGS[differing[0]]}, found {asked[differing[0]]}")
    # Preprocessing travels with the model's configuration, as for every timm model.
    overlay = {"mean": [DEMO_MEAN] * 3, "std": [DEMO_STD] * 3, "crop_pct": 1.0, "num_classes": 10}
    kwargs = {**DEMO_KWARGS, "pretrained_cfg_overlay": overlay}
    if checkpoint is None and not pretrained:
        return ModelSpec("demo", DEMO_ARCHITECTURE, kwargs, None, "random")
    if checkpoint is None:
        return ModelSpec("demo", DEMO_ARCHITECTURE, kwargs, sha256_of(DEMO_WEIGHTS), "demo")
    spec = ModelSpec("demo", DEMO_ARCHITECTURE, kwargs, checkpoint.sha256(), "checkpoint")
    return _fitted(spec, read_checkpoint(checkpoint).tensors, checkpoint.path)


def _pretrained_config(timm_id: str, name: str) -> PretrainedCfg:
    """timm's record of a model: where its weights are, its classes, its head's name."""
    architecture, _, tag = timm_id.partition(".")
    if architecture not in timm.list_models():
        near = difflib.get_close_matches(name, [*ALIASES, "demo", *timm.list_models()], n=3)
        advice = f"near names: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise BadInput(f"model {name}: no such name or timm id; {advice}")
    try:
        return get_pretrained_cfg(timm_id) or PretrainedCfg(architecture=architecture)
    except RuntimeError as error:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
        raise BadInput(f"model {name}: no weights tagged {tag!r}; timm has {', '.join(tags) or 'none'}") from error


def _head_classes(
    config: PretrainedCfg, tensors: Mapping[str, Tensor], checkpoint: Path, num_classes: int | None
) -> int | None:
    """The number of classes of a checkpoint's head, checked against ``num_classes``; None where it has no head."""
    heads = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
    weight = next((tensors[f"{head}.weight"] for head in heads if f"{head}.weight" in tensors), None)
    if weight is None:
        return num_classes
    found = weight.shape[0]
    if num_classes not in (None, found):
        raise BadInput(
            f"checkpoint {checkpoint} has {found} classes, --num-classes says {num_classes}; use --num-classes {found}"
        )
    return found
