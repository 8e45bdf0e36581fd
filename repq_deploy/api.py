"""The way from a model to an engine, for Python as for the command line, whose commands are parsers before these.

``load_model`` -> ``load_images`` -> ``quantize`` -> ``export_onnx`` -> ``build_engine``: ``repq_deploy`` offers them.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repq_deploy.bits import BitWidths
from repq_deploy.calib_data.images import LoadedImages, load_sample
from repq_deploy.calib_data.preprocess import Preprocess
from repq_deploy.calib_data.sources import ImageSource, made_images
from repq_deploy.calibrate import calibrate
from repq_deploy.calibration.class_names import class_names_of
from repq_deploy.calibration.part import find_part, inputs_of_part
from repq_deploy.calibration.resume import WorkFolder
from repq_deploy.calibration.run import Report
from repq_deploy.calibration.synthetic import synthetic_images
from repq_deploy.devices import find_device
from repq_deploy.errors import BadInput, ValidationFailed
from repq_deploy.export.canonical import canonical_onnx, write_canonical
from repq_deploy.export.opsets import at_opset, check_opset, oldest_onnxruntime
from repq_deploy.export.prove_export import ExportAgreement, compare_export
from repq_deploy.inputs import ImageInput, layout_of
from repq_deploy.methods import Method
from repq_deploy.models.loading import FloatModel, of_own_module
from repq_deploy.quant import saved
from repq_deploy.quant.model import Provenance, QuantizedModel
from repq_deploy.quant.whole import WholeModel
from repq_deploy.system.files import atomic_output

__all__ = ["Exported", "export_onnx", "load_images", "quantize"]

logger = logging.getLogger(__name__)

#: Images that the proof of an export runs on.
PROOF_IMAGES = 4


def load_images(
    source: str | Path | ImageSource,
    model: FloatModel | Preprocess,
    *,
    count: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> LoadedImages:
    """Load images as ``model`` takes them, or make some.

    Args:
        source: a folder, flat or with one folder per class, an ``.npz`` file, ``demo:calib``, ``photos`` (crops of
            the photographs in this package), or ``synthetic`` (made from the model alone, which takes minutes).
        model: what says the preprocessing.
        count: how many, chosen with ``seed``; default: all, or 32 that are made.
        device: where images are made.
        report: called with the steps of making images that are done, and all there are.

    Raises:
        BadInput: too few images, or too many that cannot be read; or a model without known preprocessing.
    """
    preprocess = model.preprocess if isinstance(model, FloatModel) else model
    if preprocess is None:
        raise BadInput("the model's preprocessing is not known; pass a Preprocess in its place")
    if source == "synthetic":
        if not isinstance(model, FloatModel):
            raise BadInput("synthetic images are made from a model: expected what load_model gives, found a Preprocess")
        where = find_device(device) if isinstance(device, str) else device
        pixels = synthetic_images(
            model.network,
            (3, *preprocess.size),
            32 if count is None else count,
            classes=int(getattr(model.network, "num_classes", 0)),
            seed=seed,
            device=where,
            report=report,
        ).numpy()
        return LoadedImages(pixels, made_images("synthetic", pixels))
    return load_sample(source, preprocess, count=count, seed=seed)


def quantize(
    model: FloatModel | nn.Module,
    images: LoadedImages | Tensor | NDArray[np.float32],
    *,
    bits: str | BitWidths = "w8a8",
    preset: str = "deploy",
    method: str | Method = "best",
    softmax: str | None = None,
    part: str | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    classes: Sequence[str] = (),
    preprocess: Preprocess | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    inplace: bool = False,
    report: Report = lambda doing, done, total: None,
    work: WorkFolder | Path | None = None,
) -> QuantizedModel:
    """Quantize a model on a few images, which need no labels.

    Args:
        model: what ``load_model`` gives, a model of transformers or torchvision, or a module of your own that is of a
            supported family, or has such a part.
        images: normalized calibration images [N, 3, H, W]; those of ``load_images`` are recorded by their hash.
        bits: such as ``w6a6`` or ``w4a4,head=w8a8``, or ``BitWidths``.
        preset: ``deploy`` or ``paper``, where ``bits`` is text.
        method: a method's name, or one of your own.
        softmax: how attention probabilities are quantized; default: as the method does it.
        part: the path of a submodule of your own model, such as ``backbone.encoder``, or a pattern such as
            ``*.encoder``; it alone is quantized and returned. The whole model runs over ``images``, in float, to find
            out what the part is given. ``export_onnx`` can put it back.
        forward: with ``part``: runs the whole model on a batch; default: ``model(batch)``.
        classes: the names of the model's outputs, in order; they travel with the model. Default: those it came with, or
            those of the class folders that ``images`` are from, if the float model's answers show that they are its.
        preprocess: what made ``images``; it travels with the model, as ``repq-eval`` and an engine that takes bytes
            need it. Default: the one it came with.
        seed: for every random choice.
        device: where PyTorch computes; the result is on the CPU.
        inplace: use up ``model`` rather than a copy of it.
        report: called with what is being done, how much of it is done, and how much there is.
        work: a folder that keeps the state, so that the same call resumes a calibration that was killed. A
            ``WorkFolder`` is to be finished by the caller, a path is finished here.

    Raises:
        BadInput: a model, method or bits that are not supported, or images that are not finite.
    """
    sha256 = images.source.sha256 if isinstance(images, LoadedImages) else ""
    pixels = images.pixels if isinstance(images, LoadedImages) else images
    tensor = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
    known = preprocess or (model.preprocess if isinstance(model, FloatModel) else None)
    outputs_only = True
    if part is not None:
        whole = model.network if isinstance(model, FloatModel) else model
        path = find_part(whole, part)
        given = inputs_of_part(whole, path, tensor, forward)
        tensor, outputs_only = given.images, given.called
        if not outputs_only:
            logger.warning("part %s: other methods of it are called, so its residual stream is not rotated", path)
        model = of_own_module(whole.get_submodule(path))
    found = model if isinstance(model, FloatModel) else of_own_module(model)
    network = found.network if inplace else copy.deepcopy(found.network)
    folder = work if isinstance(work, WorkFolder) else WorkFolder(work)
    where = find_device(device) if isinstance(device, str) else device
    names = tuple(classes) or found.classes
    if not names and part is None and isinstance(images, LoadedImages):
        names = class_names_of(network.eval(), images, where)
    quantized = calibrate(
        network,
        found.spec,
        tensor,
        bits=BitWidths.parse(bits, preset=preset) if isinstance(bits, str) else bits,
        method=method,
        softmax=softmax,
        outputs_only=outputs_only,
        seed=seed,
        origin=Provenance(
            calibration_sha256=sha256,
            preprocess="" if known is None else known.to_json(),
            classes=names,
        ),
        report=report,
        work=folder,
        device=where,
    )
    if not isinstance(work, WorkFolder):
        folder.finish()
    return quantized


@dataclass(frozen=True)
class Exported:
    """A canonical ONNX file that was written: how its codes agree with PyTorch's, and which ONNX Runtime opens it."""

    path: Path
    agreement: ExportAgreement
    oldest_onnxruntime: str | None


