"""The facts of attention sites, each tried: a rewrite keeps a model's outputs exactly where its fact says that it does.

Facts that are wrong break models, and facts that are too strict cost accuracy, so both are tried.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch import Tensor, nn

from repq_deploy.methods import find_method
from repq_deploy.methods.registry import Method
from repq_deploy.models.families import find_sites
from repq_deploy.models.legality import legality, refusals
from repq_deploy.models.sites import AttentionSite, Sites
from repq_deploy.rewrites.centering import center_keys_and_values
from repq_deploy.rewrites.rotations import rotate_heads
from repq_deploy.steps import step

HEADS, SIZE, TOKENS, PREFIX = 2, 6, 5, 1
CHANNELS = HEADS * SIZE
QK = ("nothing", "norm", "norm without parameters", "rope", "cosine")
V = ("nothing", "norm", "gate")


class Attention(nn.Module):
    """Attention with any of what a site can say of it; ``factor`` [heads, 1, 1] multiplies the logits besides."""

    def __init__(self, between_qk: str, between_v: str) -> None:
        super().__init__()
        self.qk, self.v = between_qk, between_v
        self.qkv, self.proj = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.gate, self.factor = nn.Linear(CHANNELS, CHANNELS), torch.ones(HEADS, 1, 1)
        self.head_norms = nn.ModuleList(nn.LayerNorm(SIZE) for _ in range(2))
        self.norm = nn.LayerNorm(CHANNELS)
        for module in (self.qkv, self.proj, self.gate, *self.head_norms, self.norm):
            for parameter in module.parameters():
                nn.init.normal_(parameter)
        angles = torch.randn(TOKENS - PREFIX, SIZE // 2) * 2
        self.cosines, self.sines = angles.cos(), angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(-1, TOKENS, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        q, k = self._between(q, 0), self._between(k, 1)
        p = (q @ k.mT * SIZE**-0.5 * self.factor).softmax(-1)
        y = (p @ v).transpose(1, 2).flatten(-2)
        y = self.norm(y) if self.v == "norm" else y
        return self.proj(y * self.gate(x).sigmoid() if self.v == "gate" else y)

    def _between(self, x: Tensor, part: int) -> Tensor:
        if self.qk == "norm":
            return self.head_norms[part](x)
        if self.qk == "norm without parameters":
            return nn.functional.rms_norm(x, (SIZE,))
        if self.qk == "cosine":
            return nn.functional.normalize(x, dim=-1) * 5
        if self.qk == "rope":  # the class token has no position
            first, second = x[..., PREFIX:, :].chunk(2, dim=-1)
            turned = first * self.cosines - second * self.sines, first * self.sines + second * self.cosines
            return torch.cat([x[..., :PREFIX, :], torch.cat(turned, -1)], -2)
        return x


def case(qk: str, v: str) -> tuple[nn.Module, AttentionSite]:
    torch.manual_seed(0)
    model = nn.ModuleDict({"attn": Attention(qk, v)})
    return model, AttentionSite("attn", HEADS, qk.split(" ", maxsplit=1)[0], v)


def kept(model: nn.Module, rewrite) -> bool:
    """Whether outputs are what they were; between the two there is nothing."""
    x = torch.randn(3, TOKENS, CHANNELS)
    with torch.no_grad():
        before = model.attn(x)
        rewrite()
        error = float((model.attn(x) - before).norm() / before.norm())
    assert error < 1e-5 or error > 1e-2
    return error < 1e-5


def means(part: int) -> dict[str, Tensor]:
    found = torch.zeros(3, CHANNELS, dtype=torch.float64)
    found[part] = torch.randn(CHANNELS, dtype=torch.float64)
    return {"attn": found.flatten()}


@torch.no_grad()
def scale_heads(model: nn.Module, parts: tuple[int, ...]) -> None:
    """Multiply q and k, or v, of each head by a number, and take it out of the logits, or of ``proj``'s columns."""
    factors = torch.tensor([3.0, 0.5])
    rows = torch.ones(3, HEADS, SIZE)
    for part in parts:
        rows[part] *= factors[:, None]
        if part < 2:
            model.attn.factor = model.attn.factor / factors[:, None, None]
        else:
            model.attn.proj.weight /= factors.repeat_interleave(SIZE)
    model.attn.qkv.weight *= rows.flatten()[:, None]
    model.attn.qkv.bias *= rows.flatten()


