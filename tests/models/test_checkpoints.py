"""Reading checkpoints: every layout people save, and one clear line for each way a file can be wrong."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from repq_deploy.errors import BadInput
from repq_deploy.models.checkpoints import CheckpointFile, check_fit, load_into, own_image_size
from repq_deploy.models.checkpoints import read_checkpoint as read_file
from repq_deploy.models.zoo import build_architecture
from repq_deploy.system.files import sha256_of
from tests.conftest import SPECS

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "steps": torch.tensor(7)}


def read_checkpoint(path: Path, **which: Any) -> dict[str, torch.Tensor]:
    return read_file(CheckpointFile(path, **which)).tensors


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
        {f"module._orig_mod.{name}": tensor for name, tensor in TENSORS.items()},
        {"state_dict": {f"model.{name}": tensor for name, tensor in TENSORS.items()} | {"criterion.w": torch.ones(3)}},
    ],
    ids=["plain", "state_dict", "nested", "module and args", "compiled", "lightning"],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth.tar", ".ckpt", ""])
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


def test_the_content_decides_not_the_suffix(tmp_path: Path):
    save_file(TENSORS, tmp_path / "x.pt")
    torch.save(TENSORS, tmp_path / "x.safetensors")
    assert read_checkpoint(tmp_path / "x.pt").keys() == read_checkpoint(tmp_path / "x.safetensors").keys()


def test_averaged_weights_are_taken_as_timm_does(tmp_path: Path):
    averaged = {name: tensor + 1 for name, tensor in TENSORS.items()}
    torch.save({"state_dict": TENSORS, "state_dict_ema": averaged, "epoch": 3}, tmp_path / "x.pth.tar")
    read = read_file(CheckpointFile(tmp_path / "x.pth.tar"))
    assert torch.equal(read.tensors["a.bias"], averaged["a.bias"])
    assert read.notes == ("took state_dict_ema, the averaged weights, as timm does; --no-ema takes the others",)
    raw = read_file(CheckpointFile(tmp_path / "x.pth.tar", ema=False))
    assert torch.equal(raw.tensors["a.bias"], TENSORS["a.bias"])
    assert raw.notes == ("took state_dict, not the averaged weights of state_dict_ema",)


def test_other_weights_of_a_file_have_another_hash(tmp_path: Path):
    torch.save(TENSORS, tmp_path / "x.pt")
    files = [CheckpointFile(tmp_path / "x.pt", **which) for which in ({}, {"ema": False}, {"prefix": "a."})]
    assert len({file.sha256() for file in files}) == 3
    assert files[0].sha256() == sha256_of(tmp_path / "x.pt")


def test_a_prefix_of_ones_own_is_named_and_taken_off(tmp_path: Path, model: nn.Module):
    mine = {f"net.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(mine | {"net.decoder.w": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(BadInput, match=r"names begin with 'net\.backbone\.': use --checkpoint-prefix net\.backbone\.$"):
        check_fit(model, read_checkpoint(tmp_path / "x.pt"), tmp_path / "x.pt")
    read = read_file(CheckpointFile(tmp_path / "x.pt", prefix="net.backbone."))
    check_fit(model, read.tensors, tmp_path / "x.pt")
    assert read.notes == ("left out 1 tensors whose names do not begin with 'net.backbone.'",)
    with pytest.raises(BadInput, match=r"no name begins with 'nothing\.'; names are net\.backbone"):
        read_checkpoint(tmp_path / "x.pt", prefix="nothing.")


def test_what_a_training_module_holds_beside_its_model_is_said(tmp_path: Path):
    extras = {"criterion.weight": torch.ones(3), "val_metrics.total": torch.tensor(1.0)}
    torch.save({"state_dict": {f"model.{name}": one for name, one in TENSORS.items()} | extras}, tmp_path / "x.ckpt")
    (note,) = read_file(CheckpointFile(tmp_path / "x.ckpt")).notes
    assert note == (
        "left out criterion.weight, val_metrics.total (2 tensors), which a training module holds beside its model"
    )


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.ones(3, device="meta")])
def test_tensors_that_cannot_be_weights(tmp_path: Path, tensor: torch.Tensor):
    torch.save({"a": torch.ones(2), "b": tensor}, tmp_path / "x.pt")
    with pytest.raises(BadInput, match=r"sparse tensors or tensors without data, b \(1 tensor\)"):
        read_checkpoint(tmp_path / "x.pt")


def test_integers_are_no_weights(model: nn.Module):
    tensors = {name: tensor.to(torch.int64) for name, tensor in model.state_dict().items()}
    with pytest.raises(BadInput, match=r"of torch\.int64; expected floating point"):
        check_fit(model, tensors, Path("x.pt"))


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


def test_positions_of_another_image_size_are_resized_as_timm_does_it(model: nn.Module):
    positions = torch.randn(1, 1 + 49, 48, generator=torch.Generator().manual_seed(0))
    tensors = model.state_dict() | {"pos_embed": positions}
    assert own_image_size(model, tensors) == 56
    assert own_image_size(model, model.state_dict()) is None
    assert load_into(model, tensors, Path("x.pt")) == ("position embeddings resized from 56 to 32 pixels",)
    expected = resample_abs_pos_embed(positions, [4, 4], num_prefix_tokens=1)
    assert torch.equal(model.pos_embed.data, expected)


def test_positions_that_are_of_no_square_are_refused(model: nn.Module):
    tensors = model.state_dict() | {"pos_embed": torch.zeros(1, 1 + 50, 48)}
    with pytest.raises(BadInput, match=r"pos_embed is \[1, 51, 48\], the model has \[1, 17, 48\]"):
        load_into(model, tensors, Path("x.pt"))
