"""NVIDIA Model Optimizer's INT8 ONNX quantization of a float ViT: ``python modelopt_ptq.py FLOAT IMAGES.npz OUTPUT``.

Its defaults, calibrated on the CPU, with float32 around the integers: its own default, float16, is for TensorRT. Run in
the environment that ``install.sh`` makes.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from common import INPUT, arguments, load_images, not_ours
from modelopt.onnx.quantization import quantize


def main() -> None:
    args = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # It writes over its input, which is the baseline of every figure: give it a copy.
        copy = shutil.copy(args.float_model, Path(folder) / "float.onnx")
        quantize(
            str(copy),
            quantize_mode="int8",
            calibration_data={INPUT: load_images(args.images)},
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(args.output),
            log_level="WARNING",
        )
    not_ours(args.output)


if __name__ == "__main__":
    main()
