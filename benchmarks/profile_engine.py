"""Where the time of an ONNX Runtime engine goes: milliseconds of each kind of kernel, from the runtime's own profiler.

    python benchmarks/profile_engine.py deit_s.onnxruntime.engine [--batch 1 8] [--output benchmarks/results/profile.md]

An engine is run as any client would open it, on the cores that are there;
kernels that take under 1 % are summed up.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import onnxruntime as ort
from commands import table_line

from repq_deploy.engines.bench.measure import describe_machine
from repq_deploy.engines.manifest import read_manifest

RESULTS = Path(__file__).parent / "results" / "profile.md"
#: Kernels that multiply integers.
INTEGER = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "QLinearMatMul", "MatMulInteger", "QLinearConv")
HEADER = ("engine", "batch", "kernel", "ms", "share %", "nodes")


def kernel_times(engine: Path, batch: int, runs: int) -> tuple[dict[str, float], Counter[str]]:
    """Milliseconds a run and number of nodes of each kind of kernel, the first five runs left out."""
    manifest = read_manifest(engine)
    if manifest.backend != "onnxruntime":
        sys.exit(f"{engine}: built for {manifest.backend}; only ONNX Runtime's profile is read here")
    options = ort.SessionOptions()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
        images = manifest.input.random(batch)
        for _ in range(runs + 5):
            session.run(None, {"images": images})
        events = json.loads(Path(session.end_profiling()).read_text())
    events = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    nodes = Counter(event["name"] for event in events)
    kinds: Counter[str] = Counter()
    times: dict[str, float] = {}
    seen: Counter[str] = Counter()
    for event in events:
        kind = event["args"]["op_name"]
        if not seen[event["name"]]:
            kinds[kind] += 1
        seen[event["name"]] += 1
        # A node's name may be empty and so be shared: the first runs of all who have it are left out.
        if seen[event["name"]] > 5 * nodes[event["name"]] / (runs + 5):
            times[kind] = times.get(kind, 0) + event["dur"] / 1000 / runs
    return times, kinds


def rows(engine: Path, batch: int, runs: int) -> list[list[str]]:
    """The kernels of one engine, the slowest first, and what share multiplies integers."""
    times, kinds = kernel_times(engine, batch, runs)
    total = sum(times.values())
    name = engine.name.split(".")[0]
    shown = sorted((kind for kind in times if times[kind] >= 0.01 * total), key=lambda kind: -times[kind])
    found = [(kind, times[kind], kinds[kind]) for kind in shown]
    rest = [kind for kind in times if kind not in shown]
    found.append(("the rest", sum(times[kind] for kind in rest), sum(kinds[kind] for kind in rest)))
    found.append(("all", total, sum(kinds.values())))
    integer = [kind for kind in times if kind in INTEGER]
    found.append(("all that multiply integers", sum(times[kind] for kind in integer), sum(kinds[k] for k in integer)))
    return [
        [name, str(batch), kind, f"{time:.2f}", f"{100 * time / total:.1f}", str(count)] for kind, time, count in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", type=Path)
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    lines = [row for engine in args.engines for batch in args.batch for row in rows(engine, batch, args.runs)]
    machine = describe_machine(tuple(os.sched_getaffinity(0)))
    title = f"`python benchmarks/profile_engine.py`, ONNX Runtime {ort.__version__}, {machine}.\n\n"
    args.output.write_text(title + "".join(map(table_line, [HEADER, ["---"] * len(HEADER), *lines])))


if __name__ == "__main__":
    main()
