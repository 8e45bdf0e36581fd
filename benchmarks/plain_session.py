"""What somebody gets who opens an ONNX Runtime engine with nothing but ``onnxruntime.InferenceSession(path)``.

    python benchmarks/plain_session.py MODEL.onnx ... --data FOLDER [--output benchmarks/results/plain-session.md]

For each canonical file an engine is built, with the default ``--cpu``. One row a file: the codes of every site in the
graph that the very session saved (``optimized_model_filepath``) against the canonical graph's, on the reference's
images; top-1 beside the canonical file's, run without optimizations, with the paired standard error; and the time of
the session over that of our own runner, minima of interleaved runs at batch 1 and 8. Under
``benchmarks/cpus/as_avx2.py`` the same on AVX2 kernels.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from commands import run_command, table_line

from repq_deploy.calib_data import Preprocess, open_images
from repq_deploy.engines.backends.onnxruntime import BACKEND, open_reference
from repq_deploy.engines.bench.measure import describe_machine
from repq_deploy.engines.cpu import kind_here
from repq_deploy.engines.reference import make_reference
from repq_deploy.engines.runner import open_engine
from repq_deploy.engines.source import read_source
from repq_deploy.evaluation import Target, evaluate
from repq_deploy.export.names import INPUT, PREPROCESS
from repq_deploy.export.prove_kernels import compare_codes

RESULTS = Path(__file__).parent / "results" / "plain-session.md"
HEADER = (
    *("CPU", "model", "built for", "codes", "different", "not on a tie", "top-1 %", "less canonical's", "std. error"),
    *("time batch 1", "batch 8"),
)


def ratio(plain: onnxruntime.InferenceSession, runner, images: np.ndarray, rounds: int) -> float:  # type: ignore[no-untyped-def]
    """The session's time over the runner's: minima of runs in turn."""
    best = [np.inf, np.inf]
    for _ in range(rounds):
        for index, run in enumerate((lambda: plain.run(None, {INPUT: images}), lambda: runner(images))):
            started = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - started)
    return best[0] / best[1]


def row(model: Path, data: str, work: Path, rounds: int) -> list[str]:
    source = read_source(model)
    run_command(
        "repq-build-engine", str(model), "--backend", "onnxruntime", "--no-speed-check", "-o", str(work / model.stem)
    )
    engine = work / f"{model.stem}.onnxruntime.engine"
    runner, manifest = open_engine(engine)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(engine), options)
        graph = onnx.load(options.optimized_model_filepath)
    codes = compare_codes(source.model, graph, make_reference(source, data=None, seed=0).images)
    plain = onnxruntime.InferenceSession(str(engine))
    preprocess = Preprocess.from_json(source.metadata[PREPROCESS])
    alone = Target("plain", "session", lambda images: plain.run(None, {INPUT: images})[0], preprocess, source.outputs)
    canonical = Target("canonical", "ONNX", open_reference(source), preprocess, source.outputs)
    found = evaluate(alone, open_images(data, demo_split="test"), against=canonical)
    images = source.input.random(8)
    return [
        kind_here(saturates=BACKEND.saturates()),
        model.stem,
        str(manifest.cpu),
        *map(str, (codes.codes, codes.different, codes.unexplained)),
        f"{found.target.top1:.2f}",
        f"{found.top1_difference:+.2f}",
        f"{found.top1_difference_standard_error:.2f}",
        *(f"{ratio(plain, runner, images[:batch], rounds // batch):.3f}" for batch in (1, 8)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="canonical ONNX files")
    parser.add_argument("--data", required=True, help="labelled images, a folder a class, or demo")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--output", type=Path, default=RESULTS, help="rows are appended to it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        lines = [row(model, args.data, Path(work), args.rounds) for model in args.models]
    if not args.output.exists():
        machine = describe_machine(tuple(os.sched_getaffinity(0)))
        title = f"`python benchmarks/plain_session.py`, ONNX Runtime {onnxruntime.__version__}, {machine}.\n\n"
        args.output.write_text(title + table_line(HEADER) + table_line(["---"] * len(HEADER)))
    with args.output.open("a") as output:
        output.writelines(map(table_line, lines))


if __name__ == "__main__":
    main()
