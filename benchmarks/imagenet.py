"""The papers' table on ImageNet: nine models, bits and methods, ours beside the published figures.

``--val`` has ImageNet's validation images in folders named by WordNet ids (fewer folders and images will do),
``--calib`` those to calibrate on, of which 32 are chosen with the seed, as the papers choose them from the training
images::

    python benchmarks/imagenet.py --val imagenet/val --calib imagenet/train --devices cuda:0,cuda:1
    python benchmarks/imagenet.py --val val --calib train --models deit_t --bits w4a4 --methods repq best --workers 8

Weights come from the hub, or from ``--checkpoints DIR`` as ``DIR/deit_s.safetensors`` and so on. Every cell is one line
of ``results.jsonl`` in the folder of ``--output`` and is not repeated as long as it is made of the same: weights,
images, bits, method, seed, version. A cell that was killed goes on where it was. The published figures, where they are
from, and how they differ are in published.yaml.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import imagenet_cells
import yaml
from commands import table_line
from imagenet_cells import FLOAT, Cell, Setting, images_of, key_of, made_of, validation, worker

from repq_deploy.errors import BadInput, RepqError

PUBLISHED = Path(__file__).parent / "published.yaml"
METHODS = ("minmax", "percentile", "repq", "repquant", "dopq", "erq", "mixq", "best", "best-high")
BITS = ("w8a8", "w6a6", "w4a4", "w3a4", "w3a3")
#: Its calibration times are scaled for the estimate: of a ViT-S/14 on images of 112 pixels, 1.4 GMAC, on two cores.
MEASURED, MEASURED_GMACS = Path(__file__).parent / "results" / "accuracy-vit_s14.jsonl", 1.4


def published(file: Path = PUBLISHED) -> dict[str, Any]:
    """``models`` and ``rows`` of published.yaml."""
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


def cells(models: Sequence[str], bits: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """The float models first, then the quantized ones, those that matter most first."""
    quantized = [Cell(model, b, method, seed) for seed in seeds for b in bits for method in methods for model in models]
    return [Cell(model, FLOAT, FLOAT, 0) for model in models] + quantized


def read_records(file: Path) -> dict[str, dict[str, Any]]:
    """The records of earlier runs by key; a line that a killed run left unfinished is passed over."""
    records = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records[record["key"]] = record
    return records


def table(records: Sequence[dict[str, Any]], data: dict[str, Any], models: Sequence[str]) -> str:
    """Top-1 of ours, the mean over seeds, and beneath those of the same bits as published."""
    head = ("bits", "method", "calibration images", *models, "from")
    lines = [table_line(head), table_line(["---"] * len(head))]
    found: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    for record in records:
        row = found.setdefault((record["bits"], record["method"], record["images"]), {})
        row.setdefault(record["model"], []).append(record["top1"])
    in_order = [(FLOAT, FLOAT), *((bits, method) for bits in BITS for method in METHODS)]
    for bits in (FLOAT, *BITS):
        ours = sorted((key for key in found if key[0] == bits), key=lambda key: (in_order.index(key[:2]), key[2]))
        theirs = [row for row in data["rows"] if row["bits"] == bits] if ours else []
        for key in ours:
            top1 = [found[key].get(model) for model in models]
            shown = [f"{statistics.mean(each):.2f}" if each else "" for each in top1]
            runs = max(len(each) for each in top1 if each)
            name = "float" if bits == FLOAT else f"**ours, `{key[1]}`**"
            lines.append(table_line([bits, name, str(key[2] or ""), *shown, f"{runs} seed{'s' * (runs > 1)}"]))
        if bits == FLOAT and ours:
            shown = [_figure(data["models"][model]["float"]) for model in models]
            lines.append(table_line([bits, "float", "", *shown, "as the papers give it"]))
        for row in theirs:
            shown = [_figure(row["top1"].get(model)) for model in models]
            lines.append(table_line([bits, row["method"], str(row["images"] or "?"), *shown, row["source"]]))
    return "".join(lines)


def report(records: Sequence[dict[str, Any]], data: dict[str, Any], models: Sequence[str]) -> str:
    """The page: how it was made, preprocessing of each model, and the table."""
    some = records[0]
    lines = [
        "`python benchmarks/imagenet.py`: top-1 %, ours in PyTorch with the codes of the exported file, preset "
        f"`{some['preset']}`, on {some['validation_images']} validation images (largest standard error "
        f"{max(record['standard_error'] for record in records):.2f}). How the papers' presets differ: "
        "`benchmarks/published.yaml`.\n\n",
        table(records, data, models),
        "\nPreprocessing and weights:\n\n",
    ]
    for model in models:
        record = next((record for record in records if record["model"] == model), None)
        if record is not None:
            how = record["preprocess"]
            lines.append(
                f"* {model}: {record['weights']}, resized ({how['interpolation']}) and cropped to {how['crop_pct']:g} "
                f"in the middle, {how['size'][0]}x{how['size'][1]}, mean {how['mean']}, deviation {how['std']}\n"
            )
    return "".join(lines)


def estimate(todo: Sequence[Cell], data: dict[str, Any], setting: Setting, val_images: int) -> float:
    """Seconds of one CPU core for ``todo``, by order of magnitude: a forward pass is timed here, the rest is scaled."""
    import torch  # noqa: PLC0415

    layer, rows = torch.nn.Linear(1024, 1024), torch.zeros(2048, 1024)  # 2.1 GMAC
    with torch.inference_mode():
        layer(rows)
        started = time.monotonic()
        layer(rows)
    a_gmac = 2 * (time.monotonic() - started) / 2.1  # quantizers and norms take about as long as products
    measured: dict[str, list[float]] = {}
    for line in MEASURED.read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        if run["calibration_s"] is not None:
            measured.setdefault(run["method"], []).append(run["calibration_s"] / run["images"] / MEASURED_GMACS)
    calibration = {method: statistics.median(times) for method, times in measured.items()}
    total = 0.0
    for cell in todo:
        gmacs = data["models"][cell.model]["gmacs"]
        count = setting.num_calib.get(cell.method, 0)
        total += gmacs * (val_images * a_gmac + calibration.get(cell.method, 0) * count)
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parsed(arguments)
    try:
        return _run(args)
    except RepqError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _run(args: argparse.Namespace) -> int:
    data = published()
    source = validation(args.val)
    digest = key_of({"names": source.names, "bytes": [(args.val / name).stat().st_size for name in source.names]})
    with tempfile.TemporaryDirectory() as claims:
        setting = _setting(args, data, claims)
        asked = {}
        for cell in cells(args.models, args.bits, args.methods, args.seeds):
            images = None if cell.method == FLOAT else images_of(setting, cell)
            made = made_of(setting, cell, images, digest)
            asked[cell] = (key_of(made), made)
        file = args.output / "results.jsonl"
        records = read_records(file)
        todo = [cell for cell, (key, _) in asked.items() if key not in records]
        if args.dry_run:
            for cell, (key, _) in asked.items():
                said = "is there" if key in records else f"{setting.num_calib.get(cell.method, 0)} calibration images"
                print(f"{cell.model:8} {cell.bits:6} {cell.method:10} seed {cell.seed}  {said}")
            seconds = estimate(todo, data, setting, len(source)) / max(args.workers, 1)
            print(
                f"{len(todo)} of {len(asked)} cells to do on {len(source)} images: about {_duration(seconds)} on CPUs"
            )
            return 0
        args.output.mkdir(parents=True, exist_ok=True)
        failed = _do(todo, asked, setting, args, records)
    own = [records[key] for key, _ in asked.values() if key in records]
    if own:
        page = args.output / "imagenet.md"
        page.write_text(report(own, data, args.models), encoding="utf-8")
        print(f"wrote {page}: {len(own)} of {len(asked)} cells")
    return 1 if failed else 0


def _do(
    todo: Sequence[Cell],
    asked: dict[Cell, tuple[str, dict[str, Any]]],
    setting: Setting,
    args: argparse.Namespace,
    records: dict[str, dict[str, Any]],
) -> int:
    """Do the cells and write each one's record as it ends; the number of those that failed."""
    from repq_deploy.search.pool import spread  # noqa: PLC0415 - imports torch

    failed = 0
    payload = Path(setting.claims) / "payload"
    payload.write_bytes(pickle.dumps(setting))
    if args.ray is not None:
        _send_modules(args.ray)
    workers = 0 if args.ray and args.workers == 1 else max(args.workers, len(setting.devices))
    run = partial(spread, worker, payload, todo, workers=workers, ray=args.ray)
    for number, (cell, found) in enumerate(run() if todo else (), 1):
        name = f"[{number}/{len(todo)}] {cell.model} {cell.bits} {cell.method} seed {cell.seed}"
        if "error" in found:
            failed += 1
            print(f"{name}: {found['error']}", file=sys.stderr, flush=True)
            continue
        key, made = asked[cell]
        records[key] = {"key": key, **made, **found}
        with (args.output / "results.jsonl").open("a", encoding="utf-8") as output:
            output.write(json.dumps(records[key]) + "\n")
        seconds = found["calibration_s"] + found["evaluation_s"]
        print(f"{name}: top-1 {found['top1']:.2f}, {seconds:.0f} s", flush=True)
    return failed


