"""Speed and memory of several models side by side, so that what disturbs one disturbs all.

Each model runs in a process of its own, one process at a time: an idle session's spinning threads slow whatever runs
beside it. Rounds go over all models in turn, and the runs of all rounds are pooled, so that a slow minute of the
machine falls on every model alike.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from repq_deploy.engines.foreign import foreign_formats
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed
from repq_deploy.system.children import child_process
from repq_deploy.system.cpus import can_pin, usable_cpus
from repq_deploy.system.files import existing_file
from repq_deploy.system.leftovers import temporary_folder

__all__ = ["BenchPlan", "Measured", "describe_machine", "measure", "run_times"]

COMMAND = (sys.executable, "-P", "-m", "repq_deploy.engines.bench.worker")


@dataclass(frozen=True)
class BenchPlan:
    """What to measure: files by label, batch sizes, CPUs to pin to, rounds, and seconds a batch size and round.

    ``opened_like`` holds, by label, the engine as which a file is to be opened: by its backend with its options.
    """

    subjects: tuple[tuple[str, Path], ...]
    batches: tuple[int, ...] = (1, 8)
    cpus: tuple[int, ...] = ()
    rounds: int = 3
    seconds: float = 2.0
    warmup: int = 3
    opened_like: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = [label for label, _ in self.subjects]
        if len(set(labels)) != len(labels):
            raise BadInput(f"models {', '.join(labels)}: two have one name; give names as in NAME=FILE")
        for _, path in self.subjects:
            existing_file(path, "model")
            suffixes = foreign_formats()
            if path.suffix not in (".engine", *suffixes):
                raise BadInput(f"model {path}: expected a file ending in .engine, {' or '.join(suffixes)}")


@dataclass(frozen=True)
class Measured:
    """One model at one batch size.

    Milliseconds are of a whole batch; ``speedup`` is the first model's median over this one's. ``memory_mb`` is the
    peak that loading and running add to the process, over all rounds, None where the system does not tell it;
    ``size_mb`` the file's size, with that of an IR's ``.bin`` or an ONNX file's ``.data``. MB are 10^6 bytes.
    """

    label: str
    batch: int
    runs: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    images_per_s: float
    memory_mb: float | None
    size_mb: float
    speedup: float
    memory_ratio: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(plan: BenchPlan, *, progress: Callable[[str], None] = lambda what: None) -> list[Measured]:
    """Measure every model at every batch size, in the plan's order.

    Raises:
        BadInput: models of images of different sizes.
        BadInput, BackendMissing: a model that cannot be opened here.
        BuildFailed: a model that its runtime fails to run.
    """
    times, memory = _run_all(plan, progress)
    first = plan.subjects[0][0]
    return [
        _measured(label, path, batch, times, memory, first)
        for batch in sorted(set(plan.batches))
        for label, path in plan.subjects
    ]


def run_times(plan: BenchPlan) -> dict[tuple[str, int], list[float]]:
    """The milliseconds of every run, by label and batch size; who measures in turns with something else pools them."""
    return _run_all(plan, lambda what: None)[0]


def _run_all(
    plan: BenchPlan, progress: Callable[[str], None]
) -> tuple[dict[tuple[str, int], list[float]], dict[tuple[str, int], float]]:
    """Milliseconds of every run, and the megabytes that were added, by label and batch size."""
    cpus = plan.cpus or usable_cpus()
    times: dict[tuple[str, int], list[float]] = {}
    memory: dict[tuple[str, int], float] = {}
    sides: dict[str, list[int]] = {}
    first = plan.subjects[0][0]
    for number in range(plan.rounds):
        for label, path in plan.subjects:
            progress(f"{label}: round {number + 1} of {plan.rounds}")
            request = {
                "path": str(path),
                "opened_like": str(plan.opened_like[label]) if label in plan.opened_like else None,
                "batches": sorted(set(plan.batches)),
                "cpus": cpus,
                "seconds": plan.seconds,
                "warmup": plan.warmup,
            }
            opened, *lines = _run(request, label)
            sides[label] = opened["sides"]
            for line in lines:
                key = label, line["batch"]
                times.setdefault(key, []).extend(line["milliseconds"])
                if line["memory_mb"] is not None:
                    memory[key] = max(memory.get(key, 0.0), line["memory_mb"])
            if sides[label] != sides[first]:
                raise BadInput(
                    f"model {label}: takes images of {_size(sides[label])} pixels, {first} of {_size(sides[first])}; "
                    "only models of images of one size can be compared"
                )
    return times, memory


def _size(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def describe_machine(cpus: Sequence[int]) -> str:
    """The processor, how many of its CPUs were used, and whether nothing was pinned to them, in one line."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {len(cpus)} CPUs of {os.cpu_count()}" + ("" if can_pin() else ", not pinned")


def _measured(
    label: str,
    path: Path,
    batch: int,
    times: dict[tuple[str, int], list[float]],
    memory: dict[tuple[str, int], float],
    first: str,
) -> Measured:
    runs, median = times[label, batch], statistics.median(times[label, batch])
    added, added_first = memory.get((label, batch)), memory.get((first, batch))
    return Measured(
        label=label,
        batch=batch,
        runs=len(runs),
        median_ms=median,
        p90_ms=float(np.percentile(runs, 90)),
        p99_ms=float(np.percentile(runs, 99)),
        images_per_s=1e3 * batch * len(runs) / sum(runs),
        memory_mb=added,
        size_mb=sum(one.stat().st_size for one in {path, _weights(path)} if one.exists()) / 1e6,
        speedup=statistics.median(times[first, batch]) / median,
        memory_ratio=added / added_first if added is not None and added_first else None,
    )


def _weights(path: Path) -> Path:
    """Where the weights of the model ``path`` are, if not in it."""
    formats = foreign_formats()
    return formats[path.suffix][1].weights(path) if path.suffix in formats else path


def _run(request: dict[str, Any], label: str) -> list[dict[str, Any]]:
    with temporary_folder() as folder, (folder / "stderr").open("w+", encoding="utf-8", errors="replace") as stderr:
        with child_process([*COMMAND, json.dumps(request)], stderr=stderr) as child:
            answer = "" if child.stdout is None else child.stdout.read()
            status = child.wait()
        stderr.seek(0)
        said = stderr.read().strip()
    lines = [json.loads(line) for line in answer.splitlines() if line.startswith("{")]
    if lines and "error" in lines[-1]:
        kinds = {kind.exit_code: kind for kind in (BuildFailed, BadInput, BackendMissing)}
        raise kinds[lines[-1]["exit_code"]](lines[-1]["error"])
    if status != 0:
        last = (said or "it said nothing").splitlines()[-1]
        raise BuildFailed(f"{label}: measuring ended with exit status {status}: {last}")
    return lines
