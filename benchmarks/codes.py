"""Are the integer codes the same before and after the fold, and in PyTorch and ONNX Runtime, at every site?

For each model and bit-width: the share of equal codes of the channel-wise quantizers before and after they were folded
into one scale (in float64, on the inputs of each layer norm), the share of equal codes of the exported graph in ONNX
Runtime, and the largest number of levels a site uses beside what its bits allow::

    python benchmarks/codes.py [--output benchmarks/results/codes.md]

Random weights, with layer norms made as uneven between channels as trained ones are.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from commands import table_line
from torch import Tensor, nn

from repq_deploy.bits import BitWidths
from repq_deploy.calibrate import calibrate
from repq_deploy.export.canonical import canonical_onnx
from repq_deploy.export.prove_export import compare_export
from repq_deploy.models import zoo
from repq_deploy.models.preprocessing import preprocess_of
from repq_deploy.quant.layers import QuantLinear
from repq_deploy.rewrites.folds import fold_post_norm
from repq_deploy.steps import fold

RESULTS = Path(__file__).parent / "results" / "codes.md"
HEADER = ("model", "bits", "folds", "fold: equal codes %", "sites", "export: at worst %", "export: mean %", "levels")


class FoldCheck:
    """Stands in for ``fold_post_norm``: folds, and compares the codes before and after on the norm's own inputs."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[nn.Module, Tensor] = {}
        self.equal: list[float] = []
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.register_forward_pre_hook(self._record)

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.inputs[module] = inputs[0].detach()

    def __call__(self, norm: nn.LayerNorm, layer: QuantLinear, **options: Any) -> None:
        exact_norm, exact_layer = copy.deepcopy(norm).double(), copy.deepcopy(layer).double()
        x = self.inputs[norm].double()
        codes, after = [], (exact_norm, exact_layer)
        for rewrite in (lambda *_, **__: None, fold_post_norm):
            rewrite(*after, **options)
            quantizer = exact_layer.input_quantizer
            codes.append(quantizer.codes(nn.LayerNorm.forward(exact_norm, x)) + quantizer.zero_point)
        self.equal.append(float((codes[0] == codes[1]).double().mean()))
        fold_post_norm(norm, layer, **options)


def uneven(model: nn.Module) -> nn.Module:
    """Spread the layer norms' channels, up to about thirty times."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data = torch.exp(torch.randn(module.weight.shape, generator=generator))
            module.bias.data = module.weight.data * torch.randn(module.weight.shape, generator=generator)
    return model


@torch.no_grad()
def row(name: str, bits: str) -> tuple[str, ...]:
    spec = zoo.resolve(name, pretrained=False)
    model = uneven(zoo.create(spec))
    shape = (3, *preprocess_of(model).size)
    images = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))
    check = FoldCheck(model)
    fold.fold_post_norm = check  # type: ignore[attr-defined]
    quantized = calibrate(model, spec, images, bits=BitWidths.parse(bits), method="repq")
    agreement = compare_export(quantized, canonical_onnx(quantized, shape), images[:2])
    excess = [site for site in agreement.sites if site.levels > 2**site.bits]
    fullest = max(agreement.sites, key=lambda site: site.levels / 2**site.bits)
    return (
        name,
        bits,
        str(len(check.equal)),
        f"{100 * min(check.equal):.6f}",
        str(len(agreement.sites)),
        f"{100 * agreement.worst.equal:.4f}",
        f"{100 * agreement.mean_equal:.5f}",
        f"{fullest.levels} of {2**fullest.bits}" if not excess else f"EXCEEDED at {len(excess)} sites",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    rows = [row(name, bits) for name in ("deit_t", "swin_t") for bits in ("w4a4", "w8a8")]
    lines = map(table_line, (HEADER, ("---",) * len(HEADER), *rows))
    args.output.write_text("".join(["`python benchmarks/codes.py`\n\n", *lines]))


if __name__ == "__main__":
    main()
