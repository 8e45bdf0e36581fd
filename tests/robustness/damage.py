"""Ways to damage a folder of right inputs, one thing each."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors import safe_open
from safetensors.torch import save_file

Prepare = Callable[[Path], object]


def text_file(name: str, text: str) -> Prepare:
    return lambda folder: void((folder / name).write_text(text))


def bytes_file(name: str, data: bytes) -> Prepare:
    return lambda folder: void((folder / name).write_bytes(data))


def void(_: object) -> None:
    """Drop a result."""


def manifest(change: Callable[[dict], None]) -> Prepare:
    def prepare(folder: Path) -> None:
        manifest = json.loads((folder / "m.json").read_text())
        change(manifest)
        (folder / "m.json").write_text(json.dumps(manifest))

    return prepare


def graph(change: Callable[[onnx.ModelProto], None]) -> Prepare:
    def prepare(folder: Path) -> None:
        model = onnx.load(folder / "m.onnx")
        change(model)
        onnx.save(model, folder / "m.onnx")

    return prepare


def npz_bomb(folder: Path) -> None:
    """4 GB of zeros in a file of 4 MB."""
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (5_000_000, 28, 28)}
    np.lib.format.write_array_header_1_0(header, shape)
    with (
        zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(header.getvalue())
        for _ in range(0, 5_000_000 * 784, 2**22):
            stream.write(bytes(2**22))


def zip_bomb(folder: Path) -> None:
    """A checkpoint of torch.save, compressed: its 2.6 GB of zeros take 3 MB."""
    torch.save({"a": torch.zeros(1000)}, folder / "plain.pt")
    with (
        zipfile.ZipFile(folder / "plain.pt") as source,
        zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for entry in source.infolist():
            data = source.read(entry)
            if not entry.filename.endswith("/data/0"):
                archive.writestr(entry.filename, data.replace(b"M\xe8\x03", b"J\x00\x00\x00\x28"))
                continue
            with archive.open(entry.filename, "w", force_zip64=True) as stream:
                for _ in range(640):
                    stream.write(bytes(2**22))
    (folder / "plain.pt").unlink()


def deep(name: str, count: int = 100_000) -> Prepare:
    return text_file(name, "[" * count + "]" * count)


def saved_model(change: Callable[[dict], None]) -> Prepare:
    def prepare(folder: Path) -> None:
        with safe_open(folder / "q.safetensors", framework="pt") as opened:
            record = json.loads(opened.metadata()["repq"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        change(record)
        save_file(tensors, folder / "q.safetensors", metadata={"repq": json.dumps(record)})

    return prepare


def fifo(folder: Path) -> None:
    os.mkfifo(folder / "flat" / "x.png")


def loop(folder: Path) -> None:
    """A link to itself: like a folder without permission, it cannot be looked into, by root either."""
    (folder / "loop").symlink_to(folder / "loop")


def checkpoint(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Prepare:
    def prepare(folder: Path) -> None:
        with safe_open(folder / "w.safetensors", framework="pt") as opened:
            tensors: dict = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        changed = change(tensors)
        content = tensors if changed is None else changed
        if name.endswith(".safetensors"):
            save_file(content, folder / name)  # type: ignore[arg-type]
        else:
            torch.save(content, folder / name)

    return prepare


def endless(_: object) -> dict:
    content: dict = {}
    content["model"] = content
    return content


def reverse(nodes: list) -> None:
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del nodes[:]
    nodes.extend(reversed(copied))


def external(model: onnx.ModelProto, location: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value


def damaged_engine(folder: Path) -> None:
    data = bytearray((folder / "m.engine").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "m.engine").write_bytes(data)
