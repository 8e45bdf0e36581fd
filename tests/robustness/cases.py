"""Wrong inputs, a table: what is done to a folder of right ones, the command, and what it must say."""

from __future__ import annotations

import os

import numpy as np

from tests.robustness.case import BUILD, EXPORT, FLOAT, LONG, SEARCH, Case
from tests.robustness.damage import (
    bytes_file,
    fifo,
    loop,
    npz_bomb,
    text_file,
    void,
)
from tests.robustness.file_cases import FILES

__all__ = ["CASES", "Case"]


OUTPUTS = (
    Case("checkpoint is output", "repq-export demo --float --checkpoint w.safetensors -o w.safetensors", "also --chec"),
    Case("recipe is output", "repq-export demo --recipe recipe.yaml -o recipe.yaml", "also --recipe"),
    Case("calibration is output", "repq-export demo --calib-data calib.npz -o calib.npz", "also --calib-data"),
    Case("one output twice", f"{EXPORT} --save-quantized new.onnx", "also --output"),
    Case(
        "through a link",
        "repq-export demo --recipe recipe.yaml -o link",
        "also --recipe",
        lambda folder: (folder / "link").symlink_to(folder / "recipe.yaml"),
    ),
    Case(
        "reference is output",
        "repq-build-engine m.onnx --reference-data m.reference.npz --backend onnxruntime --no-speed-check",
        "also --reference-data",
    ),
    Case(
        "somebody's own json",
        BUILD,
        "new.onnxruntime.*json.*not.*repq-deploy.*--force",
        lambda folder: [
            void((folder / f"new.onnxruntime{kind}.json").write_text('{"mine": 1}'))
            for kind in ("-any", "-vnni", "-avx2", "-arm64", "")
        ][-1],
    ),
    Case("somebody's own model", EXPORT, "new.onnx.*not.*repq-deploy.*--force", bytes_file("new.onnx", b"mine")),
    Case("somebody's own recipe", SEARCH, "new.yaml.*not.*repq-deploy.*--force", text_file("new.yaml", "mine: 1\n")),
    Case("a folder as output", "repq-export demo -o flat", "flat: is a folder"),
    Case("a device as output", "repq-export demo -o /dev/null", "device or pipe"),
    Case("a name too long as output", f"repq-export demo -o {LONG}.onnx", "File name too long"),
    Case("no such folder", "repq-export demo -o none/new.onnx", "does not exist"),
    Case("a loop as output's folder", "repq-export demo -o loop/new.onnx", "Too many levels", loop),
)

NAMES = tuple(
    Case(f"{what}: {option}", command.replace("NAME", name), words, loop)
    for what, name, words in (
        ("a name too long", LONG, "File name too long|no such"),
        ("a loop", "loop/x", "Too many levels"),
        ("nothing there", "nothing", "no such"),
    )
    for option, command in (
        ("checkpoint", f"{FLOAT} NAME"),
        ("recipe", "repq-export demo --recipe NAME -o new.onnx"),
        ("calibration", f"{EXPORT} --calib-data NAME"),
        ("model to build", "repq-build-engine NAME.onnx --backend onnxruntime --no-speed-check"),
        ("engine to validate", "repq-build-engine --validate-only NAME.engine"),
        ("reference data", f"{BUILD} --reference-data NAME"),
        ("model to inspect", "repq-inspect NAME"),
        ("engine to inspect", "repq-inspect NAME.engine"),
        ("engine to evaluate", "repq-eval NAME.engine --data demo"),
        ("saved model to evaluate", "repq-eval NAME.safetensors --data demo"),
        ("images to evaluate on", "repq-eval m.engine --data NAME"),
        ("preprocessing", "repq-eval m.engine --data demo --preprocess-from NAME.onnx"),
        ("model to measure", "repq-bench NAME.onnx"),
        ("latency table", "repq-search demo --max-latency 5ms --latency-table NAME --recipe new.yaml"),
        ("plot's images", f"{SEARCH} --plot new.png --plot-data NAME"),
    )
)

