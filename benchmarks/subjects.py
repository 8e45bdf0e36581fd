"""The files that speed.py and peer_accuracy.py compare: the float model, ours and the peers', made once and kept."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from commands import run_command

__all__ = ["BACKENDS", "OURS", "PEERS", "Maker", "Ours", "write_images"]

BACKENDS = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Ours:
    """A file of ours: options of ``repq-export``, and the kind of CPU that its engine is built for."""

    export: tuple[str, ...]
    cpu: str = "any"


#: By label, the same for every runtime. Attention probabilities are quantized as the default method does: uniformly
#: from 6 bits on, on a logarithmic grid below.
OURS = {
    "ours w8a8, float attention": Ours(("--bits", "w8a8", "--softmax", "float"), "vnni"),
    "ours w8a8": Ours(("--bits", "w8a8"), "vnni"),
    "ours w8a8, any CPU": Ours(("--bits", "w8a8")),
    "ours w7a8": Ours(("--bits", "w7a8")),
    "ours w4a4": Ours(("--bits", "w4a4")),
}

_STATIC = ("quantize_static", ".onnx")
#: A script in peers/, its output's suffix, and its options, by label and backend. Signed activations are left out: of
#: products only, ONNX Runtime 1.31 refuses the file ("output_dtype INT8 does not match y_zero_point type UINT8").
PEERS = {
    "onnxruntime": {
        "quantize_static, products only": (*_STATIC, ("--activations", "quint8", "--ops", "products")),
        "quantize_static, all operators": (*_STATIC, ("--activations", "quint8", "--ops", "all")),
        "quantize_static, unsigned weights": (
            *_STATIC,
            ("--activations", "quint8", "--ops", "all", "--weights", "quint8"),
        ),
        "quantize_static, 7-bit weights": (*_STATIC, ("--activations", "quint8", "--ops", "all", "--reduce-range")),
        "Model Optimizer": ("modelopt_ptq", ".onnx", ()),
    },
    "openvino": {"NNCF": ("nncf_ptq", ".xml", ())},
}


@dataclass(frozen=True)
class Maker:
    """Makes files of one model in ``folder``.

    ``model`` tells ``repq-export`` the model and its weights, ``calibration`` how ours are calibrated. ``images`` are
    what the peers calibrate on: an .npz of preprocessed images. ``peers`` is the Python of the environment that
    peers/install.sh makes, None for no peers.
    """

    name: str
    model: tuple[str, ...]
    calibration: tuple[str, ...]
    images: Path
    folder: Path
    peers: str | None

    @property
    def stem(self) -> str:
        """The model's name, and a hash of its weights and calibration: what was made of others is not taken."""
        made_of = repr((self.model, self.calibration, self.images.name))
        return f"{self.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"

    def float_onnx(self) -> Path:
        path = self.folder / f"{self.stem}.float.onnx"
        if not path.exists():
            run_command("repq-export", *self.model, "--float", "-o", str(path))
        return path

    def float_model(self, backend: str) -> Path:
        """Float in ``backend``, with all of its runtime's optimizations."""
        source = self.float_onnx()
        return source if backend == "onnxruntime" else self._build(source, backend)

    def ours(self, backend: str, label: str) -> Path:
        """The engine of one of ``OURS``; ends the program where it does not compute what it should."""
        made = OURS[label]
        source = self.folder / "".join([self.stem, *made.export]).replace("--bits", "-").replace("--softmax", "-attn-")
        source = source.with_name(f"{source.name}.onnx")
        if not source.exists():
            run_command("repq-export", *self.model, *made.export, *self.calibration, "-o", str(source))
        return self._build(source, backend, made.cpu)

    def peer(self, backend: str, label: str) -> Path | str:
        """The file of one of ``PEERS``; where it cannot be made or run here, the last line of its error."""
        script, suffix, options = PEERS[backend][label]
        output = self.folder / ("-".join([self.stem, *label.replace(",", "").split()]) + suffix)
        whole = output.with_name(f"{output.name}.whole")  # it may have been killed while it wrote
        if not whole.exists():
            program = str(Path(__file__).parent / "peers" / f"{script}.py")
            command = [str(self.peers), program, str(self.float_onnx()), str(self.images), str(output), *options]
            if error := _attempt(command):
                output.unlink(missing_ok=True)
                return error
            whole.touch()
        bench = str(Path(sys.executable).parent / "repq-bench")
        probe = ("--batch", "1", "--rounds", "1", "--seconds", "0", "-q")
        return _attempt([bench, str(output), *probe]) or output

    def _build(self, source: Path, backend: str, cpu: str = "any") -> Path:
        stem = source.with_suffix("")
        engine = stem.with_name(f"{stem.name}.{backend}-{cpu}.engine")
        if not engine.exists():
            options = ("--backend", backend, "--cpu", cpu, "-o", str(stem))
            (built,) = run_command("repq-build-engine", str(source), "--no-speed-check", *options).result["engines"]
            if built["verdict"] != "PASSED":
                engine.unlink()
                sys.exit(f"{source}: {built['verdict']}: {built['manifest']['validation']['reason']}")
        return engine


def write_images(path: Path, images: np.ndarray) -> Path:
    """Preprocessed images as the peers read them."""
    np.savez(path, images=images.astype(np.float32, copy=False))
    return path


def _attempt(command: list[str]) -> str | None:
    """Run ``command``; None where it succeeds, otherwise the last line that it wrote."""
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {done.returncode}"
