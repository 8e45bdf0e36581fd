"""ONNX Runtime engines on WebAssembly, in Node: codes at every site against the canonical graph's.

    python benchmarks/cpus/wasm.py PACKAGES [MODEL.onnx ...] [--work FOLDER]

``PACKAGES`` is the folder ``node_modules`` of examples/10-javascript, with onnxruntime-web. Models and engines are
those of ``run.py``. The graph that this machine's ONNX Runtime makes of an engine is run as it is, each site fed the
canonical graph's codes. Exit status 1 where a code differs that is on no tie.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parent))
from check import forced, judged, session
from run import HEADER, engines, table_line

RUNNER = Path(__file__).with_suffix(".mjs")


def run_web(packages: Path, model: Path, names: list[str], feed: dict[str, np.ndarray], *, optimize: bool) -> Any:
    """The outputs ``names`` of an ONNX file, flat, by the packages' WebAssembly."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "model.onnx").write_bytes(model.read_bytes())
        feeds = []
        for index, (name, values) in enumerate(feed.items()):
            values.tofile(folder / f"in{index}.bin")
            feeds.append({"name": name, "type": str(values.dtype), "shape": values.shape, "file": f"in{index}.bin"})
        job = {"model": "model.onnx", "optimize": optimize, "feeds": feeds, "names": names}
        (folder / "job.json").write_text(json.dumps(job))
        subprocess.run(["node", str(RUNNER), str(folder), str(packages)], check=True)
        kinds = {output.name: output for output in session(model, optimize=optimize).get_outputs()}
        types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}
        return [np.fromfile(folder / f"out{i}.bin", types[kinds[name].type]) for i, name in enumerate(names)]


def check_web(packages: Path, engine: Path, case: dict[str, np.ndarray]) -> dict[str, object]:
    """As ``check.check``, by WebAssembly."""
    codes = {site["tensor"]: case[f"{i}/codes"] for i, site in enumerate(json.loads(str(case["sites"])))}
    (logits,) = run_web(packages, engine, ["logits"], {"images": case["images"]}, optimize=True)
    with tempfile.TemporaryDirectory() as folder:
        saved, cut = Path(folder) / "optimized.onnx", Path(folder) / "cut.onnx"
        session(engine, saved=saved)
        onnx.save(forced(onnx.load(saved), codes), cut)
        feed = {"images": case["images"][:1], **{f"{name}/given": values for name, values in codes.items()}}
        found = run_web(packages, cut, list(codes), feed, optimize=False)
    shaped = {name: own.reshape(values.shape) for (name, values), own in zip(codes.items(), found, strict=True)}
    return judged(shaped, logits.reshape(case["logits"].shape), case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="a folder node_modules with onnxruntime-web")
    parser.add_argument("models", nargs="*", type=Path, help="canonical ONNX files; default: the demo's")
    parser.add_argument("--work", type=Path, default=Path("out") / "cpus")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    sys.stdout.writelines([table_line(HEADER), table_line(["---"] * len(HEADER))])
    right = True
    for engine, path, cpu in engines(args.models, args.work.resolve()):
        started = time.perf_counter()
        with np.load(path, allow_pickle=False) as arrays:
            found = check_web(args.packages.resolve(), engine, dict(arrays))
        exact = found["failing_sites"] == 0
        right &= exact
        figures = [str(found[name]) for name in ("sites", "codes", "different", "unexplained", "free_sqnr_db")]
        model = engine.name.removesuffix(f".onnxruntime-{cpu}.engine")
        seconds = f"{time.perf_counter() - started:.0f}"
        verdict = "exact" if exact else "NOT EXACT"
        sys.stdout.write(table_line(["WebAssembly, in Node", model, cpu, *figures, seconds, verdict]))
        sys.stdout.flush()
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
