"""RepQuant (Li et al., arXiv 2402.05628): RepQ-ViT with dual clipping and quantized weight reconstruction.

The paper decouples calibration and inference as RepQ-ViT does; before the fold each channel of a post-norm activation
learns its own two clipping points, and after it weights are rounded to reconstruct the layer's float output from its
quantized input. What of that is our reconstruction: the losses, and GPTQ as the weight solver, behind a quantized
prefix, with the bias taking up the mean error.
"""

from __future__ import annotations

from repq_deploy.methods.registry import register
from repq_deploy.steps import step

register(
    "repquant",
    softmax="log_sqrt2",
    steps=(
        step("ranges", weights=False),
        step("dual_clip"),
        step("fold"),
        step("weights", rounding="gptq"),
    ),
)
