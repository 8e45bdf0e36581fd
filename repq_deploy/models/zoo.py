"""From a model's name to a timm model: aliases, checkpoints, and the record of what was built.

A name is one of the papers' short names (``deit_s``), any timm id (``vit_small_patch14_dinov2``, with or without a
``.tag``), or ``demo``, the model embedded in this package. Whether a model's family can be quantized is
``models.families``' question; this module only builds it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from repq_deploy.bounds import check_arguments, largest
from repq_deploy.errors import BadInput
from repq_deploy.models.checkpoints import CheckpointFile, check_fit, load_into, own_image_size, read_checkpoint
from repq_deploy.models.families import find_family, known_family
from repq_deploy.models.hub import Report
from repq_deploy.models.pretrained import downloaded
from repq_deploy.models.taps import Features, tapped
from repq_deploy.records import decode
from repq_deploy.system.files import sha256_of

__all__ = ["ALIASES", "ModelSpec", "build_architecture", "create", "resolve", "with_features"]

#: "own": of a module that somebody else has built; no record of ours builds it again.
Weights = Literal["pretrained", "checkpoint", "random", "demo", "own"]

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


@dataclass(frozen=True)
class ModelSpec:
    """What is needed to build a model again: JSON-serializable, no paths in it.

    ``name`` is what the user said, ``kwargs`` the arguments of ``timm.create_model`` beside the id. A model with
    ``features`` gives these in place of logits.
    """

    name: str
    timm_id: str
    kwargs: dict[str, Any]
    checkpoint_sha256: str | None = None
    weights: Weights = "pretrained"
    features: Features | None = None

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        if self.features is None:
            del found["features"]
        return found

    @classmethod
    def from_dict(cls, data: Any) -> ModelSpec:
        """The inverse of ``to_dict``, for data of a file that somebody may have changed. It can only name one of timm's
        own models and set its sizes.

        Raises:
            ValueError: a field is missing, unknown or of another type; a model that timm does not have, or an argument
                that is not one of those we set, or is out of bounds.
        """
        spec: ModelSpec = decode(cls, data, "model record")
        if spec.timm_id.partition(".")[0] not in timm.list_models():
            raise ValueError(f"model record: timm_id {spec.timm_id[:60]!r} is no model of timm's own")
        check_arguments(spec.kwargs)
        return spec


def resolve(
    name: str,
    *,
    checkpoint: CheckpointFile | None = None,
    num_classes: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    pretrained: bool = True,
) -> ModelSpec:
    """Decide which model ``name`` means and where its weights come from. Nothing is downloaded; a checkpoint is read,
    and it fits the model.

    Args:
        checkpoint: a file with the weights; hashed into the spec.
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
    checkpoint: CheckpointFile | None = None,
    seed: int = 0,
    *,
    note: Callable[[str], None] = lambda text: None,
    report: Report = lambda done, total: None,
) -> nn.Module:
    """Build the model of ``spec`` with its weights, in evaluation mode.

    Args:
        checkpoint: the file that ``resolve`` was given, for a spec whose weights are a checkpoint's.
        seed: of random weights; the global random state is left as it was.
        note: called with what was taken from the checkpoint, left out or made to fit, unless that is all of it; and
            where the hub is out of reach and its cache was taken.
        report: called during a download with the bytes that are there and those in all, 0 where these are not known.

    Raises:
        BadInput: the checkpoint is missing, has changed or does not fit, the download fails, or timm cannot build the
            model with these arguments.
    """
    return _tapped(_create(spec, checkpoint, seed, note, report), spec)


def _create(
    spec: ModelSpec,
    checkpoint: CheckpointFile | None,
    seed: int,
    note: Callable[[str], None],
    report: Report,
) -> nn.Module:
    """The whole model of ``spec``, with its head."""
    if spec.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _build(spec, pretrained=False)
    if spec.weights == "pretrained":
        config = _pretrained_config(spec.timm_id, spec.name)
        return downloaded(config, spec.name, lambda: _build(spec, pretrained=True), report=report, note=note)
    if spec.weights == "demo":
        from repq_deploy.calib_data.demo import DEMO_WEIGHTS  # noqa: PLC0415 - the core needs no data package otherwise

        checkpoint = CheckpointFile(DEMO_WEIGHTS)
    if checkpoint is None:
        raise BadInput(f"model {spec.name}: its weights are a checkpoint's; use --checkpoint FILE")
    read = read_checkpoint(checkpoint)
    if (found := checkpoint.sha256()) != spec.checkpoint_sha256:
        raise BadInput(f"checkpoint {checkpoint.path}: SHA-256 is {found}, expected {spec.checkpoint_sha256}")
    model = _build(spec, pretrained=False)
    for text in (*read.notes, *load_into(model, read.tensors, checkpoint.path)):
        note(f"checkpoint {checkpoint.path.name}: {text}")
    return model


def build_architecture(spec: ModelSpec) -> nn.Module:
    """The model of ``spec`` with random weights, in evaluation mode: nothing is read or downloaded."""
    return _tapped(_build(spec, pretrained=False), spec)


def with_features(spec: ModelSpec, features: Features) -> ModelSpec:
    """``spec`` of the same model, which gives ``features``.

    Raises:
        BadInput: the model cannot give them.
    """
    with torch.device("meta"):
        build_architecture(found := replace(spec, features=features))
    return found


def _tapped(model: nn.Module, spec: ModelSpec) -> nn.Module:
    return model if spec.features is None else tapped(model, find_family(model), spec.features)


def _fitted(spec: ModelSpec, tensors: Mapping[str, Tensor], checkpoint: Path) -> ModelSpec:
    """``spec`` at the image size of its checkpoint, unless it says one; the tensors fit it."""
    with torch.device("meta"):
        model = _build(spec, pretrained=False)
        if "img_size" not in spec.kwargs and (size := own_image_size(model, tensors)) is not None:
            spec = replace(spec, kwargs={**spec.kwargs, "img_size": size})
            model = _build(spec, pretrained=False)
    check_fit(model, tensors, checkpoint)
    return spec


def _build(spec: ModelSpec, *, pretrained: bool) -> nn.Module:
    try:
        model = timm.create_model(spec.timm_id, pretrained=pretrained, **spec.kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        arguments = ", ".join(f"{key}={value}" for key, value in spec.kwargs.items())
        reason = str(error) or "it does not say why; sides of images have to be multiples of the patch's"
        raise BadInput(
            f"model {spec.name}: timm cannot build it with {arguments or 'its defaults'}: {reason}"
        ) from error
    if (family := known_family(model)) is not None:
        for pixels, patch in zip(*family.image_sides(model), strict=True):
            if pixels % patch:
                raise BadInput(f"model {spec.name}: --img-size {pixels} is not a multiple of its patch size {patch}")
    return model.eval()


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
