"""Speed and memory of our ONNX Runtime engines against the float model and ``quantize_static``, in the same run.

Random weights: this is about speed. For each model the float ONNX, ours (w8a8 with quantized and with float attention,
w4a4) and the peer in its four configurations run interleaved, each in a process of its own; one row a file and batch
size, ratios to float. The peer's files are made in an environment of their own::

    benchmarks/peers/install.sh .venv-peers
    python benchmarks/speed.py --peers .venv-peers/bin/python [--models deit_s swin_t] [--output FILE]

Files are kept in ``--work`` and models whose rows are already in the output are skipped, so that a run that was
interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from commands import run_command, table_line

MODELS = ("deit_s", "deit_b", "swin_t", "vit_s")
OURS = {
    "ours w8a8, float attention": ("--bits", "w8a8", "--attention", "float"),
    "ours w8a8": ("--bits", "w8a8"),
    "ours w4a4": ("--bits", "w4a4"),
}
PEERS = [(activations, ops) for activations in ("qint8", "quint8") for ops in ("products", "all")]
RESULTS = Path(__file__).parent / "results" / "speed.md"
PEER_SCRIPT = Path(__file__).parent / "peers" / "quantize_static.py"
HEADER = ("model", "file", "batch", "median ms", "p90", "images/s", "speed", "memory MB", "of float", "file MB")


def files(model: str, work: Path, peers: str | None, calibration: int) -> dict[str, Path]:
    """Make what is compared for one model, by label; what is already there is kept."""
    made = {"float": work / f"{model}.float.onnx"}
    if not made["float"].exists():
        run_command("repq-export", model, "--no-pretrained", "--float", "-o", str(made["float"]))
    for label, options in OURS.items():
        stem = work / f"{model}.{'-'.join(label.replace(',', '').split()[1:])}"
        made[label] = Path(f"{stem}.onnxruntime.engine")
        if not made[label].exists():
            source = f"{stem}.onnx"
            common = ("--no-pretrained", "--num-calib", str(calibration), "-o", source)
            run_command("repq-export", model, *options, *common)
            (engine,) = run_command("repq-build-engine", source, "--backend", "onnxruntime", "-o", str(stem)).result[
                "engines"
            ]
            if engine["verdict"] != "PASSED":
                sys.exit(f"{source}: {engine['verdict']}")
    for activations, ops in PEERS if peers else ():
        label = f"quantize_static {activations} {ops}"
        output = work / f"{model}.static-{activations}-{ops}.onnx"
        if not output.exists():
            images = work / f"images-{calibration}.npz"
            if not images.exists():
                np.savez(images, images=np.random.default_rng(0).normal(size=(calibration, 3, 224, 224)).astype("f4"))
            command = [peers, str(PEER_SCRIPT), str(made["float"]), str(images), str(output)]
            subprocess.run([*command, "--activations", activations, "--ops", ops], check=True)  # type: ignore[list-item]
        made[label] = output
    return made


def rows(model: str, made: dict[str, Path], rounds: int, seconds: float) -> list[list[str]]:
    """Measure the files side by side."""
    named = [f"{label}={path}" for label, path in made.items()]
    options = ("--batch", "1,8", "--rounds", str(rounds), "--seconds", str(seconds))
    return [
        [
            model,
            one["label"],
            str(one["batch"]),
            f"{one['median_ms']:.1f}",
            f"{one['p90_ms']:.1f}",
            f"{one['images_per_s']:.1f}",
            f"{one['speedup']:.2f}",
            f"{one['memory_mb']:.0f}",
            f"{one['memory_ratio']:.2f}",
            f"{one['size_mb']:.1f}",
        ]
        for one in run_command("repq-bench", *named, *options).result["results"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--peers", help="Python of the environment that peers/install.sh made; without it no peers.")
    parser.add_argument("--work", type=Path, default=Path("out") / "speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument(
        "--calibration", type=int, default=8, help="Images to calibrate on: speed does not depend on it."
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    for folder in (args.work, args.output.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if not args.output.exists():
        from repq_deploy.engines.bench import describe_machine  # noqa: PLC0415 - only for the title

        machine = describe_machine((0, 1))
        title = f"`python benchmarks/speed.py`, random weights, ONNX Runtime, {machine}. Speed: times float's."
        args.output.write_text(title + "\n\n" + table_line(HEADER) + table_line(["---"] * len(HEADER)))
    for model in args.models:
        if f"| {model} | float | 8 |" in args.output.read_text():
            continue
        found = rows(model, files(model, args.work, args.peers, args.calibration), args.rounds, args.seconds)
        with args.output.open("a") as output:
            output.writelines(map(table_line, found))


if __name__ == "__main__":
    main()
