"""What does serving cost? ``repq-serve`` under load, beside its engine called directly, on one machine.

One command exports the model with random weights, builds its engine, serves it with batching on, and measures::

    python benchmarks/serving.py [--input uint8] [--rounds 12 --seconds 2.5 --overload 60]

* closed loops of 1, 4, 16 and 32 clients, in rounds that take turns with the engine called directly: short ones, as
  whatever else a machine does may slow one of the two for ten seconds and not the other;
* an open loop at twice the capacity that was just measured: what is refused and how soon, the server's memory, and
  whether the server's own count of answers is the clients';
* SIGTERM in the middle of a closed and of an open loop: whether all that was accepted is answered.

It prints each criterion with its figures and whether it is met, and writes ``results/serving.md`` and, with all
numbers, ``results/serving.jsonl``. The load comes from one nice process on the same machine, which says how much CPU it
took. ``--engine FILE`` measures an engine that is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from commands import run_command, table_line

import repq_deploy
from repq_deploy.engines.bench.measure import describe_machine
from repq_deploy.engines.manifest import read_manifest
from repq_deploy.remote.load.loops import NO_CONNECTION, ClosedLoop, Loop, OpenLoop
from repq_deploy.remote.load.measure import Direct, LoadPlan, LoadResult, load
from repq_deploy.system.cpus import usable_cpus

RESULTS = Path(__file__).parent / "results"
CLIENTS = (1, 4, 16, 32)

#: The criteria: throughput from 16 clients on in parts of the engine's own at its best batch; one client's latency in
#: parts of the engine's own, and milliseconds beyond; how far memory may have grown since the first fifth of overload.
THROUGHPUT, LATENCY, MORE_MS, GROWTH = 0.85, 1.15, 3.0, 1.03


@dataclass(frozen=True)
class Criterion:
    """What is asked for, what was found, and whether that is enough."""

    asked: str
    found: str
    met: bool


@dataclass
class Served:
    """A server under load: its process, its address, and its resident megabytes, sampled twice a second."""

    process: subprocess.Popen[str]
    url: str
    memory_mb: list[float] = field(default_factory=list)

    def watch(self) -> None:
        while self.process.poll() is None:
            with contextlib.suppress(OSError, TypeError):
                status = Path(f"/proc/{self.process.pid}/status").read_text()
                self.memory_mb.append(int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024)  # type: ignore[index]
            time.sleep(0.5)

    def counts(self) -> dict[str, int]:
        """How many requests ended how, as the server counts them."""
        with urllib.request.urlopen(self.url.rpartition("/")[0] + "/metrics") as answer:  # noqa: S310 - our own server
            text = answer.read().decode()
        found = re.findall(r'^repq_requests_total\{.*outcome="(\w+)".*\} (\S+)$', text, re.MULTILINE)
        return {outcome: int(float(count)) for outcome, count in found}


@contextlib.contextmanager
def serving(engine: Path, *options: str) -> Iterator[Served]:
    """``repq-serve`` of ``engine`` on a free port, ready."""
    words = [sys.executable, "-P", "-m", "repq_deploy", "serve", str(engine), "--port", "0", "--no-grpc", "--json"]
    process = subprocess.Popen([*words, *options], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            sys.exit("the server did not start")
        ((_, model),) = json.loads(line)["models"].items()
        served = Served(process, model["urls"][0])
        threading.Thread(target=served.watch, daemon=True).start()
        yield served
    finally:
        process.terminate()
        process.wait(60)


def prepared(args: argparse.Namespace) -> Path:
    """The engine to measure: the one given, or that of the model with random weights."""
    if args.engine is not None:
        return args.engine
    args.work.mkdir(parents=True, exist_ok=True)
    file = args.work / f"{args.model}-{args.input}.onnx"
    engine = file.with_suffix(".onnxruntime-native.engine")
    if not engine.exists():
        model = (args.model, "--no-pretrained", "--bits", args.bits, "--method", "repq", "--input", args.input)
        run_command("repq-export", *model, "-o", str(file), "--force")
        run_command("repq-build-engine", str(file), "--backend", "onnxruntime", "--cpu", "native", "--force")
    return engine


def overload(engine: Path, rate: float, args: argparse.Namespace) -> tuple[LoadResult, dict[str, Any]]:
    """``rate`` requests a second for a while, and what the server says of itself afterwards."""
    with serving(engine, *args.serve.split()) as served:
        times = {"rounds": 1, "seconds": args.overload, "warmup": 0.0, "timeout": 60.0}
        plan = LoadPlan(served.url, (OpenLoop(rate),), nice=args.nice, **times)
        (result,), _ = load(plan)
        return result, {"memory_mb": [round(each, 1) for each in served.memory_mb], "counted": served.counts()}


def stopped(engine: Path, loop: Loop, args: argparse.Namespace) -> tuple[LoadResult, int]:
    """``loop`` on a server that gets SIGTERM in the middle, and the server's exit code."""
    with serving(engine, *args.serve.split()) as served, ThreadPoolExecutor(1) as pool:
        plan = LoadPlan(served.url, (loop,), rounds=1, seconds=6.0, warmup=0.0, nice=args.nice)
        loading = pool.submit(load, plan)
        time.sleep(1 + plan.seconds / 2)  # its process takes a second to start
        served.process.send_signal(signal.SIGTERM)
        (result,), _ = loading.result()
        return result, served.process.wait(60)