@pytest.mark.parametrize("qk", QK)
def test_what_is_free_of_q_and_k(qk):
    model, site = case(qk, "nothing")
    claimed = Sites((), (replace(site, between_qk="nothing"),))
    assert kept(model, lambda: center_keys_and_values(model, claimed, means(1))) == site.k_shift_is_free
    model, _ = case(qk, "nothing")
    rotation_is_free = kept(model, lambda: rotate_heads(model, claimed, seed=0))
    # Lengths are what rotations keep, so a norm of lengths alone allows them; facts do not tell it from other norms.
    assert rotation_is_free == (site.qk_rotation_is_free or qk == "norm without parameters")
    model, _ = case(qk, "nothing")
    assert kept(model, lambda: scale_heads(model, (0, 1))) == site.qk_head_scales_are_free


@pytest.mark.parametrize("v", V)
def test_what_is_free_of_v(v):
    model, site = case("norm", v)
    claimed = Sites((), (replace(site, between_v="nothing"),))
    assert kept(model, lambda: center_keys_and_values(model, claimed, means(2))) == site.v_shift_is_free
    model, _ = case("norm", v)
    assert kept(model, lambda: rotate_heads(model, claimed, seed=0)) == site.v_rotation_is_free
    model, _ = case("norm", v)
    assert kept(model, lambda: scale_heads(model, (2,))) == site.v_head_scales_are_free


@pytest.mark.parametrize("qk", QK)
@pytest.mark.parametrize("v", V)
def test_rewrites_leave_out_what_is_not_free(qk, v):
    model, site = case(qk, v)
    sites = Sites((), (site,))
    assert kept(model, lambda: center_keys_and_values(model, sites, means(1)))
    assert kept(model, lambda: center_keys_and_values(model, sites, means(2)))
    assert kept(model, lambda: rotate_heads(model, sites, seed=0))


def vit_sites(**options) -> Sites:
    return find_sites(timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=24, num_heads=2, **options))


def test_a_plain_model_refuses_nothing():
    assert refusals(vit_sites()) == ()
    assert [(one.rewrite, one.allowed, one.places) for one in legality(vit_sites())][:3] == [
        ("fold", 4, 4),
        ("stream", 1, 1),
        ("center", 2, 2),
    ]


def test_what_is_refused_is_said_once_with_its_reason():
    found = vit_sites(scale_attn_norm=True)
    first, second = found.attentions
    turned = replace(second, between_qk="rope", between_v="nothing")
    sites = replace(found, stream=None, attentions=(first, turned))
    assert refusals(sites, ["stream", "center"]) == (
        "residual stream not rotated: it has no one form that every writer and reader shares",
        "k not centered in 1 of 2 attentions: they are turned by position between projection and product",
        "v not centered in 1 of 2 attentions: a norm stands between product and output projection",
    )
    cosine = replace(sites, attentions=tuple(replace(site, between_qk="cosine") for site in sites.attentions))
    assert refusals(cosine, ["bits"]) == (
        "q and k at no less than 8 bits in all 2 attentions: their errors are multiplied by attention's scale",
    )
    behind = replace(sites, linears=tuple(replace(site, norm=None) for site in sites.linears))
    assert refusals(behind, ["fold"]) == (
        "no fold into a norm in all 4 linears: no layer norm with scale and bias stands right before them",
    )


def test_a_method_is_refused_only_what_it_does():
    assert find_method("repq").rewrites() == {"fold", "bits"}
    assert find_method("minmax").rewrites() == {"bits"}
    assert find_method("best").rewrites() == {"fold", "stream", "center", "balance", "bits"}
    assert find_method("best").rewrites("float") == {"fold", "stream", "center", "balance"}
    everything = (step("rotate"), step("ranges", attention="head", gelu="adalog"))
    assert Method("mine", "log2", everything).rewrites() == {"stream", "heads", "fold", "head_scales", "gelu", "bits"}
