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
    (logits,) = session.run(None, {"images": reference["images"]})
    error = np.linalg.norm(logits - reference["logits"]) / np.linalg.norm(reference["logits"])
    sys.stdout.write(f"classes {logits.argmax(axis=1).tolist()}, relative error {error:.1e}\n")


if __name__ == "__main__":
    main()
