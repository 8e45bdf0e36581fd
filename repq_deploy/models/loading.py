"""A float model ready to be quantized: the network, the record that builds it again, and its preprocessing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from repq_deploy.calib_data.preprocess import Preprocess
from repq_deploy.errors import BadInput
from repq_deploy.models.checkpoints import CheckpointFile
from repq_deploy.models.families import find_family
from repq_deploy.models.hub import Report
from repq_deploy.models.libraries import hf, torchvision
from repq_deploy.models.libraries.folder import ModelFolder
from repq_deploy.models.libraries.sources import find_weights
from repq_deploy.models.preprocessing import preprocess_of
from repq_deploy.models.taps import Features, Tapped, tapped
from repq_deploy.models.timm_parts import getter_features, is_getter
from repq_deploy.models.zoo import ModelSpec, create, resolve, spec_of_twin, with_features, with_tensors

__all__ = ["FloatModel", "is_getter", "load_model", "of_own_module"]


@dataclass(frozen=True, eq=False)
class FloatModel:
    """``network`` takes normalized images [N, 3, H, W] as ``preprocess`` makes them; None where that is not known.
    ``classes``: the names of its outputs, in order; empty where they are not known."""

    network: nn.Module
    spec: ModelSpec
    preprocess: Preprocess | None
    classes: tuple[str, ...] = ()


def load_model(
    name: str | Path | nn.Module,
    *,
    checkpoint: CheckpointFile | Path | str | None = None,
    num_classes: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    pretrained: bool = True,
    features: Features | Sequence[int] | None = None,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
    report: Report = lambda done, total: None,
) -> FloatModel:
    """Build the model called ``name``, with its weights.

    Args:
        name: a short name (``deit_s``), a timm id, or ``demo``; a folder or hub id (``org/name``) of a model of Hugging
            Face's transformers; or a model object of transformers or torchvision, in which case only ``img_size`` may
            be given, and nothing is known of its preprocessing.
        checkpoint: a file with your own weights: safetensors, or one of ``torch.save`` that holds tensors only.
        num_classes: default: as many as the checkpoint's head has, otherwise timm's.
        img_size: pixels of both sides, or height and width; default: the checkpoint's, otherwise timm's.
        pretrained: take timm's weights where there is no checkpoint; otherwise they are random.
        features: indexes of blocks, such as ``(2, 5, 8, 11)``, or ``Features``: the model gives a list of what stands
            behind them, tokens or maps, in place of logits.
        seed: of random weights.
        note: called with what was taken of the checkpoint, left out or made to fit.
        report: called during a download with the bytes that are there and those in all, 0 where these are not known.

    Raises:
        BadInput: an unknown name, weights that do not fit or cannot be read, features that the model cannot give, or a
            download that fails.
    """
    if isinstance(name, nn.Module):
        if checkpoint is not None or num_classes is not None or not pretrained:
            raise BadInput(f"{type(name).__name__}: a model object has its own weights and classes; give img_size only")
        return of_own_module(name, img_size=img_size)
    file = CheckpointFile(Path(checkpoint)) if isinstance(checkpoint, Path | str) else checkpoint
    weights = find_weights(str(name), file, pretrained=pretrained, note=note, report=report)
    spec = resolve(str(name), checkpoint=weights, num_classes=num_classes, img_size=img_size, pretrained=pretrained)
    if features is not None:
        asked = features if isinstance(features, Features) else Features(tuple(features))
        spec = with_features(spec, asked)
    return build(spec, weights, seed=seed, note=note, report=report)


def build(
    spec: ModelSpec,
    checkpoint: CheckpointFile | ModelFolder | None = None,
    *,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
    report: Report = lambda done, total: None,
) -> FloatModel:
    """The model of a ``spec`` that ``zoo.resolve`` has given, with the weights that it names."""
    network = create(spec, checkpoint, seed, note=note, report=report)
    classes: tuple[str, ...] = ()
    if isinstance(checkpoint, ModelFolder) and spec.features is None:
        classes = checkpoint.twin().classes
    return FloatModel(network, spec, preprocess_of(network), classes)


def of_own_module(network: nn.Module, *, img_size: int | tuple[int, int] | None = None) -> FloatModel:
    """Somebody's own module of a supported family, or of transformers or torchvision, which becomes the timm model of
    the same mathematics. Nothing is known of its preprocessing, and no record builds a module of a supported family.

    A feature extractor of timm's (``is_getter``) becomes a tapped copy of its encoder.

    Args:
        img_size: pixels of both sides, or height and width, of a model of another library; default: its own.

    Raises:
        BadInput: a model of another library that is not supported.
    """
    if hf.is_model(network) or torchvision.is_model(network):
        twin = hf.twin_of_model(network) if hf.is_model(network) else torchvision.twin_of_model(network, img_size)
        name = type(network).__name__
        size = {} if img_size is None else {"img_size": img_size if isinstance(img_size, int) else list(img_size)}
        spec = spec_of_twin(name, twin, size)
        theirs = {key: tensor.detach().cpu().float() for key, tensor in network.state_dict().items()}
        return FloatModel(with_tensors(spec, twin, theirs, Path(name)), spec, None, twin.classes)
    if not is_getter(network):
        features = network.features if isinstance(network, Tapped) else None
        return FloatModel(network, ModelSpec(type(network).__name__, "", {}, None, "own", features), None)
    encoder, features = getter_features(network)
    encoder = copy.deepcopy(encoder)
    spec = ModelSpec(type(encoder).__name__, "", {}, None, "own", features)
    return FloatModel(tapped(encoder, find_family(encoder), features), spec, None)
