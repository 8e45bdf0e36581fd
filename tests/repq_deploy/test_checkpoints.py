"""Reading checkpoints: every layout people save, and one clear line for each way a file can be wrong."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from repq_deploy.checkpoints import load_into, read_checkpoint
from repq_deploy.errors import BadInput
from repq_deploy.models import build_architecture
from tests.conftest import SPECS

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "steps": torch.tensor(7)}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_architecture(SPECS["vit"])


class _Code:
    """Unpickling this would call ``print``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code ran",)


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3},
        {"model": {"state_dict": TENSORS}},
        {"model": {f"module.{name}": tensor for name, tensor in TENSORS.items()}, "args": argparse.Namespace(lr=0.1)},
    ],
    ids=["plain", "state_dict", "nested", "module and args"],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_pickled_layouts(tmp_path: Path, content: dict[str, Any], suffix: str):
    torch.save(content, tmp_path / f"x{suffix}")
    read = read_checkpoint(tmp_path / f"x{suffix}")
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_becomes_float32(tmp_path: Path, dtype: torch.dtype):
    save_file({"a": torch.tensor([1.5], dtype=dtype), "n": torch.tensor([3])}, tmp_path / "x.safetensors")
    read = read_checkpoint(tmp_path / "x.safetensors")
    assert read["a"].dtype == torch.float32
    assert read["a"].item() == 1.5
    assert read["n"].dtype == torch.int64


def test_missing_file(tmp_path: Path):
    with pytest.raises(BadInput, match="no such file"):
        read_checkpoint(tmp_path / "x.pt")


def test_unknown_suffix(tmp_path: Path):
    (tmp_path / "x.npz").touch()
    with pytest.raises(BadInput, match=r"\.npz.*expected one of \.safetensors"):
        read_checkpoint(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80garbage" * 10, b"PK\x03\x04" + bytes(50)])
def test_damaged_file(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=r"not a readable") as caught:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_truncated_safetensors(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BadInput, match="not a readable safetensors file"):
        read_checkpoint(path)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_is_not_run(tmp_path: Path, save: Any, capsys: pytest.CaptureFixture[str]):
    save({"model": TENSORS, "extra": _Code()}, tmp_path / "x.pt")
    with pytest.raises(BadInput, match="could run code"):
        read_checkpoint(tmp_path / "x.pt")
    assert capsys.readouterr().out == ""


def test_no_tensors(tmp_path: Path):
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(BadInput, match="holds no tensors"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(tmp_path: Path, value: float):
    save_file(TENSORS | {"a.bias": torch.tensor([1, value])}, tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match=r"NaN or infinity in a\.bias \(1 tensor\)"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_load_into(model: nn.Module):
    tensors = {name: torch.full_like(tensor, 0.25) for name, tensor in model.state_dict().items()}
    load_into(model, tensors, Path("x.pt"))
    assert all((tensor == 0.25).all() for tensor in model.state_dict().values())


def test_missing_and_unexpected(model: nn.Module):
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("blocks.1.")}
    with pytest.raises(BadInput, match=r"missing (blocks\.1\.\S+, ){3}\.\.\. \(12 tensors\); unexpected extra \(1 ten"):
        load_into(model, tensors | {"extra": torch.ones(1)}, Path("x.pt"))


def test_another_shape(model: nn.Module):
    with pytest.raises(BadInput, match=r"norm\.weight is \[7\], the model has \[48\] \(1 tensors differ\)"):
        load_into(model, model.state_dict() | {"norm.weight": torch.ones(7)}, Path("x.pt"))


@pytest.mark.parametrize(("positions", "advice"), [(1 + 49, "use --img-size 56"), (1 + 50, "check the model")])
def test_another_image_size(model: nn.Module, positions: int, advice: str):
    tensors = model.state_dict() | {"pos_embed": torch.zeros(1, positions, 48)}
    with pytest.raises(BadInput, match=rf"{positions} positions, the model at 32x32 pixels has 17; {advice}"):
        load_into(model, tensors, Path("x.pt"))
