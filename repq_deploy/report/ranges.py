"""The picture of the fold: how unequal the channels of each layer norm's output were, and are."""

from __future__ import annotations

import math

from repq_deploy.report.facts import ModelFact, SiteFact
from repq_deploy.report.html import Html, missing, number, scrolled, section, tag

__all__ = ["ranges_section"]

_LEFT, _WIDTH, _RIGHT, _ROW, _TOP = 210, 470, 60, 34, 34
_MOST = 24


def ranges_section(model: ModelFact) -> Html:
    """Widths of the channels' ranges, before the fold and after it, on one logarithmic axis."""
    folded = [site for site in model.sites if site.before is not None and site.before.widths and site.seen is not None]
    title = "Activation ranges before and after the fold"
    if not folded:
        return section(title, missing(_why_not(model)))
    shown = sorted(folded, key=_ratio, reverse=True)[:_MOST]
    names = {site.name for site in shown}
    ordered = [site for site in folded if site.name in names]
    widest = shown[0]
    words = (
        "For each site that reads a layer norm: how wide the values of its channels are, from the narrowest channel "
        "to the widest (thin line), the middle half of the channels (thick), and the median (tick). The fold moves a "
        "scale for each channel into the layer norm, so that one scale for the tensor serves all of them. At "
    )
    text = (
        f" the widest channel was {number(_ratio(widest), 2)} times the narrowest before the fold, "
        f"{number(_ratio_after(widest), 2)} times after it."
    )
    rest = [tag("p", f"The {_MOST} most uneven of {len(folded)} sites.")] if len(folded) > _MOST else []
    return section(
        title, tag("p", words, tag("code", widest.name), text), *rest, scrolled(title, _picture(ordered, title))
    )


def _why_not(model: ModelFact) -> str:
    if model.measures is None:
        return "The file records no ranges: it is a float model, or an older version exported it; export it again."
    return "No site of this model was folded: its method gives every tensor one scale."


def _ratio(site: SiteFact) -> float:
    return site.before.widths[-1] / max(site.before.widths[0], 1e-12) if site.before is not None else 1.0


def _ratio_after(site: SiteFact) -> float:
    return site.seen.widths[-1] / max(site.seen.widths[0], 1e-12) if site.seen is not None and site.seen.widths else 1.0


def _picture(sites: list[SiteFact], title: str) -> Html:
    spreads = [spread.widths for site in sites for spread in (site.before, site.seen) if spread is not None]
    low = min(max(widths[0], 1e-6) for widths in spreads if widths)
    high = max(max(widths[-1], 1e-6) for widths in spreads if widths)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1], low * 1.01)

    def x(value: float) -> float:
        return _LEFT + _WIDTH * math.log(max(value, low) / low) / math.log(high / low)

    height = _TOP + _ROW * len(sites) + 42
    bottom = _TOP + _ROW * len(sites)
    parts: list[Html] = [
        tag("title", title),
        tag("text", "before the fold", x=_LEFT, y=16, class_="before"),
        tag("text", "after the fold", x=_LEFT + 130, y=16, class_="after"),
        tag("text", "widest/", x=_LEFT + _WIDTH + 12, y=13),
        tag("text", "narrowest", x=_LEFT + _WIDTH + 12, y=26),
    ]
    for tick in ticks:
        parts.append(tag("line", x1=f"{x(tick):.1f}", x2=f"{x(tick):.1f}", y1=_TOP - 6, y2=bottom, class_="axis"))
        parts.append(tag("text", f"{tick:g}", x=f"{x(tick):.1f}", y=bottom + 16, text_anchor="middle"))
    axis = "width of a channel's values: largest − smallest, in the activation's own units (logarithmic)"
    parts.append(tag("text", axis, x=_LEFT + _WIDTH / 2, y=bottom + 34, text_anchor="middle"))
    for index, site in enumerate(sites):
        y = _TOP + _ROW * index
        parts.append(tag("text", site.name.removesuffix(".input"), x=_LEFT - 10, y=y + 18, text_anchor="end"))
        for spread, name, down, ratio in (
            (site.before, "before", 8, _ratio(site)),
            (site.seen, "after", 21, _ratio_after(site)),
        ):
            if spread is not None and spread.widths:
                parts += _line([x(width) for width in spread.widths], y + down, name)
                parts.append(tag("text", f"{number(ratio, 2)}×", x=_LEFT + _WIDTH + 12, y=y + down + 4, class_=name))
    return tag("svg", *parts, viewBox=f"0 0 {_LEFT + _WIDTH + _RIGHT + 12} {height}", role="img", aria_label=title)


def _line(places: list[float], y: float, name: str) -> list[Html]:
    least, lower, middle, upper, most = (f"{place:.1f}" for place in places)
    dash = "5 2" if name == "before" else None
    return [
        tag("line", x1=least, x2=most, y1=y, y2=y, class_=name, stroke_width=1.5, stroke_dasharray=dash),
        tag("line", x1=lower, x2=upper, y1=y, y2=y, class_=name, stroke_width=6),
        tag("line", x1=middle, x2=middle, y1=y - 5, y2=y + 5, class_=name, stroke_width=2),
    ]


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... around the interval; only powers of ten over three decades, more within one."""
    steps = (1.0,) if high / low > 1e3 else (1.0, 2.0, 5.0) if high / low > 10 else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    below = [tick for tick in found if tick <= low] or found[:1]
    return [tick for tick in found if below[-1] <= tick <= high * 1.0001] or found[:1]
