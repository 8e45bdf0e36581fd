"""What a server does under load, and beside it what the engine does when it is called directly.

The load comes from one process of its own; the engine is called in another, while the server has nothing to do. Rounds
go over all of them in turn, so that a slow minute of the machine falls on each alike.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from repq_deploy.engines.bench.measure import BenchPlan, run_times
from repq_deploy.engines.manifest import read_manifest
from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.remote.address import parse_address
from repq_deploy.remote.load.loops import ANSWERED, NO_CONNECTION, REFUSED, ClosedLoop, Loop, Sent
from repq_deploy.system.children import child_process
from repq_deploy.system.cpus import usable_cpus
from repq_deploy.system.leftovers import temporary_folder

__all__ = ["Direct", "LoadPlan", "LoadResult", "load", "summary"]

COMMAND = (sys.executable, "-P", "-m", "repq_deploy.remote.load.worker")


@dataclass(frozen=True)
class LoadPlan:
    """What to send where.

    Attributes:
        url: the served model.
        loops, batches: every loop is run with every number of images a request.
        rounds, seconds: every one of these is run for ``seconds`` in each round.
        warmup: seconds of the same load before that, which do not count.
        timeout: seconds that an answer may take.
        nice: how much nicer the load's process is than this one.
        against: the engine to call directly, by ``cpus`` (all that are allowed where that is empty).
    """

    url: str
    loops: tuple[Loop, ...]
    batches: tuple[int, ...] = (1,)
    rounds: int = 3
    seconds: float = 2.0
    warmup: float = 0.5
    timeout: float = 30.0
    nice: int = 5
    against: Path | None = None
    cpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        parse_address(self.url)
        if self.against is not None:
            read_manifest(self.against)


@dataclass(frozen=True)
class Direct:
    """The engine called directly with ``batch`` images: the runs of all rounds pooled, as the requests are."""

    batch: int
    median_ms: float
    p99_ms: float
    images_per_s: float


@dataclass(frozen=True)
class LoadResult:
    """One loop with one number of images a request, over all rounds.

    Attributes:
        loop: in words.
        sent: requests that were due in the measured stretch; each is answered, refused (HTTP 429 and 503, gRPC
            RESOURCE_EXHAUSTED and UNAVAILABLE) or failed, by what happened.
        median_ms, p90_ms, p99_ms, max_ms: of answered requests, from when they were due; None where there are none.
        refused_median_ms, refused_p99_ms: the same of refused ones.
        images_per_s: of answers that came within the stretch.
        different: answers whose numbers are not, to the bit, those of the first answer to the same request.
        late_p99_ms: how late the load's own process came to its requests; where that is much, it had too little CPU.
        load_cpu: how much of one CPU the load's own process took.
        of_engine: ``images_per_s`` in parts of the engine's own, at its best batch; None where it was not called.
        added_ms: ``median_ms`` beyond the engine's own for as many images, None likewise.
    """

    loop: str
    batch: int
    sent: int
    answered: int
    refused: int
    failed: dict[str, int]
    median_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    refused_median_ms: float | None
    refused_p99_ms: float | None
    images_per_s: float
    different: int
    late_p99_ms: float
    load_cpu: float
    of_engine: float | None = None
    added_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def load(
    plan: LoadPlan, *, progress: Callable[[str], None] = lambda what: None
) -> tuple[list[LoadResult], list[Direct]]:
    """Load the server as ``plan`` says: every batch size with every loop, and the engine at every batch size.

    Raises:
        BadInput: no server or model there, one that takes no images, or that answers nothing.
        BackendMissing: the client, or the engine's runtime, is not installed.
        BuildFailed: the engine's runtime fails to run it.
    """
    cases = [(batch, loop) for batch in plan.batches for loop in plan.loops]
    runs: list[list[dict[str, Any]]] = [[] for _ in cases]
    direct: defaultdict[int, list[float]] = defaultdict(list)
    for number in range(plan.rounds):
        where = f"round {number + 1} of {plan.rounds}"
        if plan.against is not None:
            progress(f"{plan.against.name}: {where}")
            for batch, milliseconds in _call_directly(plan, plan.against):
                direct[batch] += milliseconds
        progress(f"{plan.url}: {where}")
        for place, run in enumerate(_send(plan)):
            runs[place].append(run)
    engine = _pooled(direct)
    results = [
        _beside(summary(loop, batch, plan.seconds, of_case), engine)
        for (batch, loop), of_case in zip(cases, runs, strict=True)
    ]
    if not any(one.answered for one in results):
        kinds = Counter[str]()
        for one in results:
            kinds.update({**one.failed, REFUSED: one.refused})
        ((kind, count), *_) = kinds.most_common(1) or [("nothing was sent", 0)]
        hint = "is the server still there?" if kind == NO_CONNECTION else "look at the server's log"
        raise BadInput(f"{plan.url}: answered no request ({count} of {kind}); {hint}")
    return results, engine


def summary(loop: Loop, batch: int, seconds: float, runs: Sequence[dict[str, Any]]) -> LoadResult:
    """What the worker's messages ``runs`` about one loop, a round each, come to."""
    every = [Sent(*row) for run in runs for row in run["sent"]]
    counted = [one for one in every if one.due >= 0]
    outcomes = Counter(one.outcome for one in counted)
    answers = _milliseconds(counted, ANSWERED)
    refusals = _milliseconds(counted, REFUSED)
    in_time = sum(one.outcome == ANSWERED and 0 <= one.ended < seconds for one in every)
    return LoadResult(
        loop=loop.name,
        batch=batch,
        sent=len(counted),
        answered=outcomes.pop(ANSWERED, 0),
        refused=outcomes.pop(REFUSED, 0),
        failed=dict(sorted(outcomes.items())),
        median_ms=_percentile(answers, 50),
        p90_ms=_percentile(answers, 90),
        p99_ms=_percentile(answers, 99),
        max_ms=_percentile(answers, 100),
        refused_median_ms=_percentile(refusals, 50),
        refused_p99_ms=_percentile(refusals, 99),
        images_per_s=batch * in_time / (seconds * len(runs)),
        different=sum(run["different"] for run in runs),
        late_p99_ms=_percentile([1e3 * (one.begun - one.due) for one in counted], 99) or 0.0,
        load_cpu=statistics.mean(run["cpu"] for run in runs),
    )


