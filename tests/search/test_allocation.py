"""The solver against brute force, and the budgets against their definitions."""

import itertools

import numpy as np
import pytest

from repq_deploy.bits import BitWidths, SiteBits
from repq_deploy.errors import BadInput
from repq_deploy.models.families import find_sites
from repq_deploy.search.allocation import (
    allocate,
    average_bits_budgets,
    bit_operations_budget,
    objective,
    size_budget,
)
from repq_deploy.search.space import SearchSite, bit_widths, parse_choices, search_sites
from tests.conftest import float_model, images_for
from tests.models.windowed import images_of, model_of


def random_case(seed: int, choices: str):
    rng = np.random.default_rng(seed)
    options = parse_choices(choices)
    sites = []
    for index in range(5):
        parameters = int(rng.integers(10, 1000))
        sites.append(SearchSite(f"blocks.{index}.mlp.fc1", "fc1", options, parameters, parameters * 7))
    widths = tuple(SiteBits(b, b) for b in sorted({bits.activation for bits in options}))
    sites.append(SearchSite("blocks.0.attn", "attention", widths, 0, int(rng.integers(100, 9000))))
    # Sensitivities span decades, as measured ones do, and are not always monotone.
    sensitivity = {(s.name, b): float(np.exp(rng.normal(-2 * b.weight, 3))) for s in sites for b in s.choices}
    relevance = dict(zip((s.name for s in sites), rng.dirichlet(np.ones(len(sites))), strict=True))
    return tuple(sites), objective(sites, sensitivity, relevance, tau=0.5)


def brute_force(sites, cost, budgets):
    best = None
    for combination in itertools.product(*(site.choices for site in sites)):
        chosen = {site.name: bits for site, bits in zip(sites, combination, strict=True)}
        if any(budget.spent(sites, chosen) > budget.limit * (1 + 1e-12) for budget in budgets):
            continue
        total = sum(cost[item] for item in chosen.items())
        if best is None or total < best[0]:
            best = (total, chosen)
    return best


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("choices", ["3,4,6,8", "w4a4,w4a8,w8a8"])
def test_it_finds_what_brute_force_finds(seed, choices):
    sites, cost = random_case(seed, choices)
    operations = bit_operations_budget(1).range(sites)
    cases = [
        average_bits_budgets(sites, 4 if choices[0] == "3" else 6.5),
        [size_budget(sites, 0.0021, numbers=sum(s.parameters for s in sites), symmetric=True)],
        [bit_operations_budget(operations[0] + 0.3 * (operations[1] - operations[0]))],
        [*average_bits_budgets(sites, 6), bit_operations_budget(0.5 * sum(operations))],
    ]
    checked = 0
    for budgets in cases:
        expected = brute_force(sites, cost, budgets)
        if expected is None:
            with pytest.raises(BadInput):
                allocate(sites, cost, budgets)
            continue
        found = allocate(sites, cost, budgets)
        assert found.objective == pytest.approx(expected[0], rel=1e-9)
        assert found.chosen == expected[1]
        assert all(found.spent[budget.name] <= budget.limit * (1 + 1e-9) for budget in budgets)
        checked += 1
    assert checked >= 3


def test_the_same_bits_everywhere_keep_their_own_average(family):
    model = float_model(family)
    sites = search_sites(model, find_sites(model), images_for(family, 1), choices=parse_choices("4,8"), preset="paper")
    cost = {(site.name, bits): 1.0 / bits.weight for site in sites for bits in site.choices}
    found = allocate(sites, cost, average_bits_budgets(sites, 4))
    assert {bits.weight for bits in found.chosen.values()} == {4}
    assert found.spent == {"average bits of weights": 4, "average bits of activations": 4}
    assert str(bit_widths(sites, found.chosen, preset="paper")) == "w4a4"


def test_a_budget_that_cannot_be_kept_says_what_can():
    sites, cost = random_case(0, "3,4,6,8")
    with pytest.raises(BadInput, match=r"average bits of weights 2 bits.*from 3 to 8 bits"):
        allocate(sites, cost, average_bits_budgets(sites, 2))
    with pytest.raises(BadInput, match="nan"):
        allocate(sites, cost, average_bits_budgets(sites, float("nan")))


def test_budgets_that_cannot_be_kept_together_are_named():
    a = SearchSite("a", "fc1", (SiteBits(4, 8), SiteBits(8, 4)), 10, 10)
    sites = (a,)
    with pytest.raises(BadInput, match="no allocation keeps all budgets together"):
        allocate(sites, {("a", bits): 1.0 for bits in a.choices}, average_bits_budgets(sites, 4))


