"""Runs an OpenVINO engine without repq-deploy, and compares its outputs with the reference beside it.

python engines/run_openvino.py NAME.openvino.engine NAME.reference.npz
"""

from __future__ import annotations

import sys

import numpy as np
import openvino


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    reference = np.load(sys.argv[2])
    # On CPUs with bfloat16 OpenVINO would compute in it around the integers; no file can say otherwise.
    model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits = model(reference["images"])["logits"]
    error = np.linalg.norm(logits - reference["logits"]) / np.linalg.norm(reference["logits"])
    sys.stdout.write(f"classes {logits.argmax(axis=1).tolist()}, relative error {error:.1e}\n")


if __name__ == "__main__":
    main()