def export_onnx(
    quantized: QuantizedModel,
    path: Path | str,
    images: LoadedImages | Tensor | NDArray[np.float32],
    *,
    whole: nn.Module | None = None,
    part: str | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    input: str = "float32",
    input_layout: str | None = None,
    opset: int = 21,
    save_quantized: Path | str | None = None,
    doing: Callable[[str], contextlib.AbstractContextManager[Any]] = lambda text: contextlib.nullcontext(),
) -> Exported:
    """Write ``quantized`` as a canonical ONNX file, proven to compute the same codes in ONNX Runtime.

    Args:
        path: the file to write, in one step; nothing is written where the proof fails.
        images: normalized images [N, 3, H, W] for the proof, of which the first four are used: of the whole model, if
            that is exported.
        whole: the model of which ``quantized`` is a ``part``, as ``quantize`` was given them: the file is of all of it,
            the rest in float, and its outputs are named after the keys and indexes in what ``whole`` gives.
        forward: with ``whole``: runs it on a batch; default: ``whole(batch)``.
        input: what images the file takes: "float32", normalized, or "uint8", which it normalizes itself, as the model's
            preprocessing says.
        input_layout: of bytes: "nhwc" [N, H, W, 3], the default, or "nchw".
        opset: 21, or 20 where all weights have more than 4 bits.
        save_quantized: also write the PyTorch model, as safetensors; either both files are written, or none.
        doing: called with what is being done; the context that it gives is entered meanwhile.

    Raises:
        BadInput: an opset that the weights do not allow, a path that cannot be written, a whole model whose outputs
            are not tensors with a row for each image, or bytes for a model whose preprocessing is not known.
        ValidationFailed: ONNX Runtime computes other codes.
    """
    check_opset(opset, quantized.bits.narrowest_weight)
    layout = layout_of(input, input_layout)
    pixels = images.pixels if isinstance(images, LoadedImages) else images
    tensor = (torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels)[:PROOF_IMAGES]
    exported = quantized
    if (whole is None) != (part is None):
        raise BadInput("export_onnx: whole and part belong together; give both, or neither")
    if whole is not None and part is not None:
        exported = WholeModel(quantized, whole, find_part(whole, part), tensor, forward)
    form = ImageInput((tensor.shape[2], tensor.shape[3]), input, layout)
    with doing("exporting to ONNX"):
        model = at_opset(canonical_onnx(exported, (3, *form.sides), form=form), opset)
    with doing("comparing codes with ONNX Runtime"):
        given = None
        if form.takes_pixels:
            known = Preprocess.from_json(exported.provenance.preprocess)
            bytes_of = known.denormalized(tensor.numpy())
            tensor, given = torch.from_numpy(known.normalized(bytes_of)), form.of_pixels(bytes_of)
        agreement = compare_export(exported, model, tensor, given=given)
    if failing := agreement.failing:
        raise ValidationFailed(
            f"{failing[0].site}: {failing[0].unexplained} of its {failing[0].codes} codes in ONNX Runtime differ from "
            f"PyTorch's by more than ties in rounding, expected none ({len(failing)} sites differ); nothing was "
            "written, please report this model"
        )
    for key, value in agreement.measures.entry().items():
        model.metadata_props.add(key=key, value=value)
    target = Path(path)
    with contextlib.ExitStack() as outputs:  # both files, or none
        if save_quantized is not None:
            saved.write(quantized, outputs.enter_context(atomic_output(Path(save_quantized))))
        write_canonical(model, target)
    return Exported(target, agreement, oldest_onnxruntime(model))
