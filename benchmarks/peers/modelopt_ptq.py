"""NVIDIA Model Optimizer's INT8 ONNX quantization of a float ViT: ``python modelopt_ptq.py FLOAT IMAGES.npz OUTPUT``.

Its defaults, calibrated on the CPU, with float32 around the integers: its own default, float16, is for TensorRT. Run in
the environment that ``install.sh`` makes.
"""

from __future__ import annotations

from common import INPUT, arguments, load_images, not_ours
from modelopt.onnx.quantization import quantize


def main() -> None:
    args = arguments(__doc__).parse_args()
    images = load_images(args.images)
    quantize(
        str(args.float_model),
        quantize_mode="int8",
        calibration_data={INPUT: images},
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(args.output),
        log_level="WARNING",
    )
    not_ours(args.output)


if __name__ == "__main__":
    main()
