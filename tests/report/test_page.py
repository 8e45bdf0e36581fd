"""The page as text: what is on it, what is escaped, and what it says of what is missing."""

from __future__ import annotations

import dataclasses
import html
import re

import pytest

from repq_deploy.errors import BadInput
from repq_deploy.report import page as module
from repq_deploy.report.facts import Changes, Report
from repq_deploy.report.figures import headline_speed
from repq_deploy.report.page import page
from repq_deploy.report.style import DARK, HEAT, LIGHT, heat_class
from tests.report.facts import HOSTILE, report


def plain(text: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", text.partition("</style>")[2])).split())


def test_the_headline_numbers_come_first() -> None:
    said = plain(page(report()))
    head = said[: said.index("Proof")]
    for expected in (
        "no engine",
        "2.00×",
        "model, 2.00 ms for a batch of 1",
        "90.00 %",
        "-1.50 points",
        "0.125 of float",
    ):
        assert expected in head
    assert "Worst site blocks. 0. attn. p 9.0 dB" in head
    assert "1,000 codes on 4 images, 3 differ, 0 of them" in said


def test_every_site_has_a_cell_and_the_worst_have_ranks() -> None:
    text = page(report(blocks=30))
    for block in range(30):
        assert f'title="blocks.{block}.attn.p: log2, a4, {9 + block:.1f} dB"' in text
    assert text.count('<table class="net">') == 4  # bands of 12, 12 and 6 blocks, and one outside of them
    assert [rank for rank in range(1, 12) if f"a4 #{rank}<" in text] == [*range(1, 9)]
    assert 'title="blocks.3.attn.qkv.weight: uniform, not measured"' in text


def test_ranges_say_how_uneven_channels_were_and_are() -> None:
    said = plain(page(report()))
    assert "the widest channel was 32 times the narrowest before the fold, 2 times after it" in said


def test_confusion_counts_images_by_what_both_say() -> None:
    text = page(report())
    said = plain(text)
    assert "same: 97.00 %; top-1 -1.50 points (standard error 0.40, paired)" in said
    assert '<th scope="row">cat</th><td class="n hit">50</td><td class="n miss">2</td><td class="n">·</td>' in text
    model = report().models[0]
    changes = Changes(1000, ((5, 5, 90), (5, 7, 8), (1, 5, 2)))
    scored = dataclasses.replace(model.files[0].scored, changes=changes)
    many = model.with_files(dataclasses.replace(model.files[0], scored=scored))
    assert "The 2 changes that occur most, of 2; 10 of 100 images" in plain(page(Report((many,), ())))


def test_what_is_missing_is_said_with_the_way_to_it() -> None:
    model = report().models[0]
    bare = dataclasses.replace(
        model, files=(dataclasses.replace(model.files[0], scored=None),), sites=(), measures=None
    )
    said = plain(page(Report((bare,), ())))
    for expected in (
        "repq-report model.onnx --data IMAGES --against tiny",
        "repq-bench float.onnx ENGINE --json > bench.json",
        "records no error per site",
        "records no ranges",
        "name an engine of this file too",
    ):
        assert expected in said


def test_nothing_of_a_file_is_html() -> None:
    text = page(report(hostile=HOSTILE))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 3
    assert not re.search(r'(?:src|href)="(?!data:,")', text)


def test_the_speed_is_of_the_engine_at_hand_else_of_the_fastest() -> None:
    found = headline_speed(report())
    assert found is not None
    assert (found[1].label, found[1].speedup) == ("model", 2.0)
    assert headline_speed(Report((), ())) is None


def test_a_page_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    with pytest.raises(BadInput, match="more than 10000; name fewer files"):
        page(report())


@pytest.mark.parametrize(("db", "expected"), [(-3, "h0"), (9.9, "h0"), (10, "h1"), (20, "h3"), (200, "h5")])
def test_colours_by_decibel(db: float, expected: str) -> None:
    assert heat_class(db) == expected


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_has_contrast() -> None:
    for theme in (LIGHT, DARK):
        texts = [theme[name] for name in ("ink", "soft", "link", "good", "bad", "open", "one", "two")]
        assert min(contrast(text, theme[back]) for text in texts for back in ("page", "card")) >= 4.5
    assert min(contrast(back, ink) for _, back, ink in HEAT) >= 4.5
