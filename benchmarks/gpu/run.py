"""Measure TensorRT-RTX or TensorRT engines on this machine's GPU; of the project it needs only ``runner.py``::

    pip install --no-index --no-deps wheels/*.whl      # what prepare.py --wheels downloaded; the driver brings CUDA 13
    python run.py FOLDER [--output FOLDER/results]

FOLDER holds engines with their ``.json`` and ``.reference.npz``, as ``prepare.py`` or ``repq-build-engine`` leaves
them. Each engine runs in a process of its own. For each: does it load and run, or the exact error; does it agree with
its reference; latency by batch size with a CUDA graph; what the engine's inspector says. ``results.json`` grows engine
by engine, and an interrupted run goes on where it was; ``results.md`` is the table. Speed-ups are against the FP16
engine of the same model (``*-float.*``): without one there are none. No engine is replaced by another that runs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from runner import Runner, TensorRTRunner

BATCHES = (1, 8, 32, 64)
RUNS = 200
PASSED, FAILED, ERROR = "PASSED", "FAILED", "ERROR"
#: One image alone may be this much worse than all together, as in the project's own validation.
ONE_IMAGE_DB = 6.0


def _decibel(signal: float, noise: float) -> float:
    return 200.0 if noise == 0 else min(200.0, 10 * math.log10(max(signal, 1e-300) / noise))


def compare(expected: np.ndarray, found: np.ndarray, min_sqnr_db: float) -> dict[str, Any]:
    """Figures of ``found`` logits [N, classes] against the reference's, and the verdict."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return {"verdict": FAILED, "reason": f"logits {list(found.shape)}, {int(np.isfinite(found).sum())} finite"}
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    errors = found - expected
    per_image = [_decibel(np.square(a).sum(), np.square(e).sum()) for a, e in zip(expected, errors, strict=True)]
    figures = {
        "max_abs_error": float(np.abs(errors).max()),
        "sqnr_db": _decibel(np.square(expected).sum(), np.square(errors).sum()),
        "worst_image_sqnr_db": min(per_image),
        "top1_agreement": float((expected.argmax(1) == found.argmax(1)).mean()),
        "required_sqnr_db": min_sqnr_db,
    }
    good = figures["sqnr_db"] >= min_sqnr_db and figures["worst_image_sqnr_db"] >= min_sqnr_db - ONE_IMAGE_DB
    return {"verdict": PASSED if good else FAILED, **figures}


