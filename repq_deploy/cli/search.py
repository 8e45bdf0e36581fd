"""``repq-search``: how many bits each site of a model should have, within a budget."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repq_deploy.bits import PRESETS, BitWidths
from repq_deploy.cli.common import (
    CalibData,
    Checkpoint,
    CheckpointPrefix,
    Device,
    DryRun,
    Ema,
    Force,
    ImgSize,
    Json,
    Model,
    NumClasses,
    Pretrained,
    Quiet,
    Seed,
    Verbose,
    checkpoint_file,
    console,
    hardware_note,
    image_size,
    progress_bar,
    say_calibration,
    say_weights,
    set_up,
    show,
)
from repq_deploy.cli.download import find_weights, getting_weights
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.streams import say
from repq_deploy.errors import BadInput
from repq_deploy.system.outputs import check_outputs
from repq_deploy.system.stopping import when_stopped

if TYPE_CHECKING:
    from repq_deploy.methods import Method
    from repq_deploy.search.search import Search

__all__ = ["main"]


def search(
    model: Model,
    recipe: Annotated[Path, typer.Option(help="The recipe file to write: YAML, for repq-export --recipe.")],
    avg_bits: Annotated[
        float | None, typer.Option(help="Budget: the largest average of bits, for weights and for activations alike.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Budget: the largest size of the ONNX file's constants together, such as 20MB.")
    ] = None,
    max_bitops: Annotated[
        float | None,
        typer.Option(help="Budget: the most 10^9 bit operations per image (multiplications times both factors' bits)."),
    ] = None,
    max_latency: Annotated[
        str | None, typer.Option(help="Budget: the largest sum of the times in --latency-table, such as 5ms.")
    ] = None,
    latency_table: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file with the milliseconds that you measured: "
            '{"fixed_ms": 0.4, "sites": {"head": {"w4a4": 0.02, "w8a8": 0.03}, ...}}.'
        ),
    ] = None,
    choices: Annotated[
        str,
        typer.Option(help="The bits to choose from: 3,4,8, or w4a4,w4a8,w8a8 to tell weights and activations apart."),
    ] = "3,4,5,6,8",
    tau: Annotated[float, typer.Option(min=0, help="The exponent of relevance; 0 leaves sensitivity alone.")] = 0.5,
    method: Annotated[str, typer.Option(help="The quantization method that the recipe will name.")] = "best",
    preset: Annotated[
        str,
        typer.Option(
            help=f"The preset, {' or '.join(PRESETS)}. deploy keeps patch embedding and head at 8 bits; paper does not."
        ),
    ] = "deploy",
    checkpoint: Checkpoint = None,
    ema: Ema = True,
    checkpoint_prefix: CheckpointPrefix = None,
    num_classes: NumClasses = None,
    img_size: ImgSize = None,
    pretrained: Pretrained = True,
    calib_data: CalibData = None,
    num_calib: Annotated[int, typer.Option(min=1, help="The number of calibration images to use.")] = 32,
    work_dir: Annotated[
        Path | None,
        typer.Option(help="A folder that keeps measurements, so that a killed search resumes and the next is quick."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="The number of processes. Default: 1, with --ray one per core of the cluster."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Measure on a Ray cluster: HOST:PORT, auto for the one running here, or local to start one."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also plot the objective against the size, into this .png, .svg or .pdf file.")
    ] = None,
    plot_data: Annotated[
        str | None,
        typer.Option(help="With --plot, also plot top-1, measured in PyTorch on these images, one folder per class."),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
    force: Force = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Choose each layer's bits in a Vision Transformer, by relevance and sensitivity, and save them as a recipe."""
    set_up(verbose=verbose, quiet=quiet)
    BitWidths.parse("w8a8", preset=preset)
    check_outputs(
        [("--recipe", recipe), ("--plot", plot)],
        [("--checkpoint", checkpoint), ("--calib-data", calib_data), ("--latency-table", latency_table)],
        force=force,
    )
    if all(budget is None for budget in (avg_bits, max_size, max_bitops, max_latency)):
        raise BadInput("no budget; expected --avg-bits 4, --max-size 20MB, --max-bitops 20 or --max-latency 5ms")
    if (max_latency is None) != (latency_table is None):
        raise BadInput("--max-latency and --latency-table go together: a budget, and the times that it is spent on")
    if plot_data is not None and plot is None:
        raise BadInput("--plot-data is for --plot FILE; give both")
    # Torch takes seconds to import; a typing error should not.
    from repq_deploy.devices import find_device
    from repq_deploy.methods import find_method
    from repq_deploy.models import zoo
    from repq_deploy.plots import check_plot
    from repq_deploy.search.search import Limits, open_search
    from repq_deploy.search.space import parse_choices
    from repq_deploy.search.trade_off import check_plot_data
    from repq_deploy.system.clusters import check_cluster

    chosen_method = find_method(method)
    if plot is not None:
        check_plot(plot)
    if ray is not None:
        check_cluster(ray)
    weights = find_weights(model, checkpoint_file(checkpoint, ema, checkpoint_prefix), pretrained)
    size = image_size(img_size)
    spec = zoo.resolve(model, checkpoint=weights, num_classes=num_classes, img_size=size, pretrained=pretrained)
    say_weights(spec.name, spec.weights)
    with getting_weights() as report:
        opened = open_search(
            spec,
            weights,
            choices=parse_choices(choices),
            limits=Limits.parse(avg_bits, max_size, max_bitops, max_latency, latency_table),
            preset=preset,
            calib_data=say_calibration(calib_data, spec.name, spec.weights),
            num_calib=num_calib,
            seed=seed,
            device=find_device(device),
            report=report,
        )
    if plot_data is not None:
        check_plot_data(opened, plot_data)
    if dry_run:
        plan = _plan(opened)
        show(plan, as_json=as_json, text=lambda: _print_plan(plan))
        return
    result = _run(opened, recipe, tau, chosen_method, work_dir, workers, ray, plot, plot_data)
    show(result, as_json=as_json, text=lambda: _print_result(result))


