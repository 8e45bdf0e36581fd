"""DopQ-ViT (arXiv 2408.03291): a tangent quantizer of probabilities, and the median as the folded scale.

TanQ (``repq_deploy.quant.softmax.TanQuantizer``) is our reconstruction, as its formula could not be read; by itself it
measures below log-sqrt2 at w4a4 (``benchmarks/ablation.py``), and what the method gains comes from its training. MOSF,
the scale with the least mean absolute deviation from the channels' scales, is their median; behind an exact fold and
weights quantized after it, its choice changes nothing (tests show that, and what it does without). The paper
then reconstructs by training; its settings could not be read either, ours is block by block with the squared error of
the block's output. (With 32 images the default epochs are 20 steps, in which hardly a weight changes its code.)
"""

from __future__ import annotations

from repq_deploy.methods.registry import register
from repq_deploy.steps import step

register(
    "dopq",
    softmax="tan",
    steps=(
        step("ranges", weights=False),
        step("fold", target="median"),
        step("weights"),
        step("reconstruct", unit="block", loss="mse"),
    ),
    images=256,
)
