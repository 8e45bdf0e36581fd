"""Speed, size, accuracy and confusion: what runs found, as parts of the page."""

from __future__ import annotations

from collections.abc import Sequence

from repq_deploy.engines.bench.measure import Measured
from repq_deploy.report.facts import BenchFact, Changes, FileFact, ModelFact, Report, Scored
from repq_deploy.report.html import Html, missing, number, scrolled, section, table, tag

__all__ = ["accuracy_section", "headline_speed", "speed_section"]

#: Up to so many outputs the confusion is a square; above, the pairs that occur most.
_SQUARE, _PAIRS = 20, 12
_BENCH = "repq-bench float.onnx ENGINE --json > bench.json"


def speed_section(report: Report) -> Html:
    """Latency and size of what was measured side by side."""
    title = "Latency and size against float"
    if not report.benches:
        return section(title, missing("Not measured. Name a result of repq-bench too; it is made by", _BENCH))
    inner: list[Html] = []
    for bench in report.benches:
        words = f"{bench.machine}; {bench.rounds} rounds in turn; ratios are to {bench.baseline}."
        inner.append(tag("p", tag("code", bench.path), ": ", words))
        inner += [_latency(bench, batch) for batch in bench.batches]
        inner.append(_sizes(bench))
    return section(title, *inner)


def headline_speed(report: Report) -> tuple[BenchFact, Measured] | None:
    """The one result to name: of the smallest batch, an engine of this report, else the fastest but the first."""
    engines = {_name(file.path) for model in report.models for file in model.files if file.manifest is not None}
    for bench in report.benches:
        others = [one for one in bench.of_batch(bench.batches[0]) if one.label != bench.baseline]
        named = [one for one in others if one.label in engines]
        if others:
            return bench, max(named or others, key=lambda one: one.speedup)
    return None


def _latency(bench: BenchFact, batch: int) -> Html:
    results = bench.of_batch(batch)
    most = max(one.median_ms for one in results)
    rows = [
        (
            one.label,
            _bar(one.median_ms / most, first=one.label == bench.baseline),
            f"{one.median_ms:.2f}",
            f"{one.p90_ms:.2f}",
            f"{one.p99_ms:.2f}",
            f"{one.images_per_s:.1f}",
            "–" if one.memory_mb is None else f"{one.memory_mb:.0f}",
            f"{one.speedup:.2f}×",
        )
        for one in results
    ]
    heads = ("model", "median time", "median, ms", "p90, ms", "p99, ms", "images/s", "memory, MB", "speed")
    return _bars(heads, rows, f"Milliseconds for a batch of {batch}")


def _sizes(bench: BenchFact) -> Html:
    results = bench.of_batch(bench.batches[0])
    most = max(one.size_mb for one in results) or 1.0
    first = results[0].size_mb
    rows = [
        (
            one.label,
            _bar(one.size_mb / most, first=one.label == bench.baseline),
            f"{one.size_mb:.2f}",
            f"{one.size_mb / first:.3f}" if first else "–",
        )
        for one in results
    ]
    return _bars(("model", "file size", "MB", "of the first"), rows, "Size of the files")


def _bars(heads: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> Html:
    return table(heads, rows, caption=caption, numbers=len(heads) - 2)


def _bar(share: float, *, first: bool) -> Html:
    bar = tag("div", class_="bar first" if first else "bar", style=f"width:{100 * share:.1f}%")
    return tag("div", bar, style="width:11rem;max-width:40vw;padding-top:.2rem")


def accuracy_section(model: ModelFact) -> Html:
    """Accuracy, and the decisions that changed against float, of every file that was run."""
    title = "Accuracy, and confusion against float"
    scored = [(file, file.scored) for file in model.files if file.scored is not None]
    if not scored:
        return section(title, missing("Not measured. Give images with labels, and the float model:", _scoring(model)))
    rows = []
    for file, one in scored:
        rows.append(_row(_name(file.path), one.evaluation.target))
        if one.evaluation.against is not None:
            rows.append(_row(f"{one.against} (compared with)", one.evaluation.against))
    heads = ("model", "images", "top-1, %", "standard error", "top-5, %")
    found = [table(list(heads), list(dict.fromkeys(rows)), caption=f"On {scored[0][1].data}", numbers=4)]
    shown: dict[Changes | None, str] = {}
    for file, one in scored:
        if one.changes is not None and one.changes in shown:
            found.append(tag("p", f"{_name(file.path)} has the very same confusion as {shown[one.changes]}."))
            continue
        shown[one.changes] = _name(file.path)
        found += _against(model, file, one)
    return section(title, *found)


def _row(name: str, figures: object) -> tuple[object, ...]:
    images, top1, error, top5 = (getattr(figures, key) for key in ("images", "top1", "top1_standard_error", "top5"))
    return (name, images, *("–" if value is None else f"{value:.2f}" for value in (top1, error, top5)))


def _against(model: ModelFact, file: FileFact, scored: Scored) -> list[Html]:
    name = _name(file.path)
    if scored.against is None or scored.evaluation.agreement is None:
        return [missing(f"{name} was not compared with the float model. Add", "--against MODEL")]
    words = scored.agreeing.format(scored.evaluation.agreement)
    difference, error = scored.evaluation.top1_difference, scored.evaluation.top1_difference_standard_error
    if difference is not None and error is not None:
        words += f"; top-1 {difference:+.2f} points (standard error {error:.2f}, paired)"
    found = [tag("h3", f"{name} against {scored.against}"), tag("p", f"{words}.")]
    if scored.changes is None:
        return [*found, missing("These outputs decide nothing about an image, so there is no confusion.")]
    return [*found, _confusion(scored.changes, name, scored.against)]


def _confusion(changes: Changes, name: str, against: str) -> Html:
    other = [one for one in changes.counts if one[0] != one[1]]
    total = sum(count for *_, count in changes.counts)
    if not other:
        return tag("p", f"All {total} images are decided alike.")
    if changes.outputs > _SQUARE:
        rows = [(changes.name(a), changes.name(b), n) for a, b, n in other[:_PAIRS]]
        caption = (
            f"The {len(rows)} changes that occur most, of {len(other)}; {sum(n for *_, n in other)} of {total} images"
        )
        return table((f"{against} says", f"{name} says", "images"), rows, caption=caption, numbers=1)
    counts = {(a, b): n for a, b, n in changes.counts}
    heads = (tag("th", changes.name(b), scope="col", class_="n") for b in range(changes.outputs))
    body = (
        tag(
            "tr",
            tag("th", changes.name(a), scope="row"),
            *(_count(counts.get((a, b), 0), a == b) for b in _all(changes)),
        )
        for a in _all(changes)
    )
    caption = (
        f"Images by what {against} says (rows) and what {name} says (columns). Shaded: decided alike; framed: changed."
    )
    head = tag("thead", tag("tr", tag("th", "class", scope="col"), *heads))
    return Html(tag("p", caption, class_="soft") + scrolled(caption, tag("table", head, tag("tbody", *body))))


def _all(changes: Changes) -> range:
    return range(changes.outputs)


def _count(count: int, alike: bool) -> Html:
    kind = "hit" if alike else "miss" if count else ""
    return tag("td", number(count, 9) if count or alike else "·", class_=f"n {kind}".strip())


def _scoring(model: ModelFact) -> str:
    return f"repq-report {' '.join(_name(file.path) for file in model.files)} --data IMAGES --against {model.name}"


def _name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
