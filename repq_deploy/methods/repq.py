"""RepQ-ViT: scale reparameterization (Li et al., ICCV 2023, arXiv 2212.08254).

Calibrate with complex quantizers, run with simple ones: post-norm activations channel-wise, folded into one scale
(section 3.2); attention probabilities with log-sqrt2, run as log2 (section 3.3). Everything else is uniform, per tensor
for activations and per output channel for weights. One forward pass calibrates it.

Mended against the published code: the folded zero point is whole, and there are 2^b levels, not 2^b + 1, both in the
folded tensors and in the probabilities, whose masked zero counts as one; the whole range is among the percentiles that
the search tries, where 8 bits always clipped. Where codes must fit INT8 without a zero point, 8-bit weights and 8-bit
q, k and v are symmetric.
"""

from __future__ import annotations

from repq_deploy.methods.registry import register
from repq_deploy.steps import step

register(
    "repq",
    softmax="log_sqrt2",
    steps=(step("ranges", post_norm="channel"), step("fold")),
)
