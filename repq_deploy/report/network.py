"""The picture of the network: blocks as columns, sites as rows, in a cell the bits and the error; the worst by name."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from repq_deploy.report.facts import ModelFact, SiteFact
from repq_deploy.report.html import Html, missing, number, percent, scrolled, section, table, tag
from repq_deploy.report.style import HEAT, heat_class

__all__ = ["listing_section", "network_section", "worst_section"]

#: Columns of one band: what fits a page of A4.
_BAND = 12
_WORST, _LISTED = 8, 1500
#: The bar of a cell is full from here on.
_FULL_DB = 50.0
#: The order in which a block computes; what is not named here keeps its place behind.
_FLOW = (
    "attn.qkv.input",
    "attn.qkv.weight",
    "attn.gate.input",
    "attn.gate.weight",
    "attn.q",
    "attn.k",
    "attn.p",
    "attn.v",
    "attn.proj.input",
    "attn.proj.weight",
    "mlp.fc1.input",
    "mlp.fc1.weight",
    "mlp.fc1_g.input",
    "mlp.fc1_g.weight",
    "mlp.fc1_x.input",
    "mlp.fc1_x.weight",
    "mlp.fc2.input",
    "mlp.fc2.weight",
)
_NO_ERRORS = "The file records no error per site: an older version exported it."


def network_section(model: ModelFact) -> Html:
    """One cell a quantizer. The colour says the error, and so do the number and the bar; the worst are framed."""
    if not model.sites:
        return section("Bits and error of every site", missing(_nothing(model)))
    measured = model.measures is not None
    worst = {site.name: rank for rank, site in enumerate(model.worst(_WORST), 1)}
    images = model.measures.images if model.measures is not None else 0
    words = (
        "Columns are blocks, rows are sites. In a cell: the signal-to-quantization-noise ratio in dB (more is better; "
        f"6 dB are one bit), the bits of a weight (w) or an activation (a), and the dB again as a bar, full at "
        f"{_FULL_DB:.0f}. Measured on {images} calibration images, each quantizer by itself. Framed and numbered: the "
        f"{len(worst)} worst."
    )
    inner = [tag("p", words if measured else _NO_ERRORS, class_=None if measured else "missing")]
    inner += [_key()] if measured else []
    blocks = list(dict.fromkeys(site.block for site in model.sites if site.block))
    for first in range(0, len(blocks), _BAND):
        columns = blocks[first : first + _BAND]
        inside = [site for site in model.sites if site.block in columns]
        inner.append(_band(inside, columns, _rows(inside), worst))
    outside = [site for site in model.sites if not site.block]
    if outside:
        inner.append(_outside(outside, worst))
    return section("Bits and error of every site", *inner)


def worst_section(model: ModelFact) -> Html | None:
    """The worst sites by name."""
    worst = model.worst(_WORST)
    if not worst:
        return None
    rows = [
        (rank, tag("code", site.name), f"{site.kind}, {site.short_bits}", percent(site.clipped), f"{site.db:.1f}")
        for rank, site in enumerate(worst, 1)
    ]
    heads = ("rank", "site", "quantizer", "clipped", "SQNR, dB")
    more = (
        "More bits for these sites: ",
        tag("code", f"--bits {model.bits},{_layer(worst[0].name)}=w8a8"),
        " for the first, or let repq-search choose. Log2 probabilities are coarse by design: a low number there "
        "costs less accuracy than it does elsewhere.",
    )
    return section(
        "Worst sites", table(heads, rows, caption="Lowest ratio of signal to error", numbers=2), tag("p", *more)
    )


def listing_section(model: ModelFact) -> Html | None:
    """Every site with its numbers, folded away."""
    if not model.sites:
        return None
    rows = [
        (
            tag("code", site.name),
            f"{site.kind}, {site.short_bits}",
            "–" if site.before is None else f"{number(site.before.low)} to {number(site.before.high)}",
            "–" if site.seen is None else f"{number(site.seen.low)} to {number(site.seen.high)}",
            percent(site.clipped),
            "–" if site.db is None else f"{site.db:.1f}",
        )
        for site in model.sites[:_LISTED]
    ]
    heads = ("site", "quantizer", "values before the fold", "values", "clipped", "SQNR, dB")
    caption = f"{len(rows)} of {len(model.sites)} quantizers"
    shown = tag("summary", f"All {len(model.sites)} sites as numbers")
    return tag("details", shown, table(heads, rows, caption=caption, numbers=4))


def _nothing(model: ModelFact) -> str:
    if not model.metadata.get("repq.bits"):
        return "This is a float model: it has no quantizers."
    return (
        _NO_ERRORS + " Name the canonical file beside the engine to see the bits, and export again to see the errors."
    )


def _layer(site: str) -> str:
    """The layer or the attention that ``--bits`` can name."""
    return site.rpartition(".")[0]


def _rows(sites: Sequence[SiteFact]) -> list[str]:
    found = list(dict.fromkeys(site.row for site in sites))
    return sorted(found, key=lambda row: _FLOW.index(row) if row in _FLOW else len(_FLOW))


def _band(sites: Sequence[SiteFact], blocks: Sequence[str], rows: Sequence[str], worst: dict[str, int]) -> Html:
    by_place = {(site.block, site.row): site for site in sites}
    prefix = blocks[0] if len(blocks) == 1 else f"{blocks[0]} to {blocks[-1]}"
    heads = (tag("th", _short(block), scope="col", title=block) for block in blocks)
    body = (
        tag("tr", tag("th", row, scope="row"), *(_cell(by_place.get((block, row)), worst) for block in blocks))
        for row in rows
    )
    head = tag("thead", tag("tr", tag("th", "site", scope="col"), *heads))
    label = f"Blocks {prefix}"
    return scrolled(label, tag("table", tag("caption", label), head, tag("tbody", *body), class_="net"))


def _outside(sites: Sequence[SiteFact], worst: dict[str, int]) -> Html:
    """Layers that belong to no block: one column each, their input and weight as rows."""
    columns = list(dict.fromkeys(_layer(site.name) for site in sites))
    inside = [
        SiteFact(site.name, _layer(site.name), site.name.rpartition(".")[2], site.bits, site.kind, site.db)
        for site in sites
    ]
    rows = list(dict.fromkeys(site.row for site in inside))
    by_place = {(site.block, site.row): site for site in inside}
    bands = [columns[first : first + 5] for first in range(0, len(columns), 5)]
    tables = []
    for band in bands:
        heads = (tag("th", column, scope="col") for column in band)
        body = (
            tag("tr", tag("th", row, scope="row"), *(_cell(by_place.get((column, row)), worst) for column in band))
            for row in rows
        )
        head = tag("thead", tag("tr", tag("th", "site", scope="col"), *heads))
        caption = tag("caption", "Outside of the blocks")
        tables.append(tag("table", caption, head, tag("tbody", *body), class_="net"))
    return scrolled("Outside of the blocks", *tables)


def _cell(site: SiteFact | None, worst: dict[str, int]) -> Html:
    if site is None:
        return tag("td")
    rank = worst.get(site.name)
    bits = tag("small", f"{site.short_bits}{f' #{rank}' if rank else ''}")
    if site.db is None:
        return tag("td", tag("b", "–"), bits, class_="none", title=f"{site.name}: {site.kind}, not measured")
    width = max(4.0, 100 * min(max(site.db, 0.0), _FULL_DB) / _FULL_DB)
    return tag(
        "td",
        tag("b", f"{round(site.db)}"),
        bits,
        tag("i", style=f"width:{width:.0f}%"),
        class_=heat_class(site.db) + (" worst" if rank else ""),
        title=f"{site.name}: {site.kind}, {site.short_bits}, {site.db:.1f} dB",
    )


def _key() -> Html:
    ends = [most for most, _, _ in HEAT]
    words = [f"below {ends[0]:.0f} dB", *(f"{a:.0f} to {b:.0f}" for a, b in itertools.pairwise(ends[:-1]))]
    words.append(f"{ends[-2]:.0f} and more")
    return tag("p", *(tag("span", word, class_=f"h{index}") for index, word in enumerate(words)), class_="key")


def _short(block: str) -> str:
    """The numbers of a block: ``1.0`` of ``layers.1.blocks.0``."""
    return ".".join(part for part in block.split(".") if part.isdecimal()) or block
