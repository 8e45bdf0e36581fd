"""``repq-bench``: measures latency, throughput, memory and size of engines and ONNX files side by side; or a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repq_deploy.cli.common import (
    DryRun,
    Force,
    Json,
    Quiet,
    Seed,
    Verbose,
    console,
    refuse_other_options,
    set_up,
    show,
)
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.streams import say
from repq_deploy.errors import BadInput
from repq_deploy.system.cpus import usable_cpus
from repq_deploy.system.outputs import check_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from repq_deploy.engines.bench.float_subjects import AgainstFloat, Verdict
    from repq_deploy.engines.bench.measure import BenchPlan, Measured

__all__ = ["main"]

_OF_SERVERS = ("concurrency", "rate", "arrivals", "against", "seed")
_OF_FILES = ("against_float",)


def bench(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            help="The models to measure: engines, ONNX files or OpenVINO IRs (.xml), each as FILE or NAME=FILE. The "
            "others are compared with the first. Or one served model, as http://HOST:PORT/MODEL or "
            "grpc://HOST:PORT/MODEL, which is loaded with requests."
        ),
    ],
    batch: Annotated[
        str | None,
        typer.Option(
            help="The batch sizes to measure, separated by commas; for a served model the images of a request. "
            "Default: 1,8, and 1 for a served model."
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="The number of CPUs that each model is pinned to; 0 means all that are allowed.")
    ] = 0,
    rounds: Annotated[
        int, typer.Option(min=1, help="The number of rounds; every round measures all models in turn.")
    ] = 3,
    seconds: Annotated[
        float,
        typer.Option(min=0, help="How many seconds each model, or load, is timed, for each batch size in each round."),
    ] = 2.0,
    against_float: Annotated[
        Path | None,
        typer.Option(
            help="The ONNX file that the engines were built from: also measure its float model, in the runtime of each "
            "engine and before all others, and say whether the engines are faster."
        ),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            help="For a served model: the numbers of clients to load it with in turn, separated by commas, each with "
            "one request under way. Default, without --rate: 1,4,16."
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            help="For a served model: the requests a second to load it with in turn, separated by commas, sent "
            "whether or not earlier ones were answered. Latencies count from when a request was due."
        ),
    ] = None,
    arrivals: Annotated[
        str,
        typer.Option(help="When requests of --rate are due: at random times (poisson), or at equal distances (fixed)."),
    ] = "poisson",
    against: Annotated[
        Path | None,
        typer.Option(help="For a served model: its engine, which is also called directly, to show the server's cost."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the results as a picture, into this .png, .svg or .pdf file.")
    ] = None,
    as_json: Json = False,
    force: Force = False,
    dry_run: DryRun = False,
    seed: Seed = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure models in turn, each in its own process, and compare them with the first."""
    set_up(verbose=verbose, quiet=quiet)
    # NumPy takes a moment to import; a typing error should not.
    from repq_deploy.engines.bench.measure import BenchPlan, describe_machine
    from repq_deploy.engines.bench.plot import write_plot
    from repq_deploy.remote.address import is_address

    served = any(is_address(text) for text in models)
    hidden = _OF_FILES if served else _OF_SERVERS
    beside = "a served model" if served else "a file"
    refuse_other_options(context, beside, {str(one.name) for one in context.command.params} - {*hidden})
    if plot is not None:
        _check_plot(plot, models, force=force)
    cpus = _cpus(threads)
    if served:
        from repq_deploy.cli.serving.bench_url import bench_server, loops
        from repq_deploy.remote.load.measure import LoadPlan

        if len(models) > 1:
            raise BadInput(f"{len(models)} models: a served one is measured alone; its engine is given by --against")
        load_plan = LoadPlan(
            models[0],
            loops(concurrency, rate, arrivals, seed),
            _batches(batch or "1"),
            rounds,
            seconds,
            against=against,
            cpus=cpus,
        )
        bench_server(load_plan, plot=plot, as_json=as_json, dry_run=dry_run)
        return
    plan = BenchPlan(tuple(_subject(text) for text in models), _batches(batch or "1,8"), cpus, rounds, seconds)
    float_models = None
    if against_float is not None:
        from repq_deploy.engines.bench.float_subjects import check_engines
        from repq_deploy.engines.source import read_source

        float_models = check_engines(plan.subjects, read_source(against_float))
    if dry_run:
        names = [f"{label} ({path})" for label, path in plan.subjects]
        described = {"models": names, "batches": list(plan.batches), "cpus": list(cpus), "rounds": rounds}
        show(described, as_json=as_json, text=lambda: _write(f"would measure {', '.join(names)} on CPUs {cpus}"))
        return
    with console.status("measuring") as status:
        results = _measure(plan, float_models, status.update)
    machine = describe_machine(cpus)
    if plot is not None:
        write_plot(results, plot, title=machine)
    found: dict[str, Any] = {"machine": machine, "rounds": rounds, "results": [one.to_dict() for one in results]}
    verdicts = [] if float_models is None else float_models.verdicts(results, threads=len(cpus))
    if float_models is not None:
        found["against_float"] = [
            {"label": one.label, "float_label": one.float_label, **one.speed.to_dict()} for one in verdicts
        ]
    show(found, as_json=as_json, text=lambda: _print(results, machine, rounds, verdicts))