def _say_kept(work_dir: Path | None) -> None:
    if work_dir is not None:
        console.print(f"measurements so far are in {work_dir}; the same command goes on from there", soft_wrap=True)


def _run(
    opened: Search,
    recipe: Path,
    tau: float,
    method: Method,
    work_dir: Path | None,
    workers: int | None,
    ray: str | None,
    plot: Path | None,
    plot_data: str | None,
) -> dict[str, Any]:
    from repq_deploy.recipes import Recipe, save_recipe
    from repq_deploy.search.allocation import allocate, objective
    from repq_deploy.search.search import RELEVANCE_IMAGES
    from repq_deploy.search.space import bit_widths
    from repq_deploy.search.trade_off import plot_trade_off

    with progress_bar() as progress:
        shares = {site.name: 1 / len(opened.sites) for site in opened.sites}
        if tau > 0:
            images = min(RELEVANCE_IMAGES, len(opened.images))
            relevance_task = progress.add_task("relevance", total=images)
            shares = opened.relevance(work_dir, lambda done, _: progress.update(relevance_task, completed=done))
            progress.update(relevance_task, completed=images)  # it may have been kept
        ranges_task = progress.add_task("ranges", total=len(opened.sites))
        measure_task = progress.add_task("sensitivities", total=sum(len(site.choices) for site in opened.sites))
        with when_stopped(lambda: _say_kept(work_dir)):
            measured = opened.sensitivities(
                work_dir=work_dir,
                workers=workers,
                ray=ray,
                on_range=lambda done, total: progress.update(ranges_task, completed=done, total=total),
                on_result=lambda done, total: progress.update(measure_task, completed=done, total=total),
            )
    cost = objective(opened.sites, measured, shares, tau=tau)
    allocation = allocate(opened.sites, cost, opened.budgets)
    widths = bit_widths(opened.sites, allocation.chosen, preset=opened.preset)
    save_recipe(Recipe(str(widths), opened.preset, method.name), recipe)
    if plot is not None:
        with progress_bar() as progress:
            task = progress.add_task("plotting")
            plot_trade_off(
                opened,
                cost,
                allocation,
                plot,
                method=method,
                data=plot_data,
                work_dir=work_dir,
                on_point=lambda done, total: progress.update(task, completed=done, total=total),
            )
    return {
        "recipe": str(recipe),
        "model": opened.spec.name,
        "bits": str(widths),
        "preset": opened.preset,
        "method": method.name,
        "tau": tau,
        "objective": allocation.objective,
        "spent": allocation.spent,
        "limits": {budget.name: budget.limit for budget in opened.budgets},
        "units": {budget.name: budget.unit for budget in opened.budgets},
        "calibration_images": len(opened.images),
        "sites": [
            {
                "site": site.name,
                "bits": _shown(site.role, allocation.chosen[site.name]),
                "parameters": site.parameters,
                "macs": site.macs,
                "relevance": shares[site.name] if tau > 0 else None,
                "sensitivity": measured[site.name, allocation.chosen[site.name]],
            }
            for site in opened.sites
        ],
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _shown(role: str, bits: Any) -> str:
    return f"a{bits.activation}" if role == "attention" else str(bits)


def _print_result(result: dict[str, Any]) -> None:
    lines = [f"{'site':36} {'bits':>5} {'weights':>10} {'MACs':>12} {'relevance':>10} {'sensitivity':>12}"]
    lines += [
        f"{site['site']:36} {site['bits']:>5} {site['parameters']:>10} {site['macs']:>12} "
        f"{_percent(site['relevance']):>10} {site['sensitivity']:>12.3e}"
        for site in result["sites"]
    ]
    counts = Counter(site["bits"] for site in result["sites"])
    lines.append("sites at each width: " + ", ".join(f"{bits} {count}" for bits, count in sorted(counts.items())))
    for name, spent in result["spent"].items():
        lines.append(f"{name}: {spent:.6g} of {result['limits'][name]:g} {result['units'][name]}")
    lines.append(f"wrote {result['recipe']}: {result['model']}, objective {result['objective']:.4g}")
    say(*lines, *hardware_note(result["bits"]), f"next: repq-export MODEL --recipe {result['recipe']} -o OUTPUT.onnx")


def _plan(opened: Search) -> dict[str, Any]:
    return {
        "model": opened.spec.to_dict(),
        "preset": opened.preset,
        "measurements": sum(len(site.choices) for site in opened.sites),
        "budgets": {budget.name: [budget.limit, *budget.range(opened.sites)] for budget in opened.budgets},
        "sites": {site.name: [_shown(site.role, bits) for bits in site.choices] for site in opened.sites},
    }


def _print_plan(plan: dict[str, Any]) -> None:
    lines = [f"{name:36} {' '.join(choices)}" for name, choices in plan["sites"].items()]
    for name, (limit, least, most) in plan["budgets"].items():
        lines.append(f"{name}: {limit:g}, possible from {least:.6g} to {most:.6g}")
    say(*lines, f"would measure {plan['measurements']} times")


main = entry_point(search, "repq-search")
