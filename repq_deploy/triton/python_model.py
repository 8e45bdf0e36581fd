"""``model.py`` of Triton's Python backend: an ONNX Runtime engine, its batches, and its proof before it is ready.

It needs ``onnxruntime`` and ``numpy`` in the Python of Triton's stub, nothing of repq-deploy. Beside it lie
``engine.onnx``, ``manifest.json`` and ``reference.npz``.
"""

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


class TritonPythonModel:
    """One instance of the model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine, and compare it with the reference outputs; the model is not ready where it fails."""
        # Exists inside of Triton's stub only.
        self.utils: Any = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        engine = (folder / "engine.onnx").read_bytes()
        if hashlib.sha256(engine).hexdigest() != manifest["engine"]["sha256"]:
            raise self.utils.TritonModelException("engine.onnx is not what manifest.json describes: copy both again")
        options = ort.SessionOptions()
        parameters = config.get("parameters", {})
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", {}).get("string_value", "0"))
        self.session = ort.InferenceSession(engine, options, providers=["CPUExecutionProvider"])
        self.input = config["input"][0]["name"]
        self.outputs = [one["name"] for one in config["output"]]
        with np.load(folder / "reference.npz", allow_pickle=False) as reference:
            self.prove(reference["images"], reference["logits"], manifest["validation"]["tolerance"]["min_sqnr_db"])

    def prove(self, images: Any, expected: Any, least_db: float) -> None:
        """Run the reference as the build did, one image alone and the rest as a batch; ``expected`` is [N, numbers]."""
        found = np.concatenate([self.rows(images[:1]), self.rows(images[1:])])
        noise = np.square(found.astype(np.float64) - expected).sum()
        signal = np.square(expected.astype(np.float64)).sum()
        sqnr_db = 10 * np.log10(signal / noise) if noise else 200.0
        self.utils.Logger.log_info(f"reference outputs: SQNR {sqnr_db:.1f} dB, {least_db:.1f} dB required")
        if not sqnr_db >= least_db:
            raise self.utils.TritonModelException(
                f"the engine does not give the reference outputs here: SQNR {sqnr_db:.1f} dB is below {least_db:.1f} dB"
            )

    def rows(self, images: Any) -> Any:
        """All outputs of ``images``, each image's numbers in one row, output after output."""
        found = self.session.run(self.outputs, {self.input: images})
        return np.concatenate([one.reshape(len(one), -1) for one in found], axis=1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all ``requests`` with one run; one that holds NaN or infinity gets an error, and spoils no other."""
        images = [self.utils.get_input_tensor_by_name(request, self.input).as_numpy() for request in requests]
        good = [number for number, array in enumerate(images) if np.isfinite(array).all()]
        message = "the images hold NaN or infinite values"
        responses = [self.utils.InferenceResponse(error=self.utils.TritonError(message))] * len(requests)
        if not good:
            return responses
        found = self.session.run(self.outputs, {self.input: np.concatenate([images[number] for number in good])})
        start = 0
        for number in good:
            end = start + len(images[number])
            tensors = [
                self.utils.Tensor(name, array[start:end]) for name, array in zip(self.outputs, found, strict=True)
            ]
            responses[number] = self.utils.InferenceResponse(output_tensors=tensors)
            start = end
        return responses
