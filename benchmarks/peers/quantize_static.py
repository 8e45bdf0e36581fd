"""ONNX Runtime's own ``quantize_static`` on a float ViT: ``python quantize_static.py FLOAT IMAGES.npz OUTPUT``.

Q/DQ, INT8 weights one scale a channel, as its documentation advises for x86 with VNNI and for transformers; run in the
environment that ``install.sh`` makes. ``--ops`` is all or products (Conv, Gemm and MatMul). Unsigned weights, and those
of 7 bits, are what its documentation advises for x86 without VNNI, where its default saturates.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import INPUT, arguments, load_images, not_ours
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_TYPES = {"qint8": QuantType.QInt8, "quint8": QuantType.QUInt8}


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
    parser.add_argument("--weights", choices=("qint8", "quint8"), default="qint8")
    parser.add_argument("--reduce-range", action="store_true", help="weights of 7 bits")
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
            activation_type=_TYPES[args.activations],
            weight_type=_TYPES[args.weights],
            reduce_range=args.reduce_range,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"] if args.ops == "products" else None,
        )
    not_ours(args.output)


if __name__ == "__main__":
    main()
