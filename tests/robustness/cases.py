"""Wrong inputs, a table: what is done to a folder of right ones, the command, and what it must say."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

import numpy as np
import torch

from tests.robustness.damage import (
    Prepare,
    bytes_file,
    checkpoint,
    damaged_engine,
    deep,
    endless,
    external,
    fifo,
    graph,
    loop,
    manifest,
    metadata,
    npz_bomb,
    reverse,
    saved_model,
    text_file,
    void,
    zip_bomb,
)

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """A command that must end with ``code`` and one line that matches ``words``."""

    name: str
    command: str
    words: str
    prepare: Prepare = lambda folder: None
    code: int = 2


EXPORT = "repq-export demo --method percentile -o new.onnx"
BUILD = "repq-build-engine m.onnx --backend onnxruntime -o new"
INSPECT = "repq-inspect m.onnx"
EVAL = "repq-eval m.engine --data demo --limit 8"
SEARCH = "repq-search demo --avg-bits 4 --choices 4,8 --tau 0 --num-calib 4 --recipe new.yaml"
LONG = "m" * 300
FLOAT = "repq-export demo --float -o new.onnx --checkpoint"
BY_LATENCY = "repq-search demo --recipe new.yaml --max-latency 5ms --latency-table"

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
        "repq-build-engine m.onnx --reference-data m.reference.npz --backend onnxruntime",
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
        ("model to build", "repq-build-engine NAME.onnx --backend onnxruntime"),
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

#: Nine lines that mean 512 numbers; some more, and they mean gigabytes.
ALIASES = "a: &a [1,1]\n" + "".join(f"{c}: &{c} [*{p},*{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))

RECIPES = tuple(
    Case(f"recipe of {what}", "repq-export demo --recipe r.yaml -o new.onnx", "r.yaml", text_file("r.yaml", text))
    for what, text in (
        ("nothing", ""),
        ("aliases", ALIASES),
        ("depth", "[" * 20000),
        ("a long number", f"bits: {'9' * 5000}"),
        ("a long number of images", f"bits: w4a4\nimages: {'9' * 5000}"),
        ("a number that is none", "bits: w4a4\nmethod: x\nsoftmax: log2\nsteps: [{weights: {ridge: .nan}}]"),
        ("code", "!!python/object/apply:os.system ['touch hacked']"),
        ("an escape code", 'bits: "w4a4\\e[31m"'),
        ("bytes", "\x00\x01\x02"),
    )
)

CHECKPOINTS = (
    *(
        Case(f"checkpoint {what}", f"{FLOAT} c.{suffix}", "c.*" + words, checkpoint(f"c.{suffix}", change))
        for what, suffix, words, change in (
            ("with NaN", "safetensors", "NaN", lambda t: void(t["head.weight"].fill_(float("nan")))),
            ("of integers", "safetensors", "floating", lambda t: void(t.update({k: v.int() for k, v in t.items()}))),
            (
                "with sparse tensors",
                "pt",
                "sparse",
                lambda t: void(t.update({"head.weight": t["head.weight"].to_sparse()})),
            ),
            (
                "with meta tensors",
                "pt",
                "without data",
                lambda t: void(t.update({"head.weight": t["head.weight"].to("meta")})),
            ),
            ("without tensors", "pt", "no tensors", lambda t: {"model": 3}),
            ("that is a list", "pt", "no tensors", lambda t: [1, 2]),
            ("with one missing", "safetensors", "missing", lambda t: void(t.pop("head.weight"))),
            ("with names that are numbers", "pt", "", lambda t: {1: t["head.weight"]}),
            ("nested in itself", "pt", "", endless),
            (
                "of complex numbers",
                "pt",
                "",
                lambda t: void(t.update({"head.weight": t["head.weight"].to(torch.complex64)})),
            ),
            (
                "of quantized tensors",
                "pt",
                "",
                lambda t: void(
                    t.update({"head.weight": torch.quantize_per_tensor(t["head.weight"], 0.1, 0, torch.qint8)})
                ),
            ),
        )
    ),
    Case("checkpoint of a bomb", f"{FLOAT} bomb.pt", "bomb.pt", zip_bomb),
    Case("checkpoint of nothing", f"{FLOAT} c", "c: not a", bytes_file("c", b"")),
    Case("checkpoint of noise", f"{FLOAT} c", "c: not a", bytes_file("c", b"\x80\x02" * 99)),
    Case(
        "checkpoint that runs code",
        f"{FLOAT} c.pt",
        "could run code",
        lambda folder: torch.save({"a": os.system}, folder / "c.pt"),
    ),
    Case(
        "checkpoint with a long header",
        f"{FLOAT} c",
        "c: not a",
        bytes_file("c", (2**40).to_bytes(8, "little") + b"{" * 100),
    ),
)

SAVED = tuple(
    Case(f"saved model: {what}", "repq-eval q.safetensors --data demo --limit 8", "q.safetensors", saved_model(change))
    for what, change in (
        ("no bits", lambda r: r.pop("bits")),
        ("no record", lambda r: r.clear()),
        ("bits of a list", lambda r: r.update(bits=[4])),
        ("bits of 5,000 digits", lambda r: r.update(bits="w" + "9" * 5000)),
        ("spec of a number", lambda r: r.update(spec=3)),
        ("depth", lambda r: r["spec"]["kwargs"].update(depth=10**6)),
        ("depth of a float", lambda r: r["spec"]["kwargs"].update(depth=1.5)),
        ("an unknown softmax", lambda r: r.update(softmax="x" * 10000)),
        ("a checkpoint path", lambda r: r["spec"]["kwargs"].update(checkpoint_path="w.safetensors")),
        ("a hub id", lambda r: r["spec"].update(timm_id="hf-hub:a/b")),
        ("preprocessing of nothing", lambda r: r["provenance"].update(preprocess="{}")),
        ("preprocessing of depth", lambda r: r["provenance"].update(preprocess="[" * 50000)),
        (
            "preprocessing of huge images",
            lambda r: r["provenance"].update(
                preprocess=r["provenance"]["preprocess"].replace("[28, 28]", "[9000000, 9000000]")
            ),
        ),
    )
)

GRAPHS = tuple(
    Case(f"{verb}: {what}", command, "m.onnx", graph(change))
    for verb, command in (
        ("build", BUILD),
        ("inspect", f"{INSPECT} --passes tensorrt"),
        ("evaluate", "repq-eval m.onnx --data demo --limit 8"),
    )
    for what, change in (
        ("no nodes", lambda m: m.graph.ClearField("node")),
        ("no weights", lambda m: m.graph.ClearField("initializer")),
        ("no functions", lambda m: m.ClearField("functions")),
        ("no opset", lambda m: m.ClearField("opset_import")),
        ("opset 9999", lambda m: void(setattr(m.opset_import[0], "version", 9999))),
        ("an unknown operator", lambda m: void(setattr(m.graph.node[5], "op_type", "Nonsense"))),
        ("an input of no tensor", lambda m: void(m.graph.node[9].input.__setitem__(0, "nowhere"))),
        ("nodes in a circle", lambda m: void(m.graph.node[3].input.__setitem__(0, m.graph.node[20].output[0]))),
        ("a node twice", lambda m: m.graph.node.append(m.graph.node[7])),
        ("nodes in reverse", lambda m: void(reverse(m.graph.node))),
        (
            "weights cut",
            lambda m: void(setattr(m.graph.initializer[0], "raw_data", m.graph.initializer[0].raw_data[:-3])),
        ),
        ("weights of another type", lambda m: void(setattr(m.graph.initializer[0], "data_type", 77))),
        ("weights of a huge shape", lambda m: void(m.graph.initializer[0].dims.append(2**40))),
        ("weights elsewhere", lambda m: void(external(m, "../../etc/passwd"))),
        ("no metadata", lambda m: m.ClearField("metadata_props")),
        ("preprocessing of noise", lambda m: void(metadata(m, "repq.preprocess", "[" * 9999))),
        ("bits of noise", lambda m: void(metadata(m, "repq.bits", "w" + "9" * 5000))),
        ("no output", lambda m: m.graph.ClearField("output")),
    )
)

MANIFESTS = tuple(
    Case(f"manifest: {what}", command, "m.json", manifest(change) if callable(change) else text_file("m.json", change))
    for command in (EVAL, "repq-inspect m.engine", "repq-build-engine --validate-only m.engine")
    for what, change in (
        ("NaN", lambda m: m.update(lowering_sqnr_db=float("nan"))),
        ("an unknown precision", lambda m: m.update(precision="fp3")),
        ("an unknown backend", lambda m: m.update(backend="x" * 5000)),
        ("an unknown compute", lambda m: m.update(compute="int3")),
        ("an unknown CPU", lambda m: m.update(cpu="z80")),
        ("a negative shape", lambda m: m.update(image_shape=[3, -28, 28])),
        ("a huge shape", lambda m: m.update(image_shape=[3, 10**9, 10**9])),
        ("no classes", lambda m: m.update(classes=0)),
        ("a huge batch", lambda m: m["profile"].update(min=10**9, opt=10**9, max=10**9)),
        ("a batch of nothing", lambda m: m["profile"].update(min=0)),
        ("noise", "{"),
        ("nothing", ""),
        ("depth", "[" * 100000),
        ("a long number", '{"format": ' + "9" * 5000 + "}"),
        ("bytes", "\x00\xff"),
    )
)


OTHERS = (
    Case("engine with a bit flipped", EVAL, "m.engine.*(altered|SHA|not the)", damaged_engine),
    Case(
        "engine of another",
        EVAL,
        "m.engine",
        lambda folder: void(shutil.copy(folder / "w.safetensors", folder / "m.engine")),
    ),
    Case("no manifest", EVAL, "m.json: no such file", lambda folder: (folder / "m.json").unlink()),
    Case(
        "no reference",
        "repq-build-engine --validate-only m.engine",
        "m.reference.npz",
        lambda folder: (folder / "m.reference.npz").unlink(),
    ),
    Case("latency table of depth", f"{BY_LATENCY} t.json", "t.json", deep("t.json")),
    Case(
        "latency table of NaN", f"{BY_LATENCY} t.json", "t.json", text_file("t.json", '{"fixed_ms": NaN, "sites": {}}')
    ),
    Case(
        "latency table of a long number",
        f"{BY_LATENCY} t.json",
        "t.json",
        text_file("t.json", '{"fixed_ms": ' + "9" * 5000 + ', "sites": {}}'),
    ),
)

CASES = (*OUTPUTS, *NAMES, *OPTIONS, *IMAGES, *RECIPES, *CHECKPOINTS, *SAVED, *GRAPHS, *MANIFESTS, *OTHERS)
