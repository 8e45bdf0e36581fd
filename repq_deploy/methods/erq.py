"""ERQ: error reduction (Zhong et al., ICML 2024; the steps of its published code).

RepQ-ViT's activations, over weights that are still float; then, layer by layer, ridge regression undoes what it can of
the error of the quantized input (Aqer), and the rounding of the weights is refined, half of the columns at a time,
while the others make up for its error (Wqer).

Changed against the published code, which gives each layer the float model's inputs: here a layer's input carries the
error of the layers before it, and is compensated for that too (``prefix: float`` is theirs; what it is worth is in
``benchmarks/ablation.py``). Mended: the regularization is relative to the inputs' power, so that it depends neither on
the number of images nor on a folded scale; the bias is not regularized; matrices are solved by Cholesky in float64;
layers without a bias (Swin's reductions) get one; nothing is written to disk. Not taken over: the two scales per row of
qkv and fc1, which no engine can run as one product.
"""

from __future__ import annotations

from repq_deploy.methods.registry import register
from repq_deploy.steps import step

register(
    "erq",
    softmax="log_sqrt2",
    steps=(
        step("ranges", weights=False),
        step("fold"),
        step("weights", ridge=1.0, rounding="refined", prefix="quantized"),
    ),
)
