"""Does this CPU compute an engine's codes? Run by ``run.py``, often in an emulator, so it runs alone: it needs NumPy,
onnx and onnxruntime, and starts no process, as an emulated program's children may run natively.

    python check.py ENGINE CASE.npz

The engine is opened with nothing but the defaults of ONNX Runtime, which saves the graph that it runs. In that graph
every reader of codes is given the reference's, and what each quantizer makes of them is compared. One JSON object on
stdout.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort


def session(path: Path, *, saved: Path | None = None, optimize: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def forced(model: onnx.ModelProto, tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    """What reads one of ``tensors`` reads an input instead; what computes it becomes an output."""
    for node in model.graph.node:
        node.input[:] = [f"{name}/given" if name in tensors else name for name in node.input]
    for name, codes in tensors.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(codes.dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(f"{name}/given", kind, [None] * codes.ndim))
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    return model


def check(engine: Path, case: dict[str, np.ndarray]) -> dict[str, object]:
    sites = json.loads(str(case["sites"]))
    with tempfile.TemporaryDirectory() as folder:
        saved, cut = Path(folder) / "optimized.onnx", Path(folder) / "cut.onnx"
        plain = session(engine, saved=saved)
        (logits,) = plain.run(None, {"images": case["images"]})
        given = {site["tensor"]: case[f"{index}/codes"] for index, site in enumerate(sites)}
        onnx.save(forced(onnx.load(saved), given), cut)
        names = [output.name for output in plain.get_outputs()] + list(given)
        feed = {"images": case["images"][:1], **{f"{name}/given": codes for name, codes in given.items()}}
        found = dict(zip(names, session(cut, optimize=False).run(names, feed), strict=True))
    return judged(found, logits, case)


def judged(found: dict[str, np.ndarray], logits: np.ndarray, case: dict[str, np.ndarray]) -> dict[str, object]:
    """What the codes ``found`` by tensor, and the logits of a run without given codes, are beside those of the case."""
    sites = json.loads(str(case["sites"]))
    codes = different = unexplained = failing = 0
    for index, site in enumerate(sites):
        own = found[site["tensor"]]
        if site["least"] is not None:
            own = np.maximum(own, own.dtype.type(site["least"]))
        outside = int(np.count_nonzero((own < case[f"{index}/low"]) | (own > case[f"{index}/high"])))
        codes += own.size
        different += int(np.count_nonzero(own != case[f"{index}/codes"]))
        unexplained += outside
        failing += outside > max(1e-4 * own.size, 4)
    noise = np.square(logits - case["logits"], dtype=np.float64).sum()
    ratio = np.square(case["logits"], dtype=np.float64).sum() / noise if noise else np.inf
    return {
        "sites": len(sites),
        "codes": codes,
        "different": different,
        "unexplained": unexplained,
        "failing_sites": failing,
        "free_sqnr_db": round(float(min(10 * np.log10(ratio), 200.0)), 1),
    }


if __name__ == "__main__":
    with np.load(sys.argv[2], allow_pickle=False) as arrays:
        sys.stdout.write(json.dumps(check(Path(sys.argv[1]), dict(arrays))) + "\n")
