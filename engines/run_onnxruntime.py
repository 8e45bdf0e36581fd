"""Runs an ONNX Runtime engine without repq-deploy, and compares its outputs with the reference beside it.

python engines/run_onnxruntime.py NAME.onnxruntime.engine NAME.reference.npz
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    reference = np.load(sys.argv[2])
    session = onnxruntime.InferenceSession(sys.argv[1])
    outputs = session.run(None, {"images": reference["images"]})
    found = np.concatenate([one.reshape(len(one), -1) for one in outputs], axis=1)  # of several outputs all numbers
    error = np.linalg.norm(found - reference["logits"]) / np.linalg.norm(reference["logits"])
    names = [output.name for output in session.get_outputs()]
    said = f"classes {found.argmax(axis=1).tolist()}" if names == ["logits"] else f"outputs {', '.join(names)}"
    sys.stdout.write(f"{said}, relative error {error:.1e}\n")


if __name__ == "__main__":
    main()
