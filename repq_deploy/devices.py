"""Where torch computes: finds the device that was asked for, and moves models to it for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.outputs import joined

__all__ = ["CPU", "device_of", "find_device", "float32_products", "on_device", "predictor"]

CPU = torch.device("cpu")


def find_device(name: str) -> torch.device:
    """The device called ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: the first GPU that torch can use, else the CPU.

    Raises:
        BadInput: another name.
        BackendMissing: torch can use no such GPU here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, index = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (colon and not (index.isascii() and index.isdigit() and len(index) < 4))):
        raise BadInput(f"--device {name[:80]!r}: expected cpu, cuda, cuda:1 (a number) or auto")
    if kind == "cpu":
        return CPU
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count <= int(index or 0):
        raise BackendMissing(
            f"--device {name}: torch {torch.__version__} finds {count or 'no'} CUDA device{'s' * (count > 1)} here; "
            "use --device cpu"
        )
    return torch.device(kind, int(index or 0))


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are, all in one place; the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), CPU)


@contextmanager
def float32_products() -> Iterator[None]:
    """Make a GPU multiply float32 numbers as float32: TF32, which it may use instead, keeps 10 bits of each factor."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def on_device(device: torch.device, *models: nn.Module) -> Iterator[None]:
    """Move ``models`` to ``device`` for the block, with products in float32, and back to the CPU afterwards.

    Raises:
        BadInput: the device has too little memory.
    """
    try:
        for model in models:
            model.to(device)
        with float32_products():
            yield
    except torch.cuda.OutOfMemoryError as error:
        raise BadInput(f"--device {device}: out of memory; use --device cpu, or fewer images") from error
    finally:
        for model in models:
            model.to(CPU)


def predictor(
    model: nn.Module, device: torch.device | None = None
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """``model`` as a function of images and of arrays, with several outputs ``joined``; it is moved to ``device``, the
    CPU where none is given."""
    where = device or CPU
    model.to(where)

    @torch.inference_mode()
    @float32_products()
    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = joined(model(torch.from_numpy(images).to(where))).cpu().numpy()
        return outputs

    return predict