def _check_plot(plot: Path, models: list[str], *, force: bool) -> None:
    from repq_deploy.engines.bench.plot import check_plot

    if plot.suffix not in (".png", ".svg", ".pdf"):
        raise BadInput(f"--plot {plot}: expected a file ending in .png, .svg or .pdf")
    check_outputs([("--plot", plot)], [("MODEL", text.rpartition("=")[2]) for text in models], force=force)
    check_plot()


def _measure(plan: BenchPlan, against: AgainstFloat | None, progress: Callable[[str], None]) -> list[Measured]:
    from repq_deploy.engines.bench.measure import measure

    if against is None:
        return measure(plan, progress=progress)
    from repq_deploy.engines.bench.float_subjects import with_float_models
    from repq_deploy.system.leftovers import temporary_folder

    with temporary_folder() as folder:
        return measure(with_float_models(plan, against, folder), progress=progress)


def _cpus(threads: int) -> tuple[int, ...]:
    usable = usable_cpus()
    if threads > len(usable):
        raise BadInput(f"--threads {threads}: this process may use {len(usable)} CPUs")
    return usable[: threads or None]


def _subject(text: str) -> tuple[str, Path]:
    label, equals, file = text.partition("=")
    return (label, Path(file)) if equals else (Path(text).name, Path(text))


def _batches(text: str) -> tuple[int, ...]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise BadInput(f"--batch {text!r}: expected sizes as in 1,8")
    return tuple(int(size) for size in sizes)


def _print(results: list[Measured], machine: str, rounds: int, verdicts: list[Verdict]) -> None:
    _write(f"{machine}; medians of {rounds} rounds in turn, ratios to {results[0].label}")
    width = max(len(one.label) for one in results)
    head = ("median ms", "p90", "p99", "images/s", "speed", "memory MB", "ratio", "file MB")
    _write(f"{'batch':>5}  {'model':{width}}" + "".join(f"  {name:>9}" for name in head))
    for one in results:
        cells = (
            f"{one.median_ms:.2f}",
            f"{one.p90_ms:.2f}",
            f"{one.p99_ms:.2f}",
            f"{one.images_per_s:.1f}",
            f"{one.speedup:.2f}x",
            "-" if one.memory_mb is None else f"{one.memory_mb:.0f}",
            "-" if one.memory_ratio is None else f"{one.memory_ratio:.2f}",
            f"{one.size_mb:.1f}",
        )
        _write(f"{one.batch:>5}  {one.label:{width}}" + "".join(f"  {cell:>9}" for cell in cells))
    if verdicts:
        from repq_deploy.engines.bench.against_float import speed_words

        for verdict in verdicts:
            first, *others = speed_words(verdict.speed)
            say(f"{verdict.label}: {first}", *others)


def _write(line: str) -> None:
    say(line)


main = entry_point(bench, "repq-bench")
