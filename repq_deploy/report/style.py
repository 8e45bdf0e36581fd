"""How the page looks: light, dark, narrow and on paper. Colours of text reach a contrast of 4.5 (WCAG AA)."""

from __future__ import annotations

__all__ = ["CSS", "DARK", "HEAT", "LIGHT", "heat_class"]

#: Colours by name.
LIGHT = {
    "page": "#ffffff",
    "card": "#f4f6f8",
    "ink": "#16202a",
    "soft": "#4d5a66",
    "line": "#c9d1d8",
    "link": "#0a5794",
    "good": "#0c6b3c",
    "bad": "#a8210f",
    "open": "#7a4f00",
    "one": "#b5531f",
    "two": "#1f6fa8",
}
DARK = {
    "page": "#12181e",
    "card": "#1c242c",
    "ink": "#e8edf1",
    "soft": "#aab6c0",
    "line": "#3a4650",
    "link": "#7cc0f4",
    "good": "#63d297",
    "bad": "#ff8d7c",
    "open": "#f0bd5a",
    "one": "#f2a36f",
    "two": "#74b9ee",
}

#: Cells of the picture of the network, in both themes: up to so many dB, background, text.
HEAT = (
    (10.0, "#7a1f0b", "#ffffff"),
    (15.0, "#b0421a", "#ffffff"),
    (20.0, "#f0a65a", "#1b1b1b"),
    (30.0, "#fadfb4", "#1b1b1b"),
    (40.0, "#d3e4f3", "#1b1b1b"),
    (float("inf"), "#93c4e6", "#1b1b1b"),
)


def heat_class(db: float) -> str:
    """The class of a cell of so many dB, one of ``HEAT``."""
    return f"h{next(index for index, (most, _, _) in enumerate(HEAT) if db < most)}"


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


CSS = (
    f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    + """
*{box-sizing:border-box}
body{margin:0 auto;max-width:64rem;padding:1rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:.3rem 0}
h2{font-size:1.25rem;margin:2.2rem 0 .5rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{margin:.4rem 0;max-width:46rem}
a{color:var(--link)}
.soft,caption,.missing{color:var(--soft)}
.missing{border-left:4px solid var(--line);padding-left:.7rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr));gap:.7rem;margin:1rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.7rem .9rem}
.card b{display:block;font-size:1.5rem;line-height:1.35;white-space:nowrap}
.card b.long{font-size:1rem;line-height:1.3;padding:.3rem 0;white-space:normal;overflow-wrap:normal}
.card h3{margin:0;font-size:.9rem;font-weight:600;color:var(--soft)}
.card p{font-size:.9rem;margin:.1rem 0}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}
ol.chain{list-style:none;padding:0;margin:.6rem 0;display:grid;
grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr));
gap:.7rem}
ol.chain li{border:1px solid var(--line);border-top:4px solid currentColor;border-radius:.3rem;padding:.5rem .7rem}
ol.chain li>*{color:var(--ink)}
ol.chain li>strong{color:inherit}
ol.chain p{font-size:.9rem}
.scroll{overflow-x:auto;margin:.5rem 0}
.scroll:focus-visible{outline:2px solid var(--link)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
caption{text-align:left;padding:.2rem 0;white-space:normal}
th,td{border-bottom:1px solid var(--line);padding:.2rem .6rem .2rem 0;text-align:left;vertical-align:top;
overflow-wrap:normal}
.n{text-align:right;padding-left:.6rem}
table.net{border-collapse:separate;border-spacing:2px}
table.net th{border:0;padding:.1rem .4rem;font-weight:400;white-space:nowrap}
table.net thead th{text-align:center}
table.net tbody th{vertical-align:middle;position:sticky;left:0;background:var(--page)}
table.net td{border:0;padding:.1rem .2rem .25rem;min-width:3.1rem;text-align:center;line-height:1.15;position:relative}
table.net td b{display:block;font-size:.95rem}
table.net td small{font-size:.75rem}
table.net td i{position:absolute;left:0;bottom:0;height:4px;background:currentColor}
table.net td.worst{outline:3px solid var(--ink);outline-offset:-1px}
table.net td.none{border:1px dashed var(--line)}
.key span{display:inline-block;padding:.1rem .5rem;margin:.1rem .2rem .1rem 0;font-size:.85rem}
.bar{height:1rem;min-width:2px;background:var(--two)}
.bar.first{background:var(--one)}
td.wide{width:14rem;min-width:8rem;padding-top:.4rem}
td.hit{background:var(--card)}
td.miss{font-weight:700;color:var(--bad);outline:1px solid currentColor;outline-offset:-1px}
svg{display:block;min-width:40rem;width:100%;max-width:52rem;height:auto}
svg text{fill:var(--ink);font-size:12px}
svg .axis{stroke:var(--line)}
svg .before{stroke:var(--one);fill:var(--one)}
svg .after{stroke:var(--two);fill:var(--two)}
svg text.before,svg text.after{stroke:none}
pre{background:var(--card);border:1px solid var(--line);padding:.6rem;white-space:pre-wrap;font-size:.85rem}
code{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.9em}
summary{cursor:pointer;margin:.5rem 0}
dl{display:grid;grid-template-columns:minmax(7rem,12rem) 1fr;gap:.2rem .8rem;font-size:.9rem}
dt{color:var(--soft)}dd{margin:0}
@media(max-width:30rem){body{padding:.7rem}dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}}
"""
    + "".join(f".h{index}{{background:{back};color:{ink}}}" for index, (_, back, ink) in enumerate(HEAT))
    + f"""
@media print{{:root{{color-scheme:light;{_variables(LIGHT)}}}
*{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
@page{{margin:12mm}}
html{{font-size:11px}}
body{{max-width:none;padding:0;font-size:1rem}}
.cards{{grid-template-columns:repeat(5,1fr);gap:.5rem}}
.card{{padding:.5rem .6rem}}
.scroll{{overflow:visible}}
svg{{min-width:0}}
table.net{{border-spacing:1px}}
table.net td{{min-width:2.9rem}}
td.wide{{width:auto}}.bar{{max-width:8rem}}
tr,.card,ol.chain li,svg,table.net{{break-inside:avoid}}h2,h3{{break-after:avoid}}
details:not([open]){{display:none}}}}
"""
)
