"""The method to use: what measured best of all steps, with more or less effort. All of it becomes plain Q/DQ.

``best`` needs calibration only. The residual stream is rotated, so that no channel has outliers; so are, of fewer than
five bits, q and k behind RoPE or a norm and what fc2 reads in gated MLPs, by products when the model runs; with more
bits, channels of the latter are balanced. Keys and values are centered; activations are those of RepQ-ViT, save that
ranges of 4 bits and fewer may be clipped more, and that probabilities are uniform from 6 bits on and below them powers
of two, where RepQ-ViT's have a factor for each element. Where q and k cannot be rotated by weights these are powers of
the largest of their row, and where they are rotated when the model runs, each head has a scale.
Every layer's weight is moved by ridge regression, behind a quantized prefix, to undo what it can of the error of its
input, and rounded by GPTQ. ``best-high`` has more images for that, and goes on to train a model of fewer than five
bits, all of it at once, by straight-through gradients, to give the float model's tokens and logits.
"""

from __future__ import annotations

from repq_deploy.methods.registry import register
from repq_deploy.steps import step

_ACTIVATIONS = (
    step("rotate", what="stream", online_below=5),
    step("center"),
    step("balance"),
    step("ranges", find="mse", weights=False, attention="online"),
    step("fold"),
)

register("best", softmax="by_site", steps=(*_ACTIVATIONS, step("weights", ridge=1.0, rounding="gptq")), images=128)

register(
    "best-high",
    softmax="by_site",
    steps=(
        *_ACTIVATIONS,
        step("weights", ridge=1.0, rounding="gptq", images=1024),
        step("reconstruct", unit="model", loss="feature", below=5),
    ),
    images=1024,
)
