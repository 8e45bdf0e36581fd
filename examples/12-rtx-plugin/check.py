"""Runs a canonical file on an NVIDIA RTX GPU by ONNX Runtime and its TensorRT-RTX plugin, without repq-deploy.

python check.py MODEL REFERENCE.npz

``REFERENCE.npz`` lies beside each engine: images, and the logits that they must give. Exit status 3: the plugin or the
GPU is not there.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

import numpy as np
import onnxruntime

#: From one image to eight; without it engines are built for any number, which is slower.
_PROFILE = {"nv_profile_min_shapes": 1, "nv_profile_opt_shapes": 8, "nv_profile_max_shapes": 8}


def stop(reason: str) -> NoReturn:
    sys.stderr.write(f"{reason}\n")
    sys.exit(3)


def open_on_gpu(model: str, image: tuple[int, ...]) -> onnxruntime.InferenceSession:
    """A session of ``model``, for images of the shape ``image``, all of whose nodes run by TensorRT-RTX."""
    try:
        import onnxruntime_ep_nv_tensorrt_rtx as plugin  # noqa: PLC0415
    except ModuleNotFoundError:
        stop("the plugin is not installed: pip install onnxruntime-ep-nv-tensorrt-rtx")
    try:
        onnxruntime.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    except Exception as error:  # its own kinds have no common base
        stop(f"the plugin cannot be loaded, as without NVIDIA's driver: {error}")
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == plugin.get_ep_name()]
    if not devices:
        stop("the plugin finds no GPU that it supports: it needs an RTX GPU of the Ampere generation or later")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # an error where a node is refused
    profile = {name: f"images:{'x'.join(map(str, (count, *image)))}" for name, count in _PROFILE.items()}
    options.add_provider_for_devices(devices[:1], profile)
    return onnxruntime.InferenceSession(model, sess_options=options)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    reference = np.load(sys.argv[2])
    images = reference["images"]
    (logits,) = open_on_gpu(sys.argv[1], images.shape[1:]).run(None, {"images": images})
    error = np.linalg.norm(logits - reference["logits"]) / np.linalg.norm(reference["logits"])
    same = (logits.argmax(axis=1) == reference["logits"].argmax(axis=1)).mean()
    sys.stdout.write(f"relative error {error:.1e}, decided alike {100 * same:.0f} %\n")


if __name__ == "__main__":
    main()
