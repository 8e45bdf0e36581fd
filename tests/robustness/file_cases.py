"""Wrong inputs by what is in them: recipes, checkpoints, saved models, graphs, manifests."""

from __future__ import annotations

import os
import shutil

import torch

from tests.robustness.case import BUILD, BY_LATENCY, EVAL, FLOAT, INSPECT, Case
from tests.robustness.damage import (
    bytes_file,
    checkpoint,
    damaged_engine,
    deep,
    endless,
    external,
    graph,
    manifest,
    metadata,
    reverse,
    saved_model,
    text_file,
    void,
    zip_bomb,
)

__all__ = ["FILES"]

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
        ("no outputs", lambda m: m.update(outputs=0)),
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

FILES = (*RECIPES, *CHECKPOINTS, *SAVED, *GRAPHS, *MANIFESTS, *OTHERS)
