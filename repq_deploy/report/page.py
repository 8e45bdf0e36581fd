"""The page: what is asked first stands first, and nothing is fetched from anywhere."""

from __future__ import annotations

from repq_deploy import __version__
from repq_deploy.engines.prove_engine import FAILED, PASSED
from repq_deploy.errors import BadInput
from repq_deploy.report.commands import build_command, export_command
from repq_deploy.report.facts import FileFact, ModelFact, Report
from repq_deploy.report.figures import accuracy_section, headline_speed, speed_section
from repq_deploy.report.html import Html, missing, section, tag, text
from repq_deploy.report.network import listing_section, network_section, worst_section
from repq_deploy.report.ranges import ranges_section
from repq_deploy.report.style import CSS

__all__ = ["MOST_BYTES", "page"]

MOST_BYTES = 2_000_000
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
#: A mark, a class and a word for each outcome: the mark and the word tell it without the colour.
_GOOD, _BAD, _OPEN = ("✓", "good"), ("✗", "bad"), ("–", "open")


def page(report: Report) -> str:
    """The whole file, in one string of at most ``MOST_BYTES`` bytes of UTF-8.

    Raises:
        BadInput: it would be larger.
    """
    title = ", ".join(f"{model.name} {model.bits}" for model in report.models) or "Benchmark"
    body: list[Html] = [tag("p", "repq-deploy report", class_="soft"), tag("h1", title)]
    if not report.models:
        body.append(_cards(report, None))
    for model in report.models:
        body += [tag("h2", f"{model.name} {model.bits}")] if len(report.models) > 1 else []
        body += [_cards(report, model), _proof(model), network_section(model)]
        parts = (worst_section(model), ranges_section(model), accuracy_section(model))
        body += [part for part in parts if part is not None]
    body.append(speed_section(report))
    for model in report.models:
        body += [part for part in (listing_section(model),) if part is not None]
        body.append(_provenance(model))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="generator", content=f"repq-deploy {__version__} (repq-report)"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title}: repq-deploy report"),
        tag("style", Html(CSS)),
    )
    found = f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *body)), lang='en')}\n"
    size = len(found.encode())
    if size > MOST_BYTES:
        raise BadInput(f"the page would have {size} bytes, more than {MOST_BYTES}; name fewer files")
    return found


def _cards(report: Report, model: ModelFact | None) -> Html:
    """The headline numbers."""
    cards = [_speed(report)]
    if model is not None:
        cards = [_verdict(model), *cards, _accuracy(model), _size(report, model), _worst(model)]
    return tag("div", *cards, class_="cards")


def _card(title: str, value: str, words: str, kind: str = "", *, long: bool = False) -> Html:
    classes = " ".join(part for part in ("long" if long else "", kind) if part) or None
    return tag(
        "div",
        tag("h3", title),
        tag("b", _breakable(value) if long else value, class_=classes),
        tag("p", words),
        class_="card",
    )


def _breakable(value: str) -> Html:
    """A name that may be broken after each dot."""
    return Html(text(value).replace(".", ".<wbr>"))


def _engines(model: ModelFact) -> list[FileFact]:
    return [file for file in model.files if file.manifest is not None]


def _verdict(model: ModelFact) -> Html:
    verdicts = [file.manifest.validation.verdict for file in _engines(model) if file.manifest is not None]
    if not verdicts:
        return _card("Verdict", "no engine", "repq-build-engine makes one from this file", "open")
    worst = next((one for one in (FAILED, *verdicts) if one in verdicts and one != PASSED), PASSED)
    mark, kind = _mark(worst)
    return _card("Verdict", f"{mark} {worst}", f"{verdicts.count(PASSED)} of {len(verdicts)} engines passed", kind)


def _mark(verdict: str) -> tuple[str, str]:
    return {PASSED: _GOOD, FAILED: _BAD}.get(verdict, _OPEN)


def _speed(report: Report) -> Html:
    found = headline_speed(report)
    if found is None:
        return _card("Speed-up against float", "not measured", "name a result of repq-bench --json", "open", long=True)
    bench, one = found
    kind = "good" if one.speedup > 1 else "bad"
    return _card(
        "Speed-up",
        f"{one.speedup:.2f}×",
        f"{one.label}, {one.median_ms:.2f} ms for a batch of {one.batch}, against {bench.baseline}"
        + ("" if one.speedup > 1 else "; not faster here"),
        kind,
    )