def summarize_layers(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """How many layers of each type and output format, and the names of those that look like fused attention."""
    kinds: Counter[str] = Counter()
    for layer in layers:
        outputs = layer.get("Outputs") or [{}]
        kind = outputs[0].get("Datatype") or outputs[0].get("Format/Datatype", "?")
        kinds[f"{layer.get('LayerType', '?')} {kind}"] += 1
    names = [str(layer.get("Name", "")) for layer in layers]
    attention = [name for name in names if "mha" in name.lower() or "attention" in name.lower()]
    return {"count": len(layers), "kinds": dict(kinds.most_common()), "attention": attention}


def measure(path: Path, open_runner: Any = TensorRTRunner, *, batches: tuple[int, ...] = BATCHES) -> dict[str, Any]:
    """All there is to know of one engine on this machine; an error ends it there and is part of the result."""
    result: dict[str, Any] = {"engine": path.name, "bytes": path.stat().st_size, "latency_ms": {}}
    result |= dict.fromkeys(("model", "bits", "attention", "compute", "target"), "?")
    try:
        manifest = json.loads(path.with_suffix(".json").read_text())
        result.update(_described(manifest))
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["engine"]["sha256"]:
            raise RuntimeError("the engine is not the one its manifest describes: copy both again")
        with np.load(path.with_name(manifest["reference"]), allow_pickle=False) as reference:
            images, logits, source = reference["images"], reference["logits"], str(reference["source_sha256"])
        if source != manifest["source"]["sha256"]:
            raise RuntimeError(f"{manifest['reference']} belongs to another model")
        runner = open_runner(data, manifest["backend"])
        found = np.concatenate([runner.run(images[:1]), runner.run(np.ascontiguousarray(images[1:]))])
        limit = manifest["validation"]["tolerance"]["min_sqnr_db"]
        result.update(compare(logits, found, limit))
        for batch in (size for size in batches if size <= manifest["profile"]["max"]):
            tiled = np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
            times = sorted(runner.milliseconds(tiled, RUNS))
            median, p99 = (float(np.percentile(times, q)) for q in (50, 99))
            result["latency_ms"][str(batch)] = {"median": median, "p99": p99, "images_per_s": 1000 * batch / median}
        result["layers"] = summarize_layers(runner.layers())
    except Exception as error:  # whatever the runtime throws is what this run found out
        result.update(verdict=ERROR, reason=f"{type(error).__name__}: {error}")
    return result


def _described(manifest: dict[str, Any]) -> dict[str, str]:
    """What an engine's row says of it."""
    metadata = manifest["metadata"]
    return {
        "model": metadata.get("repq.model", "?"),
        "bits": metadata.get("repq.bits") or "float",
        "attention": metadata.get("repq.softmax", "float"),
        "compute": manifest.get("compute", "int8") if metadata.get("repq.bits") else manifest["precision"],
        "target": manifest["target"] or "default",
    }


def machine() -> dict[str, str]:
    """The GPU, its driver and the packages."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        gpu = f"none ({error})"
    found = {"gpu": gpu, "system": platform.platform(), "python": platform.python_version()}
    for name in ("tensorrt_rtx_bindings", "tensorrt", "cuda.bindings"):
        try:
            found[name] = str(importlib.import_module(name).__version__)
        except Exception as error:
            found[name] = f"not here ({type(error).__name__})"
    return found


def table(results: dict[str, Any]) -> str:
    """The Markdown table; a speed-up is against the FP16 engine of the same model that passed, at the same batch."""
    lines = [
        "| model | bits | attention | products in | target | verdict | SQNR dB | batch: ms (p99), speed against FP16 |"
    ]
    lines += ["|" + " --- |" * 8]
    engines = results["engines"]
    base: dict[tuple[str, str], float] = {}
    for one in engines:
        if one["bits"] == "float" and one["verdict"] == PASSED:
            for batch, times in one["latency_ms"].items():
                key = (one["model"], batch)
                base[key] = min(times["median"], base.get(key, math.inf))
    for one in engines:
        speeds = []
        for batch, times in one["latency_ms"].items():
            against = base.get((one["model"], batch))
            ratio = f" {against / times['median']:.2f}x" if against else ""
            speeds.append(f"{batch}: {times['median']:.3f} ({times['p99']:.3f}){ratio}")
        sqnr = f"{one['sqnr_db']:.1f} " if "sqnr_db" in one else ""
        sqnr = (sqnr + one.get("reason", "") * (one["verdict"] != PASSED)).strip()
        cells = [one[key] for key in ("model", "bits", "attention", "compute", "target", "verdict")]
        lines.append("| " + " | ".join([*cells, sqnr.replace("|", "/"), "; ".join(speeds)]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 where every engine passed, 1 where one did not, 3 where there is no GPU or no engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="where results.json and results.md go; default: the folder")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        print(json.dumps(measure(args.one)))
        return 0
    output = args.output or args.folder
    output.mkdir(parents=True, exist_ok=True)
    file = output / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {"machine": machine(), "engines": []}
    if results["machine"]["gpu"].startswith("none"):
        print(f"no GPU: {results['machine']['gpu']}", file=sys.stderr)
        return 3
    done = {one["engine"] for one in results["engines"]}
    for path in sorted(args.folder.glob("*.engine")):
        if path.name in done:
            continue
        command = [sys.executable, __file__, str(args.folder), "--one", str(path)]
        child = subprocess.run(command, check=False, capture_output=True, text=True)
        if child.returncode == 0:
            one = json.loads(child.stdout.splitlines()[-1])
        else:  # the runtime took the process along
            said = " ".join(child.stderr.split())[-300:]
            one = {**measure(path, _crash(child.returncode, said))}
        results["engines"].append(one)
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(results, indent=2) + "\n")
        partial.replace(file)  # whole, whenever this is interrupted
        print(f"{path.name}: {one['verdict']} {one.get('reason', '')}", file=sys.stderr)
    (output / "results.md").write_text("\n".join(f"{k}: {v}  " for k, v in results["machine"].items()) + "\n\n")
    with (output / "results.md").open("a") as report:
        report.write(table(results))
    if not results["engines"]:
        print(f"no engine in {args.folder}", file=sys.stderr)
        return 3
    return 0 if all(one["verdict"] == PASSED for one in results["engines"]) else 1


def _crash(status: int, said: str) -> Any:
    def open_runner(engine: bytes, backend: str) -> Runner:
        raise RuntimeError(f"the process ended with status {status}: {said}")

    return open_runner


if __name__ == "__main__":
    sys.exit(main())
