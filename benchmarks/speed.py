"""Speed and memory of our CPU engines against the float model and the peers in the same runtime, in the same run.

Random weights: this is about speed. For each model and runtime the float model, ours and the peers' files (see
``subjects.py``) run interleaved, each in a process of its own; one row a file and batch size, ratios to float in that
runtime. The peers' files are made in an environment of their own::

    benchmarks/peers/install.sh .venv-peers
    python benchmarks/speed.py --peers .venv-peers/bin/python [--models deit_s swin_t] [--backends openvino]

Files are kept in ``--work``, and what already has its rows in the output is skipped, so that a run that was interrupted
goes on where it was. ``--prepare`` makes the files and measures nothing: only measuring needs an idle machine.
``--write-results`` measures nothing either; it makes the table of docs/results.md from the output.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from commands import run_command, table_line, write_results
from subjects import BACKENDS, OURS, PEERS, Maker, write_images

from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.bench.measure import describe_machine
from repq_deploy.engines.cpu import kind_here
from repq_deploy.engines.foreign import open_plain
from repq_deploy.engines.prove_engine import sqnr_db
from repq_deploy.engines.runner import open_engine
from repq_deploy.engines.source import read_source

MODELS = ("deit_s", "deit_b", "swin_t", "vit_s")
#: Files of peers that do not saturate on x86 without VNNI.
EXACT_IN_16_BITS = ("quantize_static, unsigned weights", "quantize_static, 7-bit weights")
RESULTS = Path(__file__).parent / "results" / "speed.md"
HEADER = (
    *(
        "CPU",
        "runtime",
        "model",
        "file",
        "batch",
        "median ms",
        "p90",
        "images/s",
        "speed",
        "memory MB",
        "of float",
        "MB",
    ),
    "dB to VNNI",
)


def files(maker: Maker, backend: str) -> tuple[dict[str, Path], dict[str, str]]:
    """What is compared for one model in one runtime, by label, and why a peer is missing, by its label."""
    made = {"float": maker.float_model(backend)}
    kind = kind_of(backend)
    made |= {label: maker.ours(backend, label) for label, one in OURS.items() if one.cpu in ("any", kind)}
    missing = {}
    for label in PEERS[backend] if maker.peers else ():
        file = maker.peer(backend, label)
        if isinstance(file, Path):
            made[label] = file
        else:
            missing[label] = file
    return made, missing


def kind_of(backend: str) -> str:
    """The kind of this machine's CPU, as the runtime sees it."""
    return kind_here(saturates=backend_named(backend).saturates())


def beside_vnni(made: dict[str, Path], images: Path, kind: str) -> dict[str, str]:
    """How near each file's logits are to its own on a CPU with VNNI, in dB, where those were kept beside it."""
    with np.load(images) as arrays:
        given = arrays["images"][:4]
    near = {}
    for label, path in made.items():
        kept = path.with_name(f"{path.name}.logits.npy")
        if kind != "avx2" and kept.exists():
            near[label] = ""
            continue
        logits = (open_engine(path)[0] if path.suffix == ".engine" else open_plain(path).runner())(given)
        near[label] = f"{sqnr_db(np.load(kept), logits):.1f}" if kind == "avx2" and kept.exists() else ""
        if kind != "avx2":
            np.save(kept, logits)
    return near


def rows(backend: str, model: str, made: dict[str, Path], images: Path, rounds: int, seconds: float) -> list[list[str]]:
    """Measure the files side by side."""
    near = beside_vnni(made, images, kind_of(backend))
    named = [f"{label}={path}" for label, path in made.items()]
    options = ("--batch", "1,8", "--rounds", str(rounds), "--seconds", str(seconds))
    return [
        [
            kind_of(backend),
            backend,
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
            near[one["label"]],
        ]
        for one in run_command("repq-bench", *named, *options).result["results"]
    ]


