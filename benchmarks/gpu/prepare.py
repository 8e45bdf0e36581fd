"""Build everything a GPU machine needs, on a machine without one, into one folder::

    python benchmarks/gpu/prepare.py build/gpu [--models deit_s] [--checkpoint FILE] [--wheels 3.12]

The folder then holds the engines, their manifests, their reference I/O, and ``run.py`` and ``runner.py``, which measure
them on the GPU with nothing else of this project; with ``--wheels``, also what that machine's Python installs offline.
Weights are random without ``--checkpoint``: speed and agreement with the reference do not depend on them, accuracy
does. What is there already is kept, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from commands import run_command
from variants import FLOAT, MODELS, VARIANTS, Variant

__all__ = ["build", "download_wheels", "export"]

_WHEELS = ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings", "cuda-bindings", "cuda-pathfinder", "numpy")

#: For the GPU's throughput the largest batch is 64.
_BATCHES = ("--opt-batch", "8", "--max-batch", "64")


def export(model: str, variant: Variant, folder: Path, checkpoint: Path | None = None) -> Path:
    """The ONNX file of ``variant`` in ``folder/exports``, made where it is not there."""
    path = folder / "exports" / f"{model}-{variant.export}.onnx"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = ["--checkpoint", str(checkpoint)] if checkpoint else ["--no-pretrained"]
    if variant.export == FLOAT:
        run_command("repq-export", model, *weights, "--float", "-o", str(path))
        return path
    options = ["--bits", variant.bits, "--softmax", variant.attention, "--num-calib", "4"]
    run_command("repq-export", model, *weights, *options, "-o", str(path))
    return path


def build(model: str, variant: Variant, folder: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """Build ``variant`` of ``model`` into ``folder``; what ``repq-build-engine`` says about it."""
    record = folder / "builds" / f"{model} {variant.name}.json"
    if record.exists():
        return json.loads(record.read_text())
    source = export(model, variant, folder, checkpoint)
    stem = folder / f"{model}-{variant.export}"
    options = [*variant.build_options, *_BATCHES, "-o", str(stem)]
    (engine,) = run_command("repq-build-engine", str(source), "--no-speed-check", *options).result["engines"]
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps(engine, indent=2))
    return engine


def download_wheels(python: str, folder: Path) -> None:
    """What ``run.py`` imports, for ``python`` ("3.12") on Linux x86-64, at the versions that are installed here."""
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in _WHEELS]
    platforms = [f"--platform=manylinux_2_{glibc}_x86_64" for glibc in (17, 24, 27, 28)]
    options = ["--only-binary=:all:", "--no-deps", f"--python-version={python}", *platforms]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "-d", str(folder), *wanted], check=True)


def _same_weights(record: Path, checkpoint: Path | None) -> None:
    """What is in a folder was made of one checkpoint: refuse to go on there with another."""
    weights = "random" if checkpoint is None else hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    if record.exists() and record.read_text() != weights:
        sys.exit(f"{record.parent}: holds engines of other weights ({record.read_text()}); name another folder")
    record.write_text(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--checkpoint", type=Path, help="weights of the one model in --models")
    parser.add_argument("--wheels", metavar="PYTHON", help="download the wheels for this Python version, as in 3.12")
    args = parser.parse_args()
    if args.checkpoint and len(args.models) != 1:
        parser.error("--checkpoint belongs to one model: name it with --models")
    args.folder.mkdir(parents=True, exist_ok=True)
    _same_weights(args.folder / "weights.txt", args.checkpoint)
    for model in args.models:
        for variant in VARIANTS:
            built = build(model, variant, args.folder, args.checkpoint)
            sys.stderr.write(f"{Path(built['engine']).name}: {built['seconds']:.1f} s, {built['bytes'] / 1e6:.1f} MB\n")
    if args.wheels:
        download_wheels(args.wheels, args.folder / "wheels")
    for script in ("run.py", "runner.py"):
        shutil.copy(Path(__file__).with_name(script), args.folder)
    print(f"copy {args.folder} (without exports/ and builds/) to the GPU machine, and there: python run.py .")


if __name__ == "__main__":
    main()
