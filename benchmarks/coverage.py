"""How many of timm's encoders are supported, and does each of them export?

Counts, without weights, the architectures with pretrained weights in the modules below, and says why the others are
refused. ``--export`` exports each one that is accepted, two blocks deep, at its own widths and image size, with random
weights, w8a8 by minmax, from two images or, of the largest, one, each in a process of its own::

    python benchmarks/coverage.py
    python benchmarks/coverage.py --export [--only 'vit_small*'] [--limit 5]

An export is a line of ``results/coverage.jsonl``; those that are there are kept, so a run that was interrupted goes on
where it was (``--again`` tries those that failed once more). Both write ``results/coverage.md``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterable
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
from commands import table_line
from timm.models import model_entrypoint

import repq_deploy
from repq_deploy.errors import one_line
from repq_deploy.models.architecture import ModelSpec
from repq_deploy.models.families import find_family
from repq_deploy.models.libraries.listing import Listed, look_at, matching
from repq_deploy.models.loading import build

MODULES = (
    *("vision_transformer", "deit", "eva", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"),
    *("beit", "naflexvit", "vision_transformer_relpos", "vision_transformer_hybrid"),
)
RESULTS = Path(__file__).parent / "results"
LINES, TABLE = RESULTS / "coverage.jsonl", RESULTS / "coverage.md"
IMAGES = 2
SECONDS = 3600
FORK = multiprocessing.get_context("fork")


def shallow(name: str) -> dict[str, Any]:
    """The arguments that make an architecture two blocks deep, in each of its stages."""
    with torch.device("meta"):
        model = timm.create_model(name)
    stages = getattr(model, "layers", getattr(model, "stages", None))
    if stages is not None:
        return {"depths": (2,) * len(stages)}
    blocks: Any = model.blocks
    heads = [getattr(blocks[index].attn, "num_kv_heads", None) for index in (0, len(blocks) // 2)]
    # Sapiens2 has fewer heads of keys and values in its middle blocks, and takes their number for each block.
    return {"depth": 2} if None in heads else {"depth": 2, "num_kv_heads": tuple(heads)}


def export(name: str, count: int) -> dict[str, Any]:
    """Export one architecture in this process; what came of it."""
    started = time.monotonic()
    model = build(ModelSpec(name, name, shallow(name), None, "random"))
    sides, _ = find_family(model.network).image_sides(model.network)
    images = torch.randn(count, 3, *sides, generator=torch.Generator().manual_seed(0))
    quantized = repq_deploy.quantize(model, images, bits="w8a8", method="minmax", inplace=True)
    with tempfile.TemporaryDirectory() as folder:
        written = repq_deploy.export_onnx(quantized, Path(folder) / "model.onnx", images)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    return {
        "pixels": list(sides),
        "sites": len(written.agreement.sites),
        "codes_equal_worst": written.agreement.worst.equal,
        "relative_error": written.agreement.relative_error,
        "onnx_mb": round(size / 1e6, 1),
        "seconds": round(time.monotonic() - started, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1),
    }


def export_apart(name: str, count: int) -> dict[str, Any]:
    """Export one architecture in a fork of this process, whose memory goes back with it, and which imports nothing."""
    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_send, args=(theirs, name, count))
    child.start()
    theirs.close()
    try:
        return dict(ours.recv()) if ours.poll(SECONDS) else {"error": f"not done in {SECONDS} s"}
    except EOFError:
        child.join()
        return {"error": f"ended with code {child.exitcode}"}
    finally:
        child.kill()
        child.join()


def _send(theirs: Connection, name: str, count: int) -> None:
    try:
        theirs.send(export(name, count))
    except Exception as error:  # the next architecture is tried whatever this one ends in
        theirs.send({"error": f"{type(error).__name__}: {one_line(error, 250)}"})


def exported() -> dict[str, dict[str, Any]]:
    """The exports that are written down, by architecture; of one that was tried again the last."""
    lines = LINES.read_text(encoding="utf-8").splitlines() if LINES.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def export_all(names: Iterable[str], *, count: int, again: bool) -> None:
    known = exported()
    for name in names:
        if name in known and not (again and "error" in known[name]):
            continue
        record = {"name": name, "timm": timm.__version__, **export_apart(name, count)}
        with LINES.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


def module_of(name: str) -> str:
    return model_entrypoint(name).__module__.rpartition(".")[2]


def report(found: list[Listed]) -> str:
    """The table as Markdown: counts by module, what every family allows, exports, refusals with their reasons."""
    known = exported()
    accepted = [one for one in found if not one.reason]
    done = [known[one.name] for one in accepted if one.name in known]
    lines = [
        f"`python benchmarks/coverage.py`, timm {timm.__version__}, without weights: {len(accepted)} of {len(found)} "
        "architectures with pretrained weights are accepted.",
        "",
        "`--export`, two blocks deep, random weights, w8a8 by minmax, two images or, of the largest, one: "
        f"{sum('error' not in record for record in done)} of {len(done)} tried were exported and proven.",
        "",
        table_line(("timm module", "with weights", "accepted", "exported", "not exported")),
        table_line(["---"] * 5),
    ]
    for module in MODULES:
        of_module = [one for one in found if module_of(one.name) == module]
        names = {one.name for one in of_module if not one.reason}
        tried = [known[name] for name in names if name in known]
        failed = sum("error" in record for record in tried)
        lines.append(table_line([module, str(len(of_module)), str(len(names)), str(len(tried) - failed), str(failed)]))
    refused = [one for one in found if one.reason]
    lines += ["", "Refused:", "", *(f"* {one.name}: {one.reason}" for one in refused)] if refused else []
    failures = [record for record in done if "error" in record]
    lines += ["", "Not exported:", "", *(f"* {one['name']}: {one['error']}" for one in failures)] if failures else []
    if done:
        columns = ("pixels", "sites", "codes_equal_worst", "relative_error", "onnx_mb", "seconds", "peak_gb")
        lines += ["", table_line(("architecture", *(name.replace("_", " ") for name in columns)))]
        lines.append(table_line(["---"] * (1 + len(columns))))
        for record in done:
            if "error" not in record:
                pixels = "x".join(map(str, record["pixels"]))
                numbers = [f"{record[name]:.4g}" for name in columns[1:]]
                lines.append(table_line([record["name"], pixels, *numbers]))
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--export", action="store_true", help="export each architecture that is accepted")
    parser.add_argument("--only", default="*", help="a pattern of the names to export")
    parser.add_argument("--limit", type=int, help="export at most so many")
    parser.add_argument("--images", type=int, default=IMAGES, help="fewer take less memory")
    parser.add_argument("--again", action="store_true", help="try those that failed again")
    options = parser.parse_args()
    found = list(look_at(matching(modules=MODULES, weights=True)))
    if options.export:
        names = [one.name for one in found if not one.reason and fnmatch(one.name, options.only)]
        export_all(names[: options.limit], count=options.images, again=options.again)
    text = report(found)
    TABLE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