def overview(text: str) -> str:
    """The table of docs/results.md from the whole one: our speeds, and the fastest peer's in that runtime and batch."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    measured = [dict(zip(HEADER, row, strict=True)) for row in cells[2:] if row[4]]
    keys, ours = ("CPU", "runtime", "model", "batch"), ("ours w8a8", "ours w8a8, any CPU", "ours w7a8", "ours w4a4")
    columns = (*keys, "float ms", *ours, "fastest peer, 8 bits", "fastest exact peer")
    lines = [table_line(columns), table_line(["---"] * len(columns))]
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in measured):
        group = [row for row in measured if tuple(row[name] for name in keys) == key]
        by_file = {row["file"]: row for row in group}
        peers = [row for row in group if row["file"] in PEERS[key[1]]]
        exact = [row for row in peers if key[0] != "avx2" or row["file"] in EXACT_IN_16_BITS]
        speeds = (by_file[label]["speed"] if label in by_file else "" for label in ours)
        lines.append(table_line([*key, by_file["float"]["median ms"], *speeds, _fastest(peers), _fastest(exact)]))
    return "".join(lines)


def _fastest(peers: list[dict[str, str]]) -> str:
    peer = max(peers, key=lambda row: float(row["speed"]), default=None)
    return f"{peer['speed']} ({peer['file']})" if peer else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--peers", help="Python of the environment that peers/install.sh made; without it no peers.")
    parser.add_argument("--prepare", action="store_true", help="make the files, measure nothing")
    parser.add_argument("--work", type=Path, default=Path("out") / "speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--calibration", type=int, default=8, help="images: speed does not depend on their number")
    parser.add_argument("--method", default="best", help="of ours; repq is calibrated sooner, for a trial run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--write-results", action="store_true", help="only replace the table of docs/results.md")
    args = parser.parse_args()
    if args.write_results:
        write_results("speed-table", overview(args.output.read_text(encoding="utf-8")))
        return
    for folder in (args.work, args.output.parent):
        folder.mkdir(parents=True, exist_ok=True)
    calibration = ("--num-calib", str(args.calibration), "--method", args.method)
    for model in args.models:
        images = args.work / f"{model}.images-{args.calibration}.npz"
        maker = Maker(model, (model, "--no-pretrained"), calibration, images, args.work, args.peers)
        if not images.exists():
            shape = read_source(maker.float_onnx()).image_shape
            write_images(images, np.random.default_rng(0).normal(size=(args.calibration, *shape)))
        for backend in args.backends:
            kind = kind_of(backend)
            if args.output.exists() and f"| {kind} | {backend} | {model} | float | 8 |" in args.output.read_text():
                continue
            made, missing = files(maker, backend)
            for label, error in missing.items():
                sys.stderr.write(f"{backend} {model}: no {label}: {error}\n")
            if args.prepare:
                continue
            if not args.output.exists():
                args.output.write_text(title())
            lines = rows(backend, model, made, images, args.rounds, args.seconds)
            lines += [
                [kind, backend, model, label, "", f"fails: {error}", *[""] * 7] for label, error in missing.items()
            ]
            with args.output.open("a") as output:
                output.writelines(map(table_line, lines))


def title() -> str:
    machine = describe_machine(tuple(os.sched_getaffinity(0)))
    text = (
        f"`python benchmarks/speed.py`, random weights, {machine}. Speed: times float's in the same\n"
        "runtime. Ours quantize attention probabilities as the default method does: uniformly from 6 bits on, on a\n"
        "logarithmic grid below. Files of one runtime and model were measured side by side, others at other times.\n"
        "CPU avx2: the same machine by `benchmarks/cpus/as_avx2.py`, AVX-512 and VNNI hidden from the runtimes. dB to\n"
        "VNNI: how near the file's logits are there to its own with VNNI; ties leave 30 to 50, saturation less.\n\n"
    )
    return text + table_line(HEADER) + table_line(["---"] * len(HEADER))


if __name__ == "__main__":
    main()
