"""Is an engine faster than the float model on this machine? A short, bounded measurement that answers it.

The float model is the engine's float twin (``engines.float_twin``), opened by the same runtime with as many threads.
The two take turns, each in a session that is closed before the other's is opened: an idle session's spinning threads
would slow whatever runs beside it. Of each the fastest run counts, as other programs only ever add time. ``repq-bench``
measures longer and gives medians, each model in a process of its own.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.engines.backends import Backend, backend_named
from repq_deploy.engines.batching import THREADS, Runner
from repq_deploy.engines.bench.reasons import Reason, facts_of, why_not_faster
from repq_deploy.engines.bench.times import FloatTimes
from repq_deploy.engines.manifest import Manifest
from repq_deploy.engines.prove_engine import PASSED
from repq_deploy.engines.runner import load_engine, open_like
from repq_deploy.engines.source import SourceModel
from repq_deploy.errors import RepqError
from repq_deploy.system.cpus import usable_cpus
from repq_deploy.system.leftovers import check_room, temporary_folder

__all__ = ["Speed", "check_speed", "compare_runs", "float_file", "speed_words"]

#: Turns of each model, seconds and least runs of a turn, seconds after which no further pair of turns begins, and the
#: longest that a run may take for the check to be made at all.
_TURNS, _TURN_SECONDS, _LEAST_RUNS, _BUDGET, _LONGEST = 4, 0.15, 5, 2.0, 1.0
#: The batch that is also tried, for one turn, where the engine is not faster at its smallest batch.
_LARGER = 8

Clock = Callable[[], float]
Open = Callable[[], Runner]


@dataclass(frozen=True)
class Speed:
    """What the check found. ``times`` holds batch 1 (or the engine's smallest) and, where the engine is not faster at
    that, a larger batch; it is empty where nothing was measured, and ``skipped`` says why. ``reasons`` are given where
    the engine is not faster at the first batch. ``threads`` is None where the engine runs on a GPU.
    ``load`` is how many programs wanted a CPU over the last minute, on average, where they were more than there are
    CPUs; otherwise None.
    """

    threads: int | None
    times: tuple[FloatTimes, ...] = ()
    reasons: tuple[Reason, ...] = ()
    skipped: str | None = None
    load: float | None = None

    @property
    def faster(self) -> bool | None:
        """Whether the engine is faster at the first batch; None where that was not measured."""
        return self.times[0].faster if self.times else None

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON holds it, with the ratio of each batch."""
        times = [{**asdict(one), "ratio": one.ratio} for one in self.times]
        return {**asdict(self), "times": times, "faster": self.faster}


class _TooSlow(Exception):
    """A single run takes longer than the check may."""


def check_speed(engine: Path, manifest: Manifest, source: SourceModel, *, clock: Clock = time.perf_counter) -> Speed:
    """Time ``engine`` against the float twin of ``source``, the canonical file that it was built from.

    It takes a few seconds at most, save that for a GPU the float model is built first, and it raises nothing that a
    model, a runtime or a full disk can cause: a build is not worth less for it.
    """
    backend = backend_named(manifest.backend)
    threads = len(usable_cpus()) if backend.on_cpus else None
    if manifest.validation.verdict != PASSED:
        return Speed(threads, skipped=f"the engine is {manifest.validation.verdict}")
    options = {} if threads is None else {THREADS: str(threads)}
    try:
        with ExitStack() as stack:
            path = stack.enter_context(temporary_folder()) / "float.onnx"
            float_file(source, manifest, backend, path)
            batch = manifest.profile.min

            def open_float() -> Runner:
                return open_like(manifest, path, session=options)

            def open_engine() -> Runner:
                return load_engine(engine, manifest, session=options)

            times = [compare_runs(open_engine, open_float, manifest.input.random(batch), clock)]
            slower = max(times[0].float_ms, times[0].engine_ms) / 1e3
            larger = batch < _LARGER <= manifest.profile.max and slower * _LARGER / batch < _LONGEST
            if larger and not times[0].faster:
                times.append(compare_runs(open_engine, open_float, manifest.input.random(_LARGER), clock, turns=1))
    except _TooSlow as slow:
        return Speed(threads, skipped=str(slow))
    except (RepqError, MemoryError) as error:
        return Speed(threads, skipped=str(error) or type(error).__name__)
    speed = Speed(threads, tuple(times), load=_crowd())
    if speed.faster:
        return speed
    return dataclasses.replace(speed, reasons=why_not_faster(facts_of(source.model, manifest, backend), times))


def _crowd() -> float | None:
    """The load of the last minute where other programs must be part of it; None too where the system tells none."""
    if not hasattr(os, "getloadavg"):
        return None
    load = os.getloadavg()[0]
    return load if load > len(usable_cpus()) + 0.5 else None


def float_file(source: SourceModel, manifest: Manifest, backend: Backend, path: Path) -> None:
    """Write what ``backend`` opens as the float twin of ``source`` to ``path``.

    CPU runtimes open the twin itself, as they would any float model; for a GPU it is built as the engine was.

    Raises:
        BadInput: the temporary folder has no room.
        BuildFailed: the builder refuses it.
    """
    from repq_deploy.engines.float_twin import float_twin  # noqa: PLC0415 (needs the passes' packages)
    from repq_deploy.export.lowering import Lowering, lower  # noqa: PLC0415
    from repq_deploy.export.weights_file import write_model  # noqa: PLC0415

    twin = float_twin(source.model, folder=source.path.parent)
    check_room(path.parent, sum(len(tensor.raw_data) for tensor in twin.graph.initializer))
    if backend.on_cpus:
        write_model(twin, path)
        return
    lowering = Lowering(half=manifest.precision == "fp16", compute=manifest.compute)
    lowered, _ = lower(twin, backend.passes(lowering))
    targets = () if manifest.target is None else tuple(manifest.target.split("+"))
    backend.build(lowered, path, profile=manifest.profile, targets=targets, progress=lambda fraction, phase: None)


def compare_runs(
    open_engine: Open,
    open_float: Open,
    images: NDArray[np.float32],
    clock: Clock = time.perf_counter,
    *,
    turns: int = _TURNS,
) -> FloatTimes:
    """Let the two take turns on ``images`` [N, C, H, W]; each of the two is opened for a turn and closed after it.

    Raises:
        _TooSlow: one run of one of them takes longer than a second.
    """
    started = clock()
    fastest: dict[str, list[float]] = {"engine": [], "float model": []}
    for turn in range(turns):
        if turn and clock() - started > _BUDGET:
            break
        for what, opened in (("float model", open_float), ("engine", open_engine)):
            fastest[what].append(_turn(opened(), images, clock, what))
    return FloatTimes(len(images), 1e3 * min(fastest["engine"]), 1e3 * min(fastest["float model"]))


def _turn(run: Runner, images: NDArray[np.float32], clock: Clock, what: str) -> float:
    """The seconds of the fastest run, after two that do not count: the first one also allocates."""
    for _ in range(2):
        before = clock()
        run(images)
        if (took := clock() - before) > _LONGEST:
            raise _TooSlow(f"one run of the {what} takes {took:.1f} s; repq-bench measures it")
    found: list[float] = []
    started = clock()
    while len(found) < _LEAST_RUNS or clock() - started < _TURN_SECONDS:
        before = clock()
        run(images)
        found.append(clock() - before)
    return min(found)


def speed_words(speed: Speed) -> list[str]:
    """The check's answer in lines: the first says how fast the engine is, the others why it is no faster."""
    if not speed.times:
        return [f"speed against the float model: not measured: {speed.skipped}"]
    first, *larger = speed.times
    measured = _times(first, speed.threads)
    if first.faster:
        lines = [f"{first.ratio:.1f} times as fast as the float model on this machine ({measured})"]
    else:
        lines = [
            f"WARNING: not faster than the float model on this machine: {first.ratio:.2f} times as fast ({measured})"
        ]
    lines += [
        f"  batch {one.batch}: {one.ratio:.2f} times as fast ({one.engine_ms:.3g} ms against {one.float_ms:.3g} ms)"
        for one in larger
    ]
    for reason in speed.reasons:
        lines += [f"  reason: {reason.what}", f"  to do: {reason.to_do}"]
    if speed.load is not None:
        lines.append(
            f"  note: other programs were busy meanwhile (load {speed.load:.1f}), so this is rough; repq-bench on an "
            "idle machine measures it"
        )
    return lines


def _times(one: FloatTimes, threads: int | None) -> str:
    where = "on the GPU" if threads is None else f"{threads} thread{'s' * (threads != 1)}"
    return f"{one.engine_ms:.3g} ms against {one.float_ms:.3g} ms, batch {one.batch}, {where}"
