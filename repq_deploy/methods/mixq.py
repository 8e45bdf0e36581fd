"""Mix-QViT (arXiv 2501.06357): clipped channel-wise quantization of post-norm activations, and mixed bits.

The method is RepQ-ViT with the widest channels of post-norm activations clipped before the fold, so that they do not
widen every row of the weight. Its other half, the bits of each site, come from ``repq-search``: relevance times
sensitivity under a budget, as a recipe for ``repq-export --recipe``. Clip rule and objective are our reconstruction.
"""

from __future__ import annotations

from repq_deploy.methods.registry import register
from repq_deploy.steps import step

register(
    "mixq",
    softmax="log_sqrt2",
    steps=(step("ranges", post_norm="clipped"), step("fold")),
)
