"""NNCF's post-training quantization of a float ViT for OpenVINO: ``python nncf_ptq.py FLOAT IMAGES.npz OUTPUT.xml``.

Its transformer model type (with SmoothQuant) and its mixed preset (symmetric weights, asymmetric activations), as its
documentation advises for transformers; the IR is written with float32 around the integers. Run in the environment that
``install.sh`` makes.
"""

from __future__ import annotations

import nncf
import openvino as ov
from common import INPUT, arguments, load_images


def main() -> None:
    args = arguments(__doc__).parse_args()
    images = load_images(args.images)
    quantized = nncf.quantize(
        ov.convert_model(args.float_model),
        nncf.Dataset(range(len(images)), lambda index: {INPUT: images[index : index + 1]}),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
    )
    ov.save_model(quantized, args.output, compress_to_fp16=False)


if __name__ == "__main__":
    main()