OPTIONS = (
    *(
        Case(f"empty {name}", f"repq-export demo -o new.onnx --{name} ''", f"--{name}: is empty")
        for name in ("calib-data", "bits", "method", "preset")
    ),
    Case("bits of 5,000 digits", f"repq-export demo -o new.onnx --bits w{'9' * 5000}a4", "bits"),
    Case("average of 5,000 digits", f"repq-search demo --avg-bits {'9' * 5000} --recipe new.yaml", "finite number"),
    Case("size of 5,000 digits", f"repq-search demo --max-size {'9' * 5000}MB --recipe new.yaml", "--max-size"),
    Case("choices of 5,000 digits", f"repq-search demo --avg-bits 4 --choices {'9' * 5000} --recipe new.yaml", "wXaY"),
    Case("a huge image", "repq-export deit_t --no-pretrained --img-size 1000000 -o new.onnx", "--img-size 1000000"),
    Case(
        "a huge image, planned", "repq-export deit_t --no-pretrained --img-size 99999 -o new.onnx --dry-run", "--img-s"
    ),
    Case("many classes", "repq-export deit_t --no-pretrained --num-classes 99999999999 -o new.onnx", "--num-classes"),
    Case("a huge batch", f"{BUILD} --min-batch 20000 --opt-batch 20000 --max-batch 20000", "batch"),
    Case("a number of 5,000 digits", f"{BUILD} --max-batch {'9' * 5000}", "max-batch|batch"),
    Case("an unknown option", f"{EXPORT} --nonsense", "No such option"),
    Case("an escape code in a name", "repq-export demo -o 'a\x1b[31m.onnx'", r"a\\x1b\[31m.*control characters"),
    Case("two lines in a name", "repq-inspect 'a\nb.onnx'", r"a\\nb.*control characters"),
    Case("an unknown device", f"{EXPORT} --device tpu", "expected cpu, cuda"),
    Case("no such GPU", f"{EXPORT} --device cuda:77", "use --device cpu", code=3),
)

IMAGES = (
    Case("a bomb of images", f"{EXPORT} --calib-data bomb.npz", "bomb.npz", npz_bomb),
    Case("a bomb of a reference", f"{BUILD} --reference-data bomb.npz", "bomb.npz", npz_bomb),
    Case(
        "only a pipe",
        f"{EXPORT} --calib-data pipe",
        "found no images",
        lambda folder: ((folder / "pipe").mkdir(), os.mkfifo(folder / "pipe" / "x.png"))[1],
    ),
    Case("a pipe as calibration", f"{EXPORT} --calib-data flat/x.png", "flat/x.png", fifo),
    Case(
        "objects in an array",
        f"{EXPORT} --calib-data o.npz",
        "o.npz",
        lambda folder: np.savez(folder / "o.npz", images=np.array([{}], object)),
    ),
    Case(
        "a truncated array",
        f"{EXPORT} --calib-data t.npz",
        "t.npz",
        lambda folder: void((folder / "t.npz").write_bytes((folder / "calib.npz").read_bytes()[:500])),
    ),
    Case(
        "a negative shape",
        f"{EXPORT} --calib-data n.npy",
        "n.npy",
        bytes_file(
            "n.npy", b"\x93NUMPY\x01\x00F\x00{'descr': '|u1', 'fortran_order': False, 'shape': (-4, 28, 28)}      \n"
        ),
    ),
    Case(
        "a shape beyond memory",
        f"{EXPORT} --calib-data n.npy",
        "n.npy",
        bytes_file(
            "n.npy",
            b"\x93NUMPY\x01\x00V\x00{'descr': '<f8', 'fortran_order': False, "
            b"'shape': (99999999999999, 28, 28)}            \n",
        ),
    ),
    Case("a class too few", "repq-eval m.engine --data classes", "2 class folders"),
)

CASES = (*OUTPUTS, *NAMES, *OPTIONS, *IMAGES, *FILES)
