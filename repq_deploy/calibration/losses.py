"""The losses that a reconstruction can minimize: three measures of how far a unit is from the float model.

A unit is a run of consecutive stages. Its tokens are the output of its last stage before the head. The head's output is
the logits, or the features of a model without classes. Every squared error is divided by the mean square of what it is
compared with. No loss needs labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from repq_deploy.calibration.run import BATCH, forward_in_batches
from repq_deploy.errors import BadInput
from repq_deploy.models.sites import Stage, forward_through
from repq_deploy.tasks import FEATURES

__all__ = ["LOSSES", "Loss", "LossFactory"]

#: (outputs of every stage of the unit for some images, the indices of those images) -> a scalar.
Loss = Callable[[list[Tensor], Tensor], Tensor]

#: (the float model's stages of the unit, those after the unit, the unit's float inputs of all images, the device of the
#: models) -> its loss.
LossFactory = Callable[[Sequence[Stage], Sequence[Stage], Tensor, torch.device], Loss]


def _outputs(unit: Sequence[Stage], inputs: Tensor, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Tokens and the model's outputs of all images; None where the unit has none."""
    body, head = (unit[:-1], unit[-1:]) if unit[-1].is_head else (unit, [])
    tokens = forward_in_batches(body, inputs, device)
    logits = forward_in_batches(head, tokens, device) if head else None
    return tokens if body else None, logits


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).square().mean() / expected.square().mean()


def mse(unit: Sequence[Stage], suffix: Sequence[Stage], inputs: Tensor, device: torch.device) -> Loss:
    """Squared error of the unit's last output (BRECQ without its Fisher weights, QDrop)."""
    del suffix
    tokens, logits = _outputs(unit, inputs, device)
    targets = tokens if logits is None else logits
    assert targets is not None  # noqa: S101 - a unit ends in one of them
    return lambda outputs, chosen: _relative(outputs[-1], targets[chosen])


def feature(unit: Sequence[Stage], suffix: Sequence[Stage], inputs: Tensor, device: torch.device) -> Loss:
    """Squared error of the unit's tokens, plus the divergence of the logits that the float rest of the model gives.

    The idea is GLF-Q's (2026), which compares the penultimate feature in place of the logits; this loss does so too
    where the model has no classes.
    """
    tokens, final = _outputs(unit, inputs, device)
    if final is None:
        assert tokens is not None  # noqa: S101 - a unit ends in one of them
        final = forward_in_batches(suffix, tokens, device)
    task = (*unit, *suffix)[-1].task or FEATURES

    def measure(outputs: list[Tensor], chosen: Tensor) -> Tensor:
        total = task.distance(forward_through(suffix, outputs[-1]), final[chosen])
        if tokens is not None:
            total = total + _relative(outputs[-2] if unit[-1].is_head else outputs[-1], tokens[chosen])
        return total

    return measure


def fisher(unit: Sequence[Stage], suffix: Sequence[Stage], inputs: Tensor, device: torch.device) -> Loss:
    """Squared error of the unit's tokens, weighted by the diagonal of the Fisher information (BRECQ).

    The Fisher information's labels are drawn from the float model's own probabilities. A head is compared by ``mse``.

    Raises:
        BadInput: the model gives no probabilities.
    """
    task = (*unit, *suffix)[-1].task or FEATURES
    if not task.decides:
        raise BadInput(
            f"loss fisher: this model ends in {task.outputs}, expected classes; choose the loss mse or feature"
        )
    tokens, _ = _outputs(unit, inputs, device)
    if tokens is None or unit[-1].is_head:
        return mse(unit, suffix, inputs, device)
    generator = torch.Generator().manual_seed(0)
    weights = torch.zeros_like(tokens[0])
    with torch.enable_grad():
        for x in tokens.split(BATCH):
            leaf = x.clone().requires_grad_()
            likelihood = task.likelihood(forward_through(suffix, leaf), generator)
            assert likelihood is not None  # noqa: S101 - the task decides
            (gradient,) = torch.autograd.grad(likelihood, leaf)
            weights += gradient.square().sum(0)
    weights /= weights.mean()
    size = (tokens.square() * weights).mean()
    return lambda outputs, chosen: ((outputs[-1] - tokens[chosen]).square() * weights).mean() / size


LOSSES: dict[str, LossFactory] = {"mse": mse, "fisher": fisher, "feature": feature}
