"""timm's ``ParallelScalingBlock`` (ViT-22B, arXiv 2302.05442) with its linears apart, as sites speak of them.

The block has attention and MLP side by side, and makes q, k, v and the MLP's hidden channels in one product.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn

__all__ = ["ParallelBlock"]


class ParallelBlock(nn.Module):
    """``x + ls1(attn(norm(x))) + ls2(mlp(norm(x)))``, of the weights of a ``ParallelScalingBlock``."""

    @torch.no_grad()
    def __init__(self, block: ParallelScalingBlock) -> None:
        super().__init__()
        first, last = block.in_proj, block.out_proj
        channels, hidden = first.in_features, block.in_split[0]
        of_qkv = None if first.bias is None else first.bias[hidden:]
        of_mlp = block.mlp_bias if first.bias is None else first.bias[:hidden]
        self.norm = block.in_norm
        self.attn: Any = Attention(channels, block.num_heads, device="meta")
        self.attn.qkv = _linear(first.weight[hidden:], of_qkv)
        self.attn.q_norm, self.attn.k_norm = block.q_norm, block.k_norm
        self.mlp: Any = Mlp(channels, hidden, device="meta")
        self.mlp.fc1, self.mlp.act = _linear(first.weight[:hidden], of_mlp), block.mlp_act
        if last is None:
            self.attn.proj, self.mlp.fc2 = block.attn_out_proj, block.mlp_out_proj
        else:
            self.attn.proj = _linear(last.weight[:, :channels], last.bias)
            self.mlp.fc2 = _linear(last.weight[:, channels:], None)
        self.ls1, self.ls2 = copy.deepcopy(block.ls), copy.deepcopy(block.ls)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.ls1(self.attn(y)) + self.ls2(self.mlp(y))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().contiguous(), requires_grad=False)
    return linear
