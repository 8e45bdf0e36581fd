"""Accuracy beside speed: ours and the peers' files of one trained model, calibrated on the same 32 images.

The model is the embedded demo or, with ``--checkpoint`` and ``--data``, timm's ``vit_small_patch14_dinov2`` at 112
pixels with ten classes, fine-tuned on CIFAR-10; the data is then a folder with ``train`` (calibration) and ``test``
(labelled), one folder a class in each::

    benchmarks/peers/install.sh .venv-peers
    python benchmarks/peer_accuracy.py --peers .venv-peers/bin/python --checkpoint vit_s14_cifar10.safetensors \\
        --data cifar10

Accuracy is measured on the files whose speed at batch 1 is measured, in the same runtime. Files are kept in ``--work``;
the table is written anew. ``--limit`` takes only so many test images, for a trial run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from commands import run_command, table_line
from speed import files
from subjects import BACKENDS, Maker, write_images

from repq_deploy.calib_data import load_sample, open_images
from repq_deploy.cli.targets import recorded_preprocess

RESULTS = Path(__file__).parent / "results" / "peers-accuracy.md"
MODEL = ("vit_small_patch14_dinov2", "--img-size", "112", "--num-classes", "10")
HEADER = (
    "runtime",
    "file",
    "top-1 %",
    "minus float, points (standard error)",
    "same class as float %",
    "ms, batch 1",
    "speed",
    "MB",
)


def rows(backend: str, maker: Maker, evaluation: tuple[str, ...], rounds: int, seconds: float) -> list[list[str]]:
    """Speed side by side, then accuracy one by one."""
    made, missing = files(maker, backend)
    named = [f"{label}={path}" for label, path in made.items()]
    options = ("--batch", "1", "--rounds", str(rounds), "--seconds", str(seconds))
    speeds = {one["label"]: one for one in run_command("repq-bench", *named, *options).result["results"]}
    found = []
    for label, path in made.items():
        both = run_command(
            "repq-eval",
            str(path),
            *("--against", str(maker.float_onnx()), "--preprocess-from", str(maker.float_onnx()), *evaluation),
        ).result
        speed = speeds[label]
        found.append(
            [
                backend,
                label,
                f"{both['top1']:.2f}",
                f"{both['top1_difference']:+.2f} ({both['top1_difference_standard_error']:.2f})",
                f"{both['agreement']:.2f}",
                f"{speed['median_ms']:.2f}",
                f"{speed['speedup']:.2f}",
                f"{speed['size_mb']:.1f}",
            ]
        )
    return found + [[backend, label, f"fails: {error}", *[""] * 5] for label, error in missing.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peers", help="Python of the environment that peers/install.sh made; without it no peers.")
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--calibration", type=int, default=32, help="images, the same for all")
    parser.add_argument("--limit", type=int, help="only so many test images")
    parser.add_argument("--work", type=Path, default=Path("out") / "peer-accuracy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--method", default="best", help="of ours")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if (args.checkpoint is None) != (args.data is None):
        parser.error("--checkpoint and --data belong together")
    for folder in (args.work, args.output.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if args.data is None:
        name, said, model, train, test = "demo", "the embedded demo", ("demo",), "demo:calib", "demo:test"
    else:
        name, said = "vit_s14", "ViT-S/14 at 112 pixels, CIFAR-10"
        model = (*MODEL, "--checkpoint", str(args.checkpoint))
        train, test = str(args.data / "train"), str(args.data / "test")
    calibration = ("--calib-data", train, "--num-calib", str(args.calibration), "--seed", "0", "--method", args.method)
    images = args.work / f"{name}.images-{args.calibration}.npz"
    maker = Maker(name, model, calibration, images, args.work, args.peers)
    if not images.exists():
        preprocess = recorded_preprocess(str(maker.float_onnx()))
        # The very sample that repq-export takes with this count and seed.
        write_images(images, load_sample(open_images(train), preprocess, count=args.calibration, seed=0).pixels)
    evaluation = ("--data", test, *(("--limit", str(args.limit)) if args.limit else ()))
    lines = []
    for backend in args.backends:
        lines += rows(backend, maker, evaluation, args.rounds, args.seconds)
    tested = min(len(open_images(test)), args.limit or sys.maxsize)
    title = (
        f"`python benchmarks/peer_accuracy.py`: {said}, {tested:,} test images, "
        f"{args.calibration} calibration images,\n"
        f"method `{args.method}`, preset `deploy`; speed: times float's in the same runtime.\n\n"
    )
    header = table_line(HEADER) + table_line(["---"] * len(HEADER))
    args.output.write_text(title + header + "".join(map(table_line, lines)))


if __name__ == "__main__":
    main()
