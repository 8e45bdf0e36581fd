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
    outputs = list(model(reference["images"]).values())
    found = np.concatenate([one.reshape(len(one), -1) for one in outputs], axis=1)  # of several outputs all numbers
    error = np.linalg.norm(found - reference["logits"]) / np.linalg.norm(reference["logits"])
    names = [output.any_name for output in model.outputs]
    said = f"classes {found.argmax(axis=1).tolist()}" if names == ["logits"] else f"outputs {', '.join(names)}"
    sys.stdout.write(f"{said}, relative error {error:.1e}\n")


if __name__ == "__main__":
    main()
