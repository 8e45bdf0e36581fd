"""One cell of the table of imagenet.py: a model quantized by one method at some bits, and its score.

What runs is the quantized model in PyTorch, whose codes ``repq-export`` proves to be those of the ONNX file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from commands import run_command

import repq_deploy
from repq_deploy import evaluation
from repq_deploy.api import load_images, quantize
from repq_deploy.bits import BitWidths
from repq_deploy.calib_data.classes import in_order_of
from repq_deploy.calib_data.images import choose
from repq_deploy.calib_data.sources import ImageSource, open_images
from repq_deploy.calibration.resume import WorkFolder
from repq_deploy.devices import find_device, predictor
from repq_deploy.errors import BadInput, RepqError
from repq_deploy.models.checkpoints import CheckpointFile
from repq_deploy.models.loading import FloatModel, build
from repq_deploy.models.zoo import resolve

__all__ = ["FLOAT", "Cell", "Setting", "images_of", "key_of", "made_of", "validation", "worker"]

#: As a method and as bits: the model as it is.
FLOAT = "float"
#: Where ``mixq`` at so many bits is an average, which ``repq-search`` spreads over the sites.
AVERAGES = {f"w{width}a{width}": width for width in range(3, 8)}


@dataclass(frozen=True)
class Cell:
    """``model`` is a short name of published.yaml."""

    model: str
    bits: str
    method: str
    seed: int


@dataclass(frozen=True)
class Setting:
    """What all cells share.

    ``timm`` and ``crops`` are timm's name and the share of the image that is cropped, by model; ``num_calib`` is the
    number of calibration images by method; ``devices`` are claimed by one process each, or one that all share.
    """

    timm: dict[str, str]
    crops: dict[str, float | None]
    num_calib: dict[str, int]
    val: str
    calib: str
    checkpoints: str | None
    preset: str
    batch_size: int
    devices: tuple[str, ...]
    claims: str
    work: str


@functools.lru_cache
def validation(folder: Path | str) -> ImageSource:
    """ImageNet's validation images, each labelled with its class's place among the 1000 outputs.

    Raises:
        BadInput: the images are in no folders, or in folders that are not named by ImageNet's WordNet ids.
    """
    from timm.data import ImageNetInfo  # noqa: PLC0415 - takes seconds

    source = open_images(folder)
    if not source.class_names:
        raise BadInput(
            f"--val {folder}: its images are in no class folders; expected n01440764, n01443537, ..., each with its "
            "images: the development kit says which image is of which"
        )
    return in_order_of(source, ImageNetInfo("imagenet-1k").label_names(), "ImageNet-1k's WordNet ids")


def images_of(setting: Setting, cell: Cell) -> ImageSource:
    """The calibration images of a cell: labels are not used, so any folder will do."""
    source = _opened(setting.calib)
    count = setting.num_calib[cell.method]
    if count > len(source):
        raise BadInput(f"--calib {setting.calib}: {len(source)} images, {cell.method} takes {count}; see --num-calib")
    return source.select(choose(source, count, cell.seed))


@functools.lru_cache
def _opened(folder: str) -> ImageSource:
    """More than a million training images take minutes to list."""
    return open_images(folder)


def made_of(setting: Setting, cell: Cell, images: ImageSource | None, val_digest: str) -> dict[str, Any]:
    """All that decides a cell's figures."""
    checkpoint = _checkpoint(setting, cell.model)
    return asdict(cell) | {
        "weights": setting.timm[cell.model] if checkpoint is None else checkpoint.sha256(),
        "crop": setting.crops[cell.model],
        "preset": setting.preset,
        "images": 0 if images is None else len(images),
        "calibration_sha256": "" if images is None else images.sha256,
        "validation": val_digest,
        "version": repq_deploy.__version__,
    }


