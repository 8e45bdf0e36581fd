"""``repq-report``: one HTML page about canonical files, engines and benchmark results."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repq_deploy.cli.common import Classes, DryRun, Force, Json, Quiet, Seed, Verbose, progress_bar, set_up, show
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.streams import say
from repq_deploy.errors import BadInput
from repq_deploy.system.outputs import check_outputs

if TYPE_CHECKING:
    from repq_deploy.evaluation import Target
    from repq_deploy.report.facts import Report

__all__ = ["main"]


def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="What the page is about, in any order: .onnx files that repq-export wrote, engines (.engine), and "
            "what repq-bench --json printed (.json)."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The HTML file to write. Default: the first file's name, ending in .html."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images with labels to measure accuracy on: a folder with one folder per class, an .npz file, or demo."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="The float model to compare decisions with: a model's name, or a file that repq-export --float wrote. "
            "Needs --data."
        ),
    ] = None,
    classes: Classes = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use so many of the images, chosen with --seed.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="How many images run at once.")] = 32,
    seed: Seed = 0,
    as_json: Json = False,
    force: Force = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained HTML page: proof, speed, accuracy, and the bits and error of every site."""
    set_up(verbose=verbose, quiet=quiet)
    if data is None and (against is not None or classes is not None or limit is not None):
        raise BadInput("--against, --classes and --limit: are about images; give --data too")
    target = files[0].with_suffix(".html") if output is None else output
    inputs = [("FILE", path) for path in files]
    check_outputs([("--output", target)], [*inputs, ("--data", data), ("--classes", classes)], force=force)
    from repq_deploy.report.gather import gather
    from repq_deploy.report.page import page
    from repq_deploy.system.files import write_atomically

    found = gather(files)
    if data is not None and not found.models:
        raise BadInput(f"--data {data}: there is no model to run among the files; name an .onnx or .engine file")
    if not dry_run:
        if data is not None:
            found = _scored(found, data, against, classes, limit, batch_size, seed)
        write_atomically(target, page(found).encode())
    result = _result(found, target, dry_run)
    show(result, as_json=as_json, text=lambda: _print(result))


def _scored(
    report: Report, data: str, against: str | None, classes: Path | None, limit: int | None, batch_size: int, seed: int
) -> Report:
    """The report, with each of its files run over the images."""
    from repq_deploy.calib_data import open_images
    from repq_deploy.calib_data.images import choose
    from repq_deploy.cli.evaluate import ordered
    from repq_deploy.cli.targets import ModelOptions, open_target
    from repq_deploy.report.scores import score

    images = open_images(data, demo_split="test")
    if limit is not None and limit < len(images):
        images = images.select(sorted(choose(images, limit, seed)))
    other = None if against is None else _open_against(against, seed)
    models = []
    for model in report.models:
        files = []
        for file in model.files:
            opened = open_target(file.path, ModelOptions(), seed=seed)
            source, _ = ordered(images, [opened] if other is None else [opened, other], classes)
            with progress_bar() as progress:
                task = progress.add_task(f"evaluating {file.path}", total=len(source))
                scored = score(
                    opened,
                    source,
                    other,
                    batch_size=batch_size,
                    on_images=lambda done, task=task, bar=progress: bar.update(task, completed=done),  # type: ignore[misc]
                )
            files.append(dataclasses.replace(file, scored=scored))
        models.append(model.with_files(*files))
    return dataclasses.replace(report, models=tuple(models))


def _open_against(name: str, seed: int) -> Target:
    from repq_deploy.cli.targets import ModelOptions, open_target, runs_in_torch

    where = None
    if runs_in_torch(name):
        from repq_deploy.devices import find_device

        where = find_device("auto")
    return open_target(name, ModelOptions(), seed=seed, device=where)


def _result(found: Report, target: Path, dry_run: bool) -> dict[str, Any]:
    return {
        "output": str(target),
        "dry_run": dry_run,
        "models": [
            {
                "model": model.name,
                "bits": model.bits,
                "files": [file.path for file in model.files],
                "sites": len(model.sites),
                "worst_sites": [{"site": site.name, "db": site.db} for site in model.worst(8)],
            }
            for model in found.models
        ],
        "benches": [bench.path for bench in found.benches],
    }


def _print(result: dict[str, Any]) -> None:
    verb = "would write" if result["dry_run"] else "wrote"
    about = [f"{one['model']} {one['bits']}" for one in result["models"]] + result["benches"]
    say(f"{verb} {result['output']}: {', '.join(about)}")
    for one in result["models"]:
        if one["worst_sites"]:
            worst = one["worst_sites"][0]
            say(f"worst of {one['sites']} sites: {worst['site']}, {worst['db']:.1f} dB")


main = entry_point(report, "repq-report")