def _milliseconds(sent: Sequence[Sent], outcome: str) -> list[float]:
    return [1e3 * (one.ended - one.due) for one in sent if one.outcome == outcome]


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def _beside(result: LoadResult, engine: Sequence[Direct]) -> LoadResult:
    """``result`` with the server's cost against the engine's own numbers, if there are any."""
    if not engine:
        return result
    own = next(one for one in engine if one.batch == result.batch)
    return replace(
        result,
        of_engine=result.images_per_s / max(one.images_per_s for one in engine),
        added_ms=None if result.median_ms is None else result.median_ms - own.median_ms,
    )


def _call_directly(plan: LoadPlan, engine: Path) -> list[tuple[int, list[float]]]:
    """Milliseconds of the engine at the smallest batch, at its best and at those of the plan, for one round."""
    profile = read_manifest(engine).profile
    batches = tuple(sorted({profile.min, profile.opt, *plan.batches}))
    cpus = plan.cpus or usable_cpus()
    times = run_times(BenchPlan((("engine", engine),), batches, cpus, rounds=1, seconds=plan.seconds))
    return [(batch, milliseconds) for (_, batch), milliseconds in times.items()]


def _pooled(direct: Mapping[int, Sequence[float]]) -> list[Direct]:
    return [
        Direct(
            batch,
            median_ms=statistics.median(runs),
            p99_ms=float(np.percentile(runs, 99)),
            images_per_s=1e3 * batch * len(runs) / sum(runs),
        )
        for batch, runs in sorted(direct.items())
    ]


def _send(plan: LoadPlan) -> list[dict[str, Any]]:
    """One round of all loops, in a process of its own: the worker's messages in the order of batches and loops."""
    options = {key: getattr(plan, key) for key in ("url", "batches", "seconds", "warmup", "timeout", "nice")}
    loops = [("closed" if isinstance(loop, ClosedLoop) else "open", asdict(loop)) for loop in plan.loops]
    with temporary_folder() as folder, (folder / "stderr").open("w+", encoding="utf-8", errors="replace") as stderr:
        with child_process([*COMMAND, json.dumps({**options, "loops": loops})], stderr=stderr) as child:
            answer = "" if child.stdout is None else child.stdout.read()
            status = child.wait()
        stderr.seek(0)
        said = stderr.read().strip()
    lines = [json.loads(line) for line in answer.splitlines() if line.startswith("{")]
    if lines and "error" in lines[-1]:
        kind = BackendMissing if lines[-1]["exit_code"] == BackendMissing.exit_code else BadInput
        raise kind(lines[-1]["error"])
    if status != 0:
        last = (said or "it said nothing").splitlines()[-1]
        raise BadInput(f"{plan.url}: the load's process ended with exit status {status}: {last}")
    return lines