def key_of(made: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def worker(payload: bytes) -> Callable[[Cell], dict[str, Any]]:
    """The function of ``search.pool.spread`` that does cells on a device of this process's own."""
    setting: Setting = pickle.loads(payload)  # noqa: S301 - made by the program that started this one
    device = _claimed(setting)

    def work(cell: Cell) -> dict[str, Any]:
        try:
            return _measure(setting, cell, device)
        except RepqError as error:
            return {"error": str(error)}
        except SystemExit as error:  # of a command that failed
            return {"error": str(error)}

    return work


def _claimed(setting: Setting) -> str:
    for device in setting.devices if len(setting.devices) > 1 else ():
        try:
            os.close(os.open(Path(setting.claims) / device.replace(":", "-"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return device
    return setting.devices[0]


def _checkpoint(setting: Setting, model: str) -> CheckpointFile | None:
    """``MODEL.safetensors``, ``.pth``, ``.pt`` or ``.bin`` of the folder of checkpoints."""
    if setting.checkpoints is None:
        return None
    for suffix in (".safetensors", ".pth", ".pt", ".bin"):
        if (path := Path(setting.checkpoints) / f"{model}{suffix}").is_file():
            return CheckpointFile(path)
    raise BadInput(
        f"--checkpoints {setting.checkpoints}: no {model}.safetensors, .pth, .pt or .bin; or leave {model} out"
    )


def _model(setting: Setting, cell: Cell) -> FloatModel:
    checkpoint = _checkpoint(setting, cell.model)
    model = build(resolve(setting.timm[cell.model], checkpoint=checkpoint), checkpoint)
    crop = setting.crops[cell.model]
    return model if crop is None else replace(model, preprocess=replace(model.preprocess, crop_pct=crop))


def _measure(setting: Setting, cell: Cell, device: str) -> dict[str, Any]:
    model = _model(setting, cell)
    started = time.monotonic()
    work = WorkFolder(Path(setting.work))
    network = model.network
    if cell.method != FLOAT:
        images = load_images(images_of(setting, cell), model)
        bits = _searched(setting, cell) if cell.method == "mixq" and cell.bits in AVERAGES else cell.bits
        widths = BitWidths.parse(bits, preset=setting.preset)
        network = quantize(
            model, images, bits=widths, method=cell.method, seed=cell.seed, device=device, inplace=True, work=work
        )
    calibrated = time.monotonic()
    source = validation(setting.val)
    found = evaluation.evaluate(
        evaluation.Target(cell.model, cell.bits, predictor(network, find_device(device)), model.preprocess, 1000),
        source,
        batch_size=setting.batch_size,
    ).target
    work.finish()
    return {
        "top1": found.top1,
        "standard_error": found.top1_standard_error,
        "top5": found.top5,
        "validation_images": found.images,
        "preprocess": asdict(model.preprocess),
        "device": device,
        "calibration_s": calibrated - started,
        "evaluation_s": time.monotonic() - calibrated,
    }


def _searched(setting: Setting, cell: Cell) -> str:
    """The bits that ``repq-search`` gives each site, of so many on average."""
    average = AVERAGES[cell.bits]
    choices = ",".join(str(width) for width in (*range(average - 1, min(average + 3, 8)), 8))
    checkpoint = _checkpoint(setting, cell.model)
    weights = () if checkpoint is None else ("--checkpoint", str(checkpoint.path))
    count = ("--num-calib", str(setting.num_calib[cell.method]), "--seed", str(cell.seed))
    with tempfile.TemporaryDirectory() as folder:
        recipe = str(Path(folder) / "recipe.yaml")
        budget = ("--avg-bits", str(average), "--choices", choices, "--preset", setting.preset, "--recipe", recipe)
        kept = ("--work-dir", str(Path(setting.work) / "search"), "--calib-data", setting.calib)
        ran = run_command("repq-search", setting.timm[cell.model], *weights, *count, *budget, *kept)
    bits: str = ran.result["bits"]
    return bits
