"""A bigger model, in float, with a quantized part in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from repq_deploy.errors import BadInput
from repq_deploy.models.zoo import ModelSpec
from repq_deploy.outputs import leaves
from repq_deploy.quant.model import QuantizedModel
from repq_deploy.tasks import FEATURES, Task

__all__ = ["WholeModel"]


class WholeModel(QuantizedModel):
    """A copy of ``whole`` in which ``quantized`` is in place of the submodule ``part``.

    It is a quantized model as any other: its sites are those of the part, under the names that they have there. Called
    with images, it gives the tensors that ``whole`` gives for them, in order.

    Args:
        images: some that ``whole`` takes, for the names of its outputs.
        forward: runs ``whole`` on images; default: ``whole(images)``.

    Raises:
        BadInput: an output that is no tensor with one row for each image.
    """

    def __init__(
        self,
        quantized: QuantizedModel,
        whole: nn.Module,
        part: str,
        images: Tensor,
        forward: Callable[[nn.Module, Tensor], Any] | None = None,
    ) -> None:
        spec = ModelSpec(type(whole).__name__, "", {}, None, "own")
        super().__init__(quantized.model, spec, quantized.bits, quantized.sites, softmax=quantized.softmax)
        self.provenance, self.part = quantized.provenance, part
        # Wherever the copy would hold the part, it holds the quantized one.
        self.whole: nn.Module = copy.deepcopy(whole, {id(whole.get_submodule(part)): quantized.model}).eval()
        self._forward = forward or nn.Module.__call__
        outputs = leaves(self._forward(self.whole, images))
        for name, one in outputs.items():
            if not isinstance(one, Tensor) or one.ndim < 2 or len(one) != len(images):
                found = f"{list(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
                raise BadInput(f"output {name}: {found}; expected a tensor [N, ...] with a row for each of N images")
        self._names = tuple(outputs)

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(leaves(self._forward(self.whole, images)).values())

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._names

    @property
    def task(self) -> Task:
        return FEATURES
