"""ONNX Runtime's own ``quantize_static`` on a float ViT: ``python quantize_static.py FLOAT IMAGES.npz OUTPUT``.

Q/DQ, INT8 weights one scale a channel, as its documentation advises for x86 with VNNI and for transformers; run in the
environment that ``install.sh`` makes. ``--activations`` is qint8 or quint8, ``--ops`` all or products (Conv, Gemm and
MatMul).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import INPUT, arguments, load_images, not_ours
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Images(CalibrationDataReader):
    """Batches of the calibration images, four at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self.batches = iter([images[start : start + 4] for start in range(0, len(images), 4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--activations", choices=("qint8", "quint8"), default="qint8")
    parser.add_argument("--ops", choices=("all", "products"), default="products")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(args.float_model, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            args.output,
            Images(load_images(args.images)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if args.activations == "qint8" else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"] if args.ops == "products" else None,
        )
    not_ours(args.output)


if __name__ == "__main__":
    main()
