"""``repq-bench URL``: loads a server, beside its engine called directly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from repq_deploy.cli.common import console, show
from repq_deploy.cli.streams import say
from repq_deploy.errors import BadInput

if TYPE_CHECKING:
    from repq_deploy.remote.load.loops import Loop
    from repq_deploy.remote.load.measure import Direct, LoadPlan, LoadResult

__all__ = ["bench_server", "loops"]

#: What a closed loop's clients are in number where nothing is asked for.
_CONCURRENCY = "1,4,16"


def bench_server(plan: LoadPlan, *, plot: Path | None, as_json: bool, dry_run: bool) -> None:
    """Load the server as ``plan`` says, and print what it did."""
    if dry_run:
        names = [one.name for one in plan.loops]
        described = {"url": plan.url, "batches": list(plan.batches), "loops": names, "rounds": plan.rounds}
        show(described, as_json=as_json, text=lambda: say(f"would send {', '.join(names)} to {plan.url}"))
        return
    from repq_deploy.engines.bench.measure import describe_machine
    from repq_deploy.remote.load.measure import load
    from repq_deploy.system.cpus import usable_cpus

    with console.status("loading") as status:
        results, direct = load(plan, progress=status.update)
    machine = describe_machine(plan.cpus or usable_cpus())
    if plot is not None:
        from repq_deploy.remote.load.plot import write_load_plot

        write_load_plot(results, direct, plot, title=f"{plan.url}, {machine}")
    found = {
        "url": plan.url,
        "machine": machine,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "loads": [one.to_dict() for one in results],
        "engine": [asdict(one) for one in direct],
    }
    show(found, as_json=as_json, text=lambda: _print(plan, results, direct, machine))


def loops(concurrency: str | None, rate: str | None, arrivals: str, seed: int) -> tuple[Loop, ...]:
    """What ``--concurrency``, ``--rate`` and ``--arrivals`` say together.

    Raises:
        BadInput: no numbers, numbers out of range, or other arrivals.
    """
    from repq_deploy.remote.load.loops import ClosedLoop, OpenLoop

    if arrivals not in ("poisson", "fixed"):
        raise BadInput(f"--arrivals {arrivals[:40]!r}: expected poisson or fixed")
    if rate is None and concurrency is None:
        concurrency = _CONCURRENCY
    kind: Literal["poisson", "fixed"] = "fixed" if arrivals == "fixed" else "poisson"
    closed = [ClosedLoop(int(number)) for number in _numbers("--concurrency", concurrency)]
    return (*closed, *(OpenLoop(number, kind, seed) for number in _numbers("--rate", rate)))


def _numbers(option: str, text: str | None) -> list[float]:
    parts = [] if text is None else text.split(",")
    try:
        return [int(part) if option == "--concurrency" else float(part) for part in parts]
    except ValueError as error:
        raise BadInput(f"{option} {str(text)[:40]!r}: expected numbers as in 1,4,16") from error


def _print(plan: LoadPlan, results: Sequence[LoadResult], direct: Sequence[Direct], machine: str) -> None:
    say(f"{machine}; {plan.rounds} rounds of {plan.seconds:g} s, ms from when a request was due")
    width = max(len(one.loop) for one in results)
    head = ("median ms", "p90", "p99", "max", "images/s", "refused", "failed", "load late", "load CPU")
    beside = ("of engine", "added ms") if direct else ()
    say(f"{'batch':>5}  {'load':{width}}" + "".join(f"  {name:>9}" for name in (*head, *beside)))
    for one in results:
        latencies = (one.median_ms, one.p90_ms, one.p99_ms, one.max_ms)
        cells = [*map(_cell, latencies), f"{one.images_per_s:.1f}", f"{one.refused}", f"{sum(one.failed.values())}"]
        cells += [f"{one.late_p99_ms:.2f}", f"{100 * one.load_cpu:.0f}%"]
        if direct:
            cells += [f"{one.of_engine or 0:.2f}", _cell(one.added_ms)]
        say(f"{one.batch:>5}  {one.loop:{width}}" + "".join(f"  {cell:>9}" for cell in cells))
    for own in direct:
        cells = [f"{own.median_ms:.2f}", "", f"{own.p99_ms:.2f}", "", f"{own.images_per_s:.1f}"]
        say(f"{own.batch:>5}  {'engine':{width}}" + "".join(f"  {cell:>9}" for cell in cells).rstrip())
    for one in results:
        what = [f"{count} {kind}" for kind, count in one.failed.items()]
        what += [f"{one.different} unlike the first answer to the same images"] if one.different else []
        if what:
            say(f"{one.loop}, batch {one.batch}: {', '.join(what)}")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
