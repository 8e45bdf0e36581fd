"""Relevance is conserved, and each rule shares as its formula says."""

import pytest
import torch
from torch import nn

from repq_deploy.errors import BadInput
from repq_deploy.models.families import find_sites
from repq_deploy.models.zoo import create
from repq_deploy.search.relevance import relevance, relevance_shares
from tests.conftest import SPECS, float_model, images_for


def blocks(model: nn.Module) -> list[str]:
    names = [name for name, module in model.named_modules() if type(module).__name__.endswith("Block")]
    assert names
    return names


def test_the_relevance_at_every_block_is_the_logit(family):
    model, images = float_model(family), images_for(family)
    before = [parameter.requires_grad for parameter in model.parameters()]
    found, logits = relevance(model, images, [*blocks(model), "patch_embed"])
    with torch.no_grad():
        expected = model(images).max(dim=1).values
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    for name in blocks(model):
        assert (found[name] / logits - 1).abs().max() < 1e-3, name
    # The class token is no part of the image: it keeps a share; without one everything reaches the image.
    share = found["patch_embed"] / logits
    assert (share < 1.001).all()
    assert (share > 0).all()
    if family in ("average", "swin"):
        assert (share - 1).abs().max() < 1e-3
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def test_it_is_conserved_with_two_heads():
    model, images = create(SPECS["distilled"], seed=1), images_for("distilled")
    found, logits = relevance(model, images, ["blocks.0", "head", "head_dist"])
    torch.testing.assert_close(logits, model(images).detach().max(dim=1).values, rtol=1e-4, atol=1e-6)
    for total in (found["blocks.0"], found["head"] + found["head_dist"]):
        assert (total / logits - 1).abs().max() < 1e-3


def test_the_rule_of_products_against_its_formula():
    torch.manual_seed(0)
    linear = nn.Linear(6, 3)
    model = nn.Sequential(nn.Identity(), linear)
    x = torch.randn(2, 6)
    found, logits = relevance(model, x, ["0", "1"])
    torch.testing.assert_close(found["1"], logits)

    class Split(nn.Module):
        """Two branches from disjoint halves, so that each half's relevance can be compared with the formula."""

        def __init__(self):
            super().__init__()
            self.left, self.right, self.head = nn.Identity(), nn.Identity(), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.cat([self.left(x[:, :2]), self.right(x[:, 2:])], dim=1))

    split = Split()
    kept, logits = relevance(split, x, ["left", "right"])
    positive = (x[:, None] * split.head.weight).clamp_min(0)  # [N, out, in]
    chosen = split.head(x).argmax(dim=1)
    shares = positive[range(2), chosen] / positive[range(2), chosen].sum(dim=1, keepdim=True)
    torch.testing.assert_close(kept["left"], (shares[:, :2].sum(dim=1) * logits).detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(kept["right"], (shares[:, 2:].sum(dim=1) * logits).detach(), rtol=1e-3, atol=1e-5)


def test_the_rule_of_sums_is_by_magnitude():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Identity()

        def forward(self, x):
            return x + self.branch(x) * -3.0

    x = torch.tensor([[1.0, 2.0, -4.0]])
    found, logits = relevance(Residual(), x, ["branch"])
    torch.testing.assert_close(found["branch"], 0.75 * logits, rtol=1e-4, atol=1e-6)


def test_the_factors_of_a_gated_product_get_half_each():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.value = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return nn.functional.silu(self.gate(x)) * self.value(x)

    torch.manual_seed(0)
    found, logits = relevance(Gated(), torch.randn(2, 4), ["gate", "value"])
    torch.testing.assert_close(found["gate"], logits / 2)
    torch.testing.assert_close(found["value"], logits / 2)


@pytest.mark.parametrize("inplace", [False, True])
def test_differences_and_sums_in_place_are_sums(inplace):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Identity()

        def forward(self, x):
            if inplace:
                x = x * 1.0
                x += self.branch(x) * 3.0
                return x
            return x - self.branch(x) * 3.0

    x = torch.tensor([[1.0, 2.0, -4.0]])
    found, logits = relevance(Residual(), x, ["branch"])
    assert logits.item() == 8.0
    torch.testing.assert_close(found["branch"], 0.75 * logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.Sigmoid(), nn.SiLU()]
)
def test_norms_and_activation_functions_hand_everything_on(norm):
    model = nn.Sequential(nn.Identity(), norm, nn.Linear(4, 3)).eval()
    found, logits = relevance(model, torch.randn(2, 4), ["0", "2"])
    torch.testing.assert_close(found["0"], found["2"])
    torch.testing.assert_close(found["0"], logits, rtol=1e-4, atol=1e-6)


def test_an_average_is_shared_like_a_convolution_and_the_largest_takes_all():
    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Identity(), nn.Identity()

        def forward(self, x):
            x = torch.cat([self.left(x[..., :1]), self.right(x[..., 1:])], dim=-1)
            return torch.stack([nn.functional.avg_pool2d(x, 2).flatten(), x.amax((1, 2, 3))], dim=1)

    x = torch.tensor([[[[1.0, 5.0], [2.0, 4.0]]], [[[-1.0, -7.0], [-2.0, -6.0]]]])
    found, logits = relevance(Pool(), x, ["left", "right"])
    assert logits.tolist() == [5.0, -1.0]
    torch.testing.assert_close(found["left"], torch.tensor([0.0, -1.0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["right"], torch.tensor([5.0, 0.0]), rtol=1e-4, atol=1e-4)


def test_shares_sum_to_one_and_are_positive(family):
    model = float_model(family)
    sites = find_sites(model)
    shares = relevance_shares(model, sites, images_for(family))
    assert set(shares) == {site.name for site in (*sites.linears, *sites.attentions)}
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0


def test_a_function_without_a_rule_is_refused():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(x, dim=1)

    with pytest.raises(BadInput, match="cumsum"):
        relevance(Odd(), torch.randn(2, 3), [])


def test_logits_that_are_all_zero_have_none_to_share():
    model = float_model("vit")
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    with pytest.raises(BadInput, match="all zero, expected a trained head"):
        relevance_shares(model, find_sites(model), images_for("vit"))


def test_images_done_are_reported():
    model, images = float_model("vit"), images_for("vit").repeat(3, 1, 1, 1)[:10]
    seen: list[tuple[int, int]] = []
    together, _ = relevance(model, images, ["head"], on_images=lambda *done: seen.append(done))
    assert seen == [(8, 10), (10, 10)]
    assert together["head"].shape == (10,)