def _send_modules(address: str) -> None:
    """Let Ray's workers have the scripts of this folder, which are in no package of theirs."""
    from repq_deploy.system.clusters import ask_for_tokens, check_cluster  # noqa: PLC0415

    check_cluster(address)
    if address == "local":
        ask_for_tokens()  # before Ray is imported
    from ray import cloudpickle  # noqa: PLC0415 - an extra

    for name in ("commands", imagenet_cells.__name__):
        cloudpickle.register_pickle_by_value(sys.modules[name])


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _setting(args: argparse.Namespace, data: dict[str, Any], claims: str) -> Setting:
    from repq_deploy.devices import find_device  # noqa: PLC0415 - imports torch
    from repq_deploy.methods import METHODS as OWN  # noqa: PLC0415

    devices = tuple(args.devices.split(",")) if args.devices else ("cpu",)
    for device in devices:
        find_device(device)
    if not args.val.is_dir() or args.output.is_file():
        raise BadInput(f"--val {args.val} or --output {args.output}: expected folders")
    return Setting(
        timm={model: data["models"][model]["timm"] for model in args.models},
        crops={model: data["models"][model]["crop"] if args.crop == "papers" else None for model in args.models},
        num_calib={name: OWN[name].images if args.num_calib == 0 else args.num_calib for name in args.methods},
        val=str(args.val.resolve()),
        calib=str(args.calib.resolve()),
        checkpoints=None if args.checkpoints is None else str(args.checkpoints.resolve()),
        preset=args.preset,
        batch_size=args.batch_size,
        devices=devices,
        claims=claims,
        work=str(args.output.resolve() / "work"),
    )


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    models = list(published()["models"])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--val", type=Path, required=True, help="validation images, one folder a WordNet id")
    parser.add_argument("--calib", type=Path, required=True, help="images to calibrate on")
    parser.add_argument("--output", type=Path, default=Path("build/imagenet"))
    parser.add_argument("--checkpoints", type=Path, help="a folder with MODEL.safetensors; default: the hub")
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    parser.add_argument("--bits", nargs="+", default=["w6a6", "w4a4", "w3a3"], choices=BITS)
    parser.add_argument(
        "--methods", nargs="+", default=["repq", "repquant", "dopq", "erq", "mixq", "best"], choices=METHODS
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-calib", type=int, default=32, help="calibration images; 0: each method's own number")
    parser.add_argument(
        "--crop", choices=("papers", "timm"), default="papers", help="whose share of the image is taken"
    )
    parser.add_argument("--preset", choices=("paper", "deploy"), default="paper")
    parser.add_argument("--batch-size", type=int, default=32)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    where.add_argument("--devices", help="GPUs, such as cuda:0,cuda:1: a process for each")
    where.add_argument("--ray", help="a Ray cluster that sees the same folders: HOST:PORT, auto or local")
    parser.add_argument("--dry-run", action="store_true", help="print the cells and about how long they take")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