def test_costs_are_counted_from_the_model():
    model = float_model("vit")  # 48 channels, 3 heads, 16 patches of 8x8 and a class token, 5 classes
    found = search_sites(model, find_sites(model), images_for("vit", 1), choices=parse_choices("3,4,8"), preset="paper")
    by_name = {site.name: site for site in found}
    assert list(by_name)[:5] == [
        "patch_embed.proj",
        "blocks.0.attn.qkv",
        "blocks.0.attn",
        "blocks.0.attn.proj",
        "blocks.0.mlp.fc1",
    ]
    assert (by_name["patch_embed.proj"].parameters, by_name["patch_embed.proj"].macs) == (48 * 192, 48 * 192 * 16)
    assert by_name["patch_embed.proj"].choices == (SiteBits(3, 8), SiteBits(4, 8), SiteBits(8, 8))
    assert (by_name["blocks.0.attn.qkv"].parameters, by_name["blocks.0.attn.qkv"].macs) == (48 * 144, 48 * 144 * 17)
    assert (by_name["blocks.0.attn"].parameters, by_name["blocks.0.attn"].macs) == (0, 2 * 17 * 17 * 48)
    assert by_name["head"].macs == 48 * 5
    fc1 = by_name["blocks.0.mlp.fc1"]
    assert fc1.bit_operations(SiteBits(4, 8)) == 32 * fc1.macs
    assert by_name["blocks.0.attn"].bit_operations(SiteBits(4, 4)) == 16 * 2 * 17 * 17 * 48
    sizes = [fc1.stored_bytes(SiteBits(b, b), symmetric=s) / fc1.parameters for b in (3, 4, 8) for s in (True, False)]
    assert sizes == [0.5, 0.5, 0.5, 1, 1, 1]
    deploy = search_sites(model, find_sites(model), images_for("vit", 1), choices=parse_choices("4,8"), preset="deploy")
    assert {"head", "patch_embed.proj"}.isdisjoint(site.name for site in deploy)


def test_swin_counts_each_window():
    model = float_model("swin")  # 14x14 positions of 24 channels in 4 windows, then 7x7 of 48 channels in one
    sites = search_sites(model, find_sites(model), images_for("swin", 1), choices=parse_choices("4,8"), preset="paper")
    macs = {site.name: site.macs for site in sites}
    assert macs["layers.0.blocks.0.attn"] == 2 * 4 * 49 * 49 * 24
    assert macs["layers.1.blocks.0.attn"] == 2 * 49 * 49 * 48
    assert macs["layers.1.downsample.reduction"] == 49 * 96 * 48


def test_cosine_attention_counts_the_8_bits_of_its_q_and_k():
    model = model_of("v2")
    sites = search_sites(model, find_sites(model), images_of("v2", 1), choices=parse_choices("4,8"), preset="paper")
    attention = next(site for site in sites if site.name == "layers.0.blocks.0.attn")  # 8x8 positions in 4 windows
    assert attention.macs == 2 * 4 * 16 * 16 * 24
    assert attention.activation_bits(SiteBits(4, 4)) == attention.macs * (8 + 4) / 2
    assert attention.bit_operations(SiteBits(4, 4)) == attention.macs * (64 + 16) / 2
    assert attention.bit_operations(SiteBits(8, 8)) == attention.macs * 64


def test_an_allocation_becomes_bit_widths_and_back():
    model = float_model("vit")
    sites = search_sites(model, find_sites(model), images_for("vit", 1), choices=parse_choices("3,4,8"), preset="paper")
    rng = np.random.default_rng(0)
    chosen = {site.name: site.choices[rng.integers(len(site.choices))] for site in sites}
    widths = bit_widths(sites, chosen, preset="paper")
    for site in sites:
        found = widths.of(site.name, site.role)
        assert found.activation == chosen[site.name].activation
        assert not site.parameters or found.weight == chosen[site.name].weight


@pytest.mark.parametrize("text", ["4", "4,4", "4,x", "1,4", "w4a4,w4"])
def test_bad_choices_are_refused(text):
    with pytest.raises(BadInput):
        parse_choices(text)


@pytest.mark.parametrize(("head", "distilled"), [("w8a8", "w4a4"), ("w4a4", "w8a8"), ("w8a8", "w3a3")])
@pytest.mark.parametrize("order", [1, -1])
def test_an_override_of_the_head_is_not_one_of_the_distilled_head(head, distilled, order):
    """``head`` is a site's name and the role of both."""
    chosen = {name: BitWidths.parse(bits).default for name, bits in [("head", head), ("head_dist", distilled)]}
    chosen |= {f"blocks.{index}.mlp.fc1": BitWidths.parse("w4a4").default for index in range(3)}
    sites = tuple(
        SearchSite(name, "head" if name.startswith("head") else "fc1", (), parameters=1, macs=1) for name in chosen
    )[::order]
    widths = bit_widths(sites, chosen, preset="paper")
    assert {site.name: widths.of(site.name, site.role) for site in sites} == chosen