def of_throughput(results: Sequence[LoadResult], best: Direct) -> list[Criterion]:
    """From 16 clients on."""
    found = []
    for one, clients in zip(results, CLIENTS, strict=True):
        if clients >= 16:
            share = one.images_per_s / best.images_per_s
            said = f"{share:.3f} ({one.images_per_s:.1f} of {best.images_per_s:.1f} images/s)"
            asked = f"{clients} clients: at least {THROUGHPUT} of the engine's throughput at batch {best.batch}"
            found.append(Criterion(asked, said, share >= THROUGHPUT))
    return found


def of_latency(one: LoadResult, own: Direct) -> list[Criterion]:
    """Of one client."""
    found = []
    for name, served, direct in (("median", one.median_ms, own.median_ms), ("p99", one.p99_ms, own.p99_ms)):
        most = LATENCY * direct + MORE_MS
        said = "no answer" if served is None else f"{served:.2f} ms (engine {direct:.2f} ms, at most {most:.2f} ms)"
        asked = f"1 client: {name} at most {LATENCY} of the engine's and {MORE_MS:g} ms"
        found.append(Criterion(asked, said, served is not None and served <= most))
    return found


def of_overload(one: LoadResult, server: dict[str, Any], best: Direct) -> list[Criterion]:
    """Refused at once: before the engine could compute one batch. Memory flat: as after the first fifth."""
    memory, counted = server["memory_mb"], server["counted"]
    early = max(memory[: max(1, len(memory) // 5)])
    late, soon = max(memory[-max(1, len(memory) // 5) :]), one.refused_p99_ms
    refused = f"{one.refused} of {one.sent} refused"
    if soon is not None:
        refused += f", median {one.refused_median_ms:.1f} ms, p99 {soon:.1f} ms (one batch: {best.median_ms:.1f} ms)"
    lost = sum(one.failed.values())
    ok = counted.get("ok", 0)
    return [
        Criterion("overload: refusals at once", refused, soon is not None and soon <= best.median_ms),
        Criterion(
            f"overload: memory at the end at most {GROWTH} of that in the first fifth",
            f"{late:.0f} MB, {early:.0f} MB",
            late <= GROWTH * early,
        ),
        Criterion(
            "overload: no accepted request lost",
            f"{one.answered} answered, the server counts {ok}; failed: {one.failed or 0}; different: {one.different}",
            lost == 0 and ok == one.answered and one.different == 0,
        ),
    ]


def of_stop(one: LoadResult, code: int) -> Criterion:
    """A request that met no listener was not accepted; every other one must have its answer."""
    lost = {kind: count for kind, count in one.failed.items() if kind != NO_CONNECTION}
    said = f"{one.answered} answered, {one.refused} refused, {one.failed.get(NO_CONNECTION, 0)} found it gone, "
    said += f"lost: {lost or 0}; exit code {code}"
    late = one.refused + one.failed.get(NO_CONNECTION, 0)
    asked = f"SIGTERM under {one.loop}: every accepted request answered"
    return Criterion(asked, said, not lost and code == 0 and one.answered > 0 and late > 0)


def page(facts: dict[str, Any], loads: Sequence[LoadResult], direct: Sequence[Direct], met: Sequence[Criterion]) -> str:
    """``serving.md``."""
    lines = [
        f"`python benchmarks/serving.py`, {facts['engine']}: {facts['bits']} with random weights, images "
        f"{facts['input']}, binary\nbodies over REST, {facts['machine']}, {facts['rounds']} rounds of "
        f"{facts['seconds']:g} s. The load's process (nice) is on the same CPUs.\n\n"
    ]
    head = ("load", "median ms", "p90", "p99", "max", "images/s", "refused", "failed", "load late p99", "its CPU")
    rows = [
        (one.loop, *map(_cell, (one.median_ms, one.p90_ms, one.p99_ms, one.max_ms)), f"{one.images_per_s:.1f}",
         str(one.refused), str(sum(one.failed.values())), f"{one.late_p99_ms:.2f}", f"{100 * one.load_cpu:.0f} %")
        for one in loads
    ]  # fmt: skip
    rows += [
        (f"engine, batch {own.batch}", _cell(own.median_ms), "", _cell(own.p99_ms), "", f"{own.images_per_s:.1f}", "",
         "", "", "")
        for own in direct
    ]  # fmt: skip
    lines += map(table_line, (head, ("---",) * len(head), *rows))
    lines.append("\n")
    criteria = [(one.asked, one.found, "yes" if one.met else "NO") for one in met]
    lines += map(table_line, (("asked", "found", "met"), ("---",) * 3, *criteria))
    return "".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--bits", default="w8a8")
    parser.add_argument("--input", default="uint8", choices=("uint8", "float32"))
    parser.add_argument("--engine", type=Path, help="measure this one")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each loop in each round")
    parser.add_argument("--overload", type=float, default=60.0, help="seconds at twice the capacity")
    parser.add_argument("--nice", type=int, default=5, help="how much nicer than the server the load is")
    parser.add_argument("--serve", default="", help="options of repq-serve, in one word")
    parser.add_argument("--work", type=Path, default=Path("out") / "serving", help="kept files")
    parser.add_argument("--output", type=Path, default=RESULTS / "serving.md")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    engine = prepared(args)
    manifest = read_manifest(engine)
    loops = tuple(map(ClosedLoop, CLIENTS))
    with serving(engine, *args.serve.split()) as served:
        times = {"rounds": args.rounds, "seconds": args.seconds}
        plan = LoadPlan(served.url, loops, nice=args.nice, against=engine, **times)
        results, direct = load(plan, progress=print)
    best = max(direct, key=lambda one: one.images_per_s)
    best = next((one for one in direct if one.batch == manifest.profile.opt), best)
    capacity = max(one.images_per_s for one in results)
    print(f"capacity {capacity:.1f} images/s; {args.overload:g} s at twice that")
    flood, server = overload(engine, 2 * capacity, args)
    print("SIGTERM")
    ends = [stopped(engine, loop, args) for loop in (ClosedLoop(16), OpenLoop(2 * capacity))]
    met = [
        *of_throughput(results, best),
        *of_latency(results[0], direct[0]),
        *of_overload(flood, server, best),
        *(of_stop(*end) for end in ends),
    ]
    facts = {
        "engine": engine.name,
        "bits": manifest.bits,
        "input": str(manifest.input),
        "version": repq_deploy.__version__,
        "runtimes": manifest.versions,
        "machine": describe_machine(usable_cpus()),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "serve": args.serve,
        "nice": args.nice,
    }
    loads = [*results, flood, *(one for one, _ in ends)]
    records = [facts, *map(asdict, loads), *map(asdict, direct), server, *map(asdict, met)]
    args.output.with_suffix(".jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    args.output.write_text(page(facts, loads, direct, met))
    for one in met:
        print(f"{'yes' if one.met else 'NO ':3} {one.asked}: {one.found}")


if __name__ == "__main__":
    main()