def _accuracy(model: ModelFact) -> Html:
    ordered = [*_engines(model), *model.files]
    scored = next((file.scored for file in ordered if file.scored is not None), None)
    if scored is None:
        return _card("Accuracy", "not measured", "give --data and --against", "open", long=True)
    evaluation = scored.evaluation
    if evaluation.target.top1 is None:
        agreement = "–" if evaluation.agreement is None else f"{evaluation.agreement:.1f} %"
        return _card("Agreement with float", agreement, f"on {evaluation.target.images} images without labels")
    difference = evaluation.top1_difference
    words = "not compared with float" if difference is None else f"{difference:+.2f} points against {scored.against}"
    return _card("Accuracy (top-1)", f"{evaluation.target.top1:.2f} %", f"{words}; {evaluation.target.images} images")


def _size(report: Report, model: ModelFact) -> Html:
    file = (_engines(model) or list(model.files))[0]
    of_float = "" if model.measures is None else f", {file.bytes / max(model.measures.float_bytes, 1):.3f} of float"
    return _card("Size", f"{file.bytes / 1e6:.1f} MB", f"{file.kind}{of_float} (weights in float32)")


def _worst(model: ModelFact) -> Html:
    found = model.worst(1)
    if not found:
        return _card("Worst site", "not recorded", "export again to record the error of every site", "open", long=True)
    site = found[0]
    return _card("Worst site", site.name, f"{site.db:.1f} dB, {site.kind}, {site.bits} bits", long=True)


def _proof(model: ModelFact) -> Html:
    """What was compared at each step, and what was found."""
    links = [_exported(model)]
    for file in _engines(model):
        links += _built(file)
    if not _engines(model):
        links.append(("lowering, kernels, engine", _OPEN, "not known: name an engine of this file too"))
    items = (
        tag("li", tag("strong", f"{mark} {name}"), tag("p", words), class_=kind) for name, (mark, kind), words in links
    )
    words = "The same images give the same integer codes at every step."
    return section("Proof", tag("p", words), tag("ol", *items, class_="chain"))


def _exported(model: ModelFact) -> tuple[str, tuple[str, str], str]:
    measures = model.measures
    if measures is None:
        words = "PyTorch and the file: a quantized file is written only where this holds; its figures are not recorded"
        return "export", _GOOD if model.metadata.get("repq.bits") else _OPEN, words
    words = (
        f"PyTorch against ONNX Runtime: {measures.codes:,} codes on {measures.images} images, {measures.different:,} "
        f"differ, {measures.unexplained:,} of them not on a rounding tie"
    )
    return "export", _GOOD, words


def _built(file: FileFact) -> list[tuple[str, tuple[str, str], str]]:
    manifest = file.manifest
    assert manifest is not None  # noqa: S101 - for the type checker
    name = manifest.backend
    lowering = (
        f"canonical against lowered graph: {manifest.lowering_sqnr_db:.0f} dB in the weakest stretch (200: equal)"
    )
    codes = manifest.kernel_codes
    if codes is None:
        kernels = (
            _OPEN,
            "not compared: the kernels could not be run where the engine was built, or rounding was allowed",
        )
    else:
        words = f"{codes.codes:,} codes at {codes.sites} sites, {codes.different:,} differ, "
        words += f"{codes.unexplained:,} of them not on a tie"
        kernels = _GOOD, words
    validation = manifest.validation
    outcome = f"{validation.verdict}: {validation.reason}; on {manifest.reference_inputs}"
    return [
        (f"lowering ({name})", _OPEN if manifest.allow_rounding else _GOOD, lowering),
        (f"kernels ({name})", *kernels),
        (f"engine ({name})", _mark(validation.verdict), outcome),
    ]


def _provenance(model: ModelFact) -> Html:
    """What the files record of their making, and the commands to make them again."""
    command = export_command(model)
    lines = [command] if command else []
    lines += [build_command(file.manifest) for file in _engines(model) if file.manifest is not None]
    inner: list[Html] = []
    if command is None:
        inner.append(missing("The canonical file was exported from Python, so there is no command for it."))
    inner.append(tag("pre", tag("code", "\n".join(lines))))
    if command is not None:
        inner.append(tag("p", _what_is_needed(model), class_="soft"))
    entries = [(file.path, f"{file.kind}, {file.bytes:,} bytes, SHA-256 {file.sha256}") for file in model.files]
    entries += [(key.removeprefix("repq."), value) for key, value in model.metadata.items() if key != "repq.sites"]
    for file in _engines(model):
        if file.manifest is not None:
            entries.append((f"versions of {file.manifest.backend}'s build", str(file.manifest.versions)))
    pairs = (item for key, value in entries for item in (tag("dt", key), tag("dd", text(value[:1000]))))
    return section("Provenance, and how to make it again", *inner, tag("dl", *pairs))


def _what_is_needed(model: ModelFact) -> str:
    words = (
        f"The same file comes from calibration images with the SHA-256 {model.metadata.get('repq.calib.sha256', '')}"
    )
    capitals = "; words in capitals stand for files that are not recorded."
    return (words if model.metadata.get("repq.calib.sha256") else "Calibration images are not recorded") + capitals
